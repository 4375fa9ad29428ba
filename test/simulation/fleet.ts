/** A fleet and what befalls it: one world for HISTORIES_A_FLEET histories, each with tickets of its own, each ended by healing, quiet and the checks. */
import { rmSync } from 'node:fs';
import type { RowPosition } from '../../contract/ids.ts';
import { makeOverlay } from '../../daemon/decider/testing/store.ts';
import type { GateSnapshot } from '../../daemon/gate/live-feed.ts';
import { effectivePolicy } from '../../rules/policy.ts';
import { randomOf } from '../../testkit/prng.ts';
import { createBroker } from './broker.ts';
import { beginChecks, checkEnd, metBy } from './check.ts';
import { createCloud } from './cloud.ts';
import type { Cloud } from './cloud-api.ts';
import type { AccountPolicy } from './counts.ts';
import { BASE_MS, codeOf, copyStore, type Fixture, GATES, POLICIES, ticketOf } from './fixture.ts';
import { createSimGate, type Life, type SimGate } from './gate.ts';
import { type FleetPlan, STEPS_MS, type Step } from './plan.ts';
import { createRegistry } from './registry.ts';
import { createScheduler } from './scheduler.ts';
import { createTrace, type Invariant, type MutantName, type Violation, type World } from './types.ts';
import { type Seen, watchGate } from './watch.ts';

/** After healing, all must be quiet within so long: two heartbeats, and the longest wait before a gate connects again. */
const QUIET_WITHIN_MS = 150_000;
const LOOK_EVERY_MS = 1_500;
const FIRE_OPENS_MS = 400;
const FIRE_GAP_MS = 150;
/** Until the last guests are through, or told no. */
const GUESTS_GONE_MS = 9_000;
/** The first connection of a new fleet. */
const SETTLE_MS = 3_000;
/** So often a gate gets another card in the life of a fleet. */
const MAX_EXCHANGES = 3;

/** A copy of a card, and its last row. */
interface Image {
  readonly folder: string;
  readonly last: RowPosition;
}

export interface HistoryResult {
  readonly violations: readonly Violation[];
  readonly traceHash: string;
  readonly lines: readonly string[];
  readonly counts: { readonly grants: number; readonly refusals: number; readonly releases: number; readonly lives: number };
}

export interface Fleet {
  readonly cloud: Cloud;
  readonly policy: AccountPolicy;
  /** Lives through one history. Ends in quiet, or with a violation. `last`: no other follows, so verdicts are checked as well. */
  live(steps: readonly Step[], last: boolean): Promise<HistoryResult>;
  /** Verdicts, outcomes and epochs so far, for people. */
  met(): Readonly<Record<string, number>>;
  /** Gives back files and handles. */
  end(): Promise<void>;
}

export interface FleetOptions {
  readonly fixture: Fixture;
  readonly seed: number;
  readonly plan: FleetPlan;
  readonly mutant: MutantName | null;
  readonly keepTrace: boolean;
}

export async function startFleet({ fixture, seed, plan, mutant, keepTrace }: FleetOptions): Promise<Fleet> {
  const scheduler = createScheduler();
  const random = randomOf(seed, 'run', plan.fleet);
  const trace = createTrace(keepTrace);
  const violations: Violation[] = [];
  const names = GATES.slice(0, plan.gates);
  const registry = createRegistry();
  const violated = (invariant: Invariant, what: string): void => {
    violations.push({ invariant, what, atMs: scheduler.nowMs() });
    trace.add(scheduler.nowMs(), `VIOLATED ${invariant}: ${what}`);
  };
  const broker = createBroker(scheduler, random, plan.network, (what) => trace.add(scheduler.nowMs(), what));
  const cloud: Cloud = createCloud(() => world, names, registry);
  const world: World = { fixture, scheduler, random, policy: plan.policy, mutant, broker, cloud, trace, violated, violations, backs: new Map() };
  const policy = accountPolicy(plan.policy);
  const folders: string[] = [];
  const seen = new Map<string, Seen>();
  const gates: SimGate[] = [];
  const images = new Map<string, Image>();
  await cloud.start();
  for (const [index, name] of names.entries()) {
    const path = await fixture.store(name, plan.policy);
    const gate = createSimGate(world, name, path, (made) => {
      const watch = watchGate(world, registry, made, policy);
      seen.set(name, watch);
      return watch.watcher;
    });
    Object.assign(gate.oscillator, plan.clocks[index]);
    gates.push(gate);
    gate.start();
  }
  await scheduler.runUntil(SETTLE_MS);

  const ending = beginChecks({ world, gates, seen, policy });
  const healers: (() => void)[] = [];
  /** Something is so for a while, or until everything is healed. */
  const forAWhile = (forMs: number, heal: () => void): void => {
    let done = false;
    const once = (): void => {
      if (done) return;
      done = true;
      heal();
    };
    healers.push(once);
    scheduler.after(forMs, null, once);
  };
  const stampNow = () => ({ boottimeMs: 0, wallMs: BASE_MS + scheduler.nowMs(), bootId: '', offset: null, trusted: true });
  /** Another card goes in at once, whatever only the old one knew: a new one, or a copy that was made before. */
  const exchange = (gate: SimGate, image: Image | null): void => {
    const times = world.backs.get(gate.name) ?? 0;
    // A store begins no further epoch after the third a day: then a person is called.
    if (gate.life() === null || times >= MAX_EXCHANGES) return;
    world.backs.set(gate.name, times + 1);
    gate.kill();
    const folder = fixture.folderFor(gate.name);
    if (image !== null) copyStore(image.folder, folder);
    gate.replaceCard(folder, image?.last ?? null);
    trace.add(scheduler.nowMs(), `${gate.name} gets ${image === null ? 'a new card' : 'an old card'}`);
    gate.start();
  };
  const copyCard = (gate: SimGate): void => {
    const core = gate.life()?.decider.core();
    if (core == null) return;
    const folder = fixture.folderFor(`image-${gate.name}`);
    copyStore(gate.path(), folder);
    folders.push(folder);
    const { epoch, lastSeq } = core.status(stampNow());
    images.set(gate.name, { folder, last: [epoch, lastSeq] });
  };

  const carryOut = (step: Step): void => {
    const gate = 'gate' in step ? gates[step.gate] : undefined;
    if ('gate' in step && gate === undefined) return;
    trace.add(scheduler.nowMs(), `step ${JSON.stringify(step)}`);
    const at = gate as SimGate;
    switch (step.do) {
      case 'show':
        return at.show(codeOf(step.ticket), step.direction, step.acts);
      case 'nonsense':
        return at.show('no such ticket at all, whatever it says', 'in', []);
      case 'push':
        return at.push('in');
      case 'press':
        if (at.life() === null) return;
        seen.get(at.name)?.pressed();
        return at.press();
      case 'kill':
      case 'power-cut':
        if (at.life() === null) return;
        if (step.do === 'kill') at.kill();
        else at.powerCut();
        return forAWhile(step.forMs, () => at.start());
      case 'cut':
        broker.cut(at.name, true);
        return forAWhile(step.forMs, () => broker.cut(at.name, false));
      case 'web-cut':
        at.webCut = true;
        return forAWhile(step.forMs, () => {
          at.webCut = false;
        });
      case 'stall':
        at.disk.stallMs = step.forMs;
        return forAWhile(step.forMs, () => {
          at.disk.stallMs = 0;
        });
      case 'disk-fails':
        at.disk.fails = true;
        return forAWhile(step.forMs, () => {
          at.disk.fails = false;
        });
      case 'fire':
        at.fire(true);
        if (at.life() !== null) expectOpen(at, at.life() as Life);
        return forAWhile(step.forMs, () => {
          at.fire(false);
          resetFire(at);
        });
      case 'clock':
        at.oscillator.wallErrorMs += step.byMs;
        return;
      case 'impostor':
        if (gates.length === 1) return;
        return broker.inject(`stile/1/${at.name}/ledger`, forgedRows(gates[(step.gate + 1) % gates.length]?.name ?? at.name), at.name);
      case 'forged-overlay':
        return broker.inject(`stile/1/${at.name}/overlay`, makeOverlay(fixture.stranger, cloud.version, cloud.version + 1, [ticketOf(5)]), 'cloud');
      case 'stale-overlay': {
        const old = cloud.published();
        const one = old[random.below(Math.max(1, old.length))];
        return one === undefined ? undefined : broker.inject(`stile/1/${at.name}/overlay`, one, 'cloud');
      }
      case 'new-card':
        return exchange(at, null);
      case 'old-card':
        return images.has(at.name) ? exchange(at, images.get(at.name) as Image) : undefined;
      case 'copy-card':
        return copyCard(at);
      case 'dump':
        return cloud.dump();
      case 'restore':
        if (!cloud.up) return;
        cloud.crash(step.forMs);
        return void cloud.restore(step.renewed);
      case 'broker-restart':
        if (!broker.up) return;
        broker.stop(step.keeps);
        return forAWhile(step.forMs, () => broker.start());
      case 'cloud-down':
        return cloud.crash(step.forMs);
      case 'rights':
        return cloud.change(step.ticket, step.change);
      case 'manifest':
        return cloud.buildManifest();
      case 'settle':
        return cloud.settle(step.pick, step.outcome);
    }
  };
  /** Looked at twice, because the release goes off for a moment before each new edge. */
  const expectOpen = (gate: SimGate, life: Life): void => {
    const isOpen = (): boolean => !gate.burns() || (gate.level('release_in') && gate.level('release_out'));
    scheduler.after(FIRE_OPENS_MS, life, () => {
      if (isOpen()) return;
      scheduler.after(FIRE_GAP_MS, life, () => {
        if (!isOpen()) violated('I8', `${gate.name} is not open ${FIRE_OPENS_MS} ms into a fire`);
      });
    });
  };
  const resetFire = (gate: SimGate): void => {
    const reset = (): void => {
      const life = gate.life();
      const state = life?.gate.state();
      if (state?.fire.latched === false && state.decider !== null) return;
      // A process that was away finds its latch on the disk.
      void life?.gate.command({ command: 'reset-emergency', actor: 'staff-1', reason: 'over' });
      scheduler.after(500, null, reset);
    };
    scheduler.after(50, null, reset);
  };

  const isBusy = (view: GateSnapshot['in']): boolean => view.signal !== 'ready' || view.grant !== null;
  const isQuiet = (): boolean => gates.every((gate) => gateIsQuiet(gate)) && cloud.up;
  const gateIsQuiet = (gate: SimGate): boolean => {
    const life = gate.life();
    const core = life?.decider.core();
    if (life === null || core == null || !life.uplink.online() || life.uplink.inFlight() > 0) return false;
    const state = life.gate.state();
    if (state.fire.latched || state.pendingEntryCount > 0 || isBusy(state.in) || isBusy(state.out)) return false;
    const known = core.vector();
    for (const [ledger, epochs] of cloud.ledgers) {
      const newest = Math.max(...epochs.keys());
      const at = known[ledger];
      if (at === undefined || at[0] < newest) return false;
      // What came before a hole was filled lies above the prefix until it is read again, and counts all the same.
      for (let seq = at[1] + 1; at[0] === newest && seq <= cloud.upto(ledger, newest); seq++)
        if (ledger === gate.name || seen.get(gate.name)?.heard(ledger, newest, seq) !== true) return false;
    }
    const status = core.status(stampNow());
    return status.backlog === 0 && status.usageComplete && status.manifests[0]?.overlayVersion === cloud.version;
  };
  const whyNotQuiet = (): string =>
    gates
      .map((gate) => {
        const core = gate.life()?.decider.core();
        const status = core?.status(stampNow());
        const state = gate.life()?.gate.state();
        return `${gate.name}: ${JSON.stringify({ life: gate.life() !== null, online: gate.life()?.uplink.online(), inFlight: gate.life()?.uplink.inFlight(), backlog: status?.backlog, complete: status?.usageComplete, version: status?.manifests[0]?.overlayVersion, wanted: cloud.version, signals: [state?.in.signal, state?.out.signal], pending: state?.pendingEntryCount, fire: state?.fire.latched, knows: core?.vector() })}`;
      })
      .join('; ');

  /** Somebody is in a lane, or its sensor is stuck: the button does nothing then. */
  const isUnderWay = (gate: SimGate): boolean => {
    const state = gate.life()?.gate.state();
    return state !== undefined && (isBusy(state.in) || isBusy(state.out));
  };

  const heal = async (): Promise<void> => {
    for (const healer of healers.splice(0)) healer();
    broker.calm(true);
    const admittedByMs = scheduler.nowMs() + QUIET_WITHIN_MS;
    await scheduler.runUntil(scheduler.nowMs() + GUESTS_GONE_MS);
    while (gates.some(isUnderWay) && scheduler.nowMs() < admittedByMs) await scheduler.runUntil(scheduler.nowMs() + LOOK_EVERY_MS);
    // Where messages are lost, a row more at every gate: whoever missed the last one sees that it is missing.
    for (const gate of plan.network.lost > 0 ? gates : []) {
      seen.get(gate.name)?.pressed();
      gate.press();
    }
    const untilMs = scheduler.nowMs() + QUIET_WITHIN_MS;
    let quiet: boolean;
    do await scheduler.runUntil(scheduler.nowMs() + LOOK_EVERY_MS);
    while (!(quiet = isQuiet()) && scheduler.nowMs() < untilMs && violations.length === 0);
    if (!quiet && violations.length === 0) violated('I5', `not quiet ${QUIET_WITHIN_MS / 1000} s after everything was healed: ${whyNotQuiet()}`);
  };

  return {
    cloud,
    policy,
    async live(steps, last) {
      const beganMs = scheduler.nowMs();
      broker.calm(false);
      for (const step of steps) {
        if (violations.length > 0) break;
        await scheduler.runUntil(beganMs + step.atMs);
        carryOut(step);
      }
      await scheduler.runUntil(Math.max(scheduler.nowMs(), beganMs + Math.min(STEPS_MS, (steps.at(-1)?.atMs ?? 0) + 500)));
      if (violations.length === 0) await heal();
      if (violations.length === 0) checkEnd(ending, last);
      if (last) for (const row of cloud.rows()) trace.add(0, `${row.gate} ${row.epoch} ${row.seq} ${row.hash}`);
      const counts = { grants: 0, refusals: 0, releases: 0, lives: 0 };
      for (const one of seen.values()) for (const key of ['grants', 'refusals', 'releases'] as const) counts[key] += one.counts[key];
      for (const gate of gates) counts.lives += gate.life()?.number ?? 0;
      return { violations: [...violations], traceHash: trace.digest(), lines: trace.lines ?? [], counts };
    },
    met: () => metBy(world, policy),
    async end() {
      for (const gate of gates) {
        gate.life()?.decider.drop();
        folders.push(...gate.folders);
      }
      await scheduler.settle();
      folders.push(...cloud.ownFiles());
      for (const folder of folders) rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Rows that this gate never wrote, by whoever has another gate's certificate. */
function forgedRows(gate: string): Uint8Array {
  const entries = [
    { seq: 9_001, kind: 'alarm', what: 'forged', detail: '', ts: new Date(BASE_MS).toISOString(), boot_id: 'x', boottime_ms: 1, hash: 'f'.repeat(64) },
  ];
  return Buffer.from(JSON.stringify({ schema: 1, gate, epoch: 99, tenant_id: '00000000-0000-4000-8000-000000000000', entries }));
}

/** Returns the part of the event's policy that the reference account needs, by the product's own merging of layers. */
export function accountPolicy(index: number): AccountPolicy {
  const policy = effectivePolicy(POLICIES[index] as never, 'standard', GATES[0] as string);
  return {
    duplicateWindowS: policy.duplicate_window_s,
    rule: policy.reentry.rule,
    minGapS: policy.reentry.min_gap_s,
    maxReentries: policy.reentry.max,
    countsAsEntry: policy.reentry.counts_as_entry,
    total: policy.entries.total,
    perGate: policy.entries.per_gate,
    hardPassback: policy.passback.mode === 'hard',
  };
}
