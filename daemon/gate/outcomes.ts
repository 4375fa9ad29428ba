import type { Log } from '../log/log.ts';
import type { Uplink } from '../ports.ts';
import type { Alerts, ClockAlert, UsageAlert } from './alerts.ts';
import type { Announcer } from './announcements.ts';
import type { Devices } from './devices.ts';
import type { LiveFeed } from './live-feed.ts';
import type { Loop } from './loop.ts';
import type { ActiveAlert } from './outcome.ts';
import { causeOf, type Report } from './outcome.ts';
import type { Outputs } from './outputs.ts';
import type { Decisions } from './pending-decisions.ts';
import type { PendingEntries } from './pending-entries.ts';
import type { GateStats } from './stats.ts';
import type { StoreSupervisor } from './store-supervisor.ts';

export interface OutcomeParts {
  readonly alerts: Alerts;
  readonly announcer: Announcer;
  readonly clockAlert: ClockAlert;
  readonly usageAlert: UsageAlert;
  readonly decisions: Decisions;
  readonly devices: Devices;
  readonly liveFeed: LiveFeed;
  readonly log: Log;
  readonly loop: Loop;
  readonly outputs: Outputs;
  readonly pendingEntries: PendingEntries;
  readonly stats: GateStats;
  readonly storeSupervisor: StoreSupervisor;
  readonly uplink: Pick<Uplink, 'kick'>;
  /** The gate's own: a drain has ended. */
  readonly onIdle: () => void;
}

/** Returns the handler of every outcome. */
export function createOutcomeHandler(parts: OutcomeParts): Report {
  const { alerts, announcer, clockAlert, usageAlert, decisions, devices, liveFeed, log, loop, outputs, pendingEntries, stats, storeSupervisor, uplink } = parts;

  function onAlertChanged({ id, severity, message }: ActiveAlert, active: boolean): void {
    announcer.event('alert', active ? severity : 'info', { alert: id, active: active ? 1 : 0, message });
    log.info(active ? 'alert raised' : 'alert cleared', { alert: id, severity, detail: message });
    liveFeed.changed();
  }

  return function handle(outcome) {
    switch (outcome.kind) {
      case 'lane_input':
        return loop.dispatch(outcome.input, outcome.atMs);
      case 'lane_idle':
        return parts.onIdle();
      case 'tick':
        outputs.retryFailed();
        devices.poll();
        storeSupervisor.poll();
        usageAlert.poll(outcome.nowMs, storeSupervisor.status()?.usageComplete ?? null);
        return clockAlert.poll(outcome.nowMs);
      case 'code_arriving':
        return decisions.codeArriving();
      case 'code_read':
        return loop.dispatch(decisions.present(outcome.frame));
      case 'decision':
        devices.readers.decided(outcome.presentation.reader, outcome.decision.verdict.kind === 'refusal' && outcome.decision.verdict.reason === 'invalid');
        if (outcome.decision.verdict.kind === 'grant' && outcome.decision.verdict.flags.includes('usage_lost')) usageAlert.admitted();
        return announcer.decided(outcome.decision, outcome.presentation, outcome.latencyUs);
      case 'exit_committed':
        return pendingEntries.exitCommitted(outcome.exit, outcome.row, outcome.unmatched);
      case 'exit_undecided':
        return pendingEntries.exitUndecided(outcome.exit);
      case 'entry':
        return void pendingEntries.add(outcome.note);
      case 'entry_committed':
        storeSupervisor.markHealthy();
        return announcer.entryCommitted(outcome.note, outcome.row);
      case 'store_opened':
        stats.continueFrom(outcome.status.totals);
        return pendingEntries.start();
      case 'store_status':
        return announcer.conflicts(outcome.status.conflicts?.newest ?? []);
      case 'store_failed':
        return storeSupervisor.onError(outcome.error);
      case 'store_healthy':
        return storeSupervisor.markHealthy();
      case 'backlog':
        return storeSupervisor.backlog(outcome.rows);
      case 'rows_resent':
        return uplink.kick(true);
      case 'board_fault':
        return devices.boardFailed(outcome.fault);
      case 'output_failed':
        return devices.boardFailed({
          operation: `write ${outcome.output}`,
          cause: causeOf(outcome.error),
          hint: 'see stile-gate doctor',
          healsItself: true,
        });
      case 'raise':
        return alerts.raise(outcome.alert, outcome.severity, outcome.message);
      case 'clear':
        return alerts.clear(outcome.alert);
      case 'alert_changed':
        return onAlertChanged(outcome.alert, outcome.active);
      case 'decision_shown':
        return liveFeed.decided(outcome.decision);
      case 'conflict':
        return liveFeed.conflict(outcome.conflict);
      case 'subscriber_failed':
        return log.warn('publish to a subscriber failed: it is removed', { cause: causeOf(outcome.error) });
      case 'view_changed':
        return liveFeed.changed();
    }
  };
}
