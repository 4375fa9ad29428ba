/** Carries out what a step of the lane asks for: the one place where the lane's effects meet the parts of the gate. */
import type { LaneEffect } from '../lane/types.ts';
import type { Announcer } from './announcements.ts';
import type { LaneTimers } from './loop.ts';
import type { Report } from './outcome.ts';
import type { Outputs } from './outputs.ts';
import type { Decisions } from './pending-decisions.ts';
import type { PendingEntries } from './pending-entries.ts';
import type { GateStats } from './stats.ts';
import type { StoreSupervisor } from './store-supervisor.ts';

export interface EffectParts {
  readonly announcer: Announcer;
  readonly decisions: Decisions;
  readonly laneTimers: LaneTimers;
  readonly outputs: Outputs;
  readonly pendingEntries: PendingEntries;
  readonly stats: GateStats;
  readonly storeSupervisor: StoreSupervisor;
  readonly report: Report;
}

/** Returns the function that carries out one effect. `stepMs`: the time of the step that asked for it. */
export function createEffects(parts: EffectParts): (effect: LaneEffect, stepMs: number) => void {
  const { announcer, decisions, laneTimers, outputs, pendingEntries, stats, storeSupervisor, report } = parts;

  return function carryOut(effect, stepMs) {
    switch (effect.kind) {
      case 'write':
        return outputs.write(effect.output, effect.active);
      case 'signal':
        return outputs.show(effect.direction, effect.signal);
      case 'set_timer':
        return laneTimers.set(effect.timer, effect.dueMs, stepMs);
      case 'cancel_timer':
        return laneTimers.cancel(effect.timer);
      case 'decide':
        return decisions.decide(effect.presentation, effect.direction, effect.mode, effect.exit);
      case 'expect':
        return pendingEntries.expect(effect.exit);
      case 'abandon':
        decisions.abandon(effect.presentation);
        if (effect.why === 'late') storeSupervisor.markFailed('the store has not answered in time');
        return;
      case 'drop':
        if (effect.shown !== 'gate_locked' && effect.shown !== 'see_staff') stats.notTaken(effect.shown);
        return decisions.drop(effect.presentation);
      case 'record':
        return void pendingEntries.add(effect.note, effect.override);
      case 'fire_latch':
        return storeSupervisor.persistFireLatch(effect.latched);
      case 'fire_kick':
        return announcer.event('fire_kick', 'info', { count: effect.count });
      case 'raise':
      case 'clear':
        return report(effect);
      case 'refused':
        return announcer.refusedLocally(effect.direction, effect.reason);
      case 'idle':
        return report({ kind: 'lane_idle' });
    }
  };
}
