/**
 * The decider of a simulated gate: the product's decider core on real SQLite, called in order as its worker would, with a disk that takes its
 * time, stalls or fails. What was committed is told to the watcher at once: that is the moment that counts.
 */
import type { LedgerVector, RowPosition } from '../../contract/ids.ts';
import type { GateClock } from '../../daemon/clock/clock.ts';
import { openDeciderEngine } from '../../daemon/decider/decider.ts';
import type { DeciderEngine } from '../../daemon/decider/engine.ts';
import type { Decider, DeciderStatus, Decision, Note, Presentation } from '../../daemon/ports.ts';
import { dropHandles } from './power.ts';
import type { Owner } from './scheduler.ts';
import type { World } from './types.ts';

/** One call's way through the worker and the disk, ms. */
const CALL_MS = [0.3, 2] as const;
/** Back to the loop, ms. */
const REPLY_MS = [0.1, 1] as const;
/** Nobody called for so long: the worker tidies up. */
const QUIET_MS = 5_000;
const MAX_IDLE_STEPS = 20;

export interface DiskState {
  /** Every commit takes so much longer. */
  stallMs: number;
  fails: boolean;
}

export interface DeskWatcher {
  /** A decision is in the ledger; nobody knows yet. */
  decided(presentation: Presentation, decision: Decision, known: LedgerVector): void;
  noted(note: Note, row: RowPosition): void;
  /** `since`: the life of the database that acknowledged; undefined: the acknowledgement does not say. */
  acknowledged(core: DeciderEngine, backlog: number, since: string | undefined): void;
  /** A peer's message was taken in. */
  heard(payload: Uint8Array): void;
}

export interface SimDesk extends Decider {
  readonly core: () => DeciderEngine | null;
  /** The process is gone: gives the files' handles back without a trace in what was copied before. */
  drop(): void;
}

const FAULT = {
  operation: 'write to the ledger',
  cause: 'the disk reports an input or output error (SQLITE_IOERR)',
  hint: 'Check the card.',
  healsItself: true,
};
const fault = (): Error => Object.assign(new Error(FAULT.cause), { fault: FAULT });

export function createSimDesk(options: {
  readonly world: World;
  readonly gate: string;
  readonly path: string;
  readonly clock: GateClock;
  readonly owner: Owner;
  readonly disk: DiskState;
  readonly watcher: DeskWatcher;
  /** A planted fault in the port. */
  readonly planted: (presentation: Presentation) => void;
}): SimDesk {
  const { world, gate, path, clock, owner, disk, watcher } = options;
  const { scheduler, random, mutant } = world;
  let core: DeciderEngine | null = null;
  let opening: Promise<DeciderEngine> | null = null;
  let busyMs = 0;
  let nextId = 1;
  let nothingAfter: string | null = null;
  const most = new Map<number, number>();
  let idle: { cancel(): void } | null = null;
  const ids = new WeakMap<Presentation, number>();

  const stamp = () => ({ boottimeMs: clock.boottimeMs(), wallMs: clock.wallMs(), bootId: clock.bootId, offset: clock.offset(), trusted: clock.trusted() });
  const maybeCheckpoint = (): void => {
    try {
      nothingAfter = null;
      for (let step = 0; step < MAX_IDLE_STEPS && core?.idle(stamp(), true) === true; step++);
    } catch (error) {
      world.violated('I8', `${gate}: tidying up failed: ${(error as Error).message}`);
    }
  };
  const call = <T>(work: (opened: DeciderEngine) => T, commits: boolean): Promise<T> =>
    new Promise((resolve, reject) => {
      const at = stamp();
      const takesMs = CALL_MS[0] + random.next() * (CALL_MS[1] - CALL_MS[0]) + (commits ? disk.stallMs : 0);
      busyMs = Math.max(busyMs, scheduler.nowMs()) + takesMs;
      scheduler.after(busyMs - scheduler.nowMs(), owner, () => {
        let answer: () => void;
        try {
          if (core === null || (commits && disk.fails)) throw fault();
          latest = at;
          if (commits) nothingAfter = null;
          const value = work(core);
          answer = () => resolve(value);
        } catch (error) {
          answer = () => reject(error as Error);
        }
        scheduler.after(REPLY_MS[0] + random.next() * (REPLY_MS[1] - REPLY_MS[0]), owner, answer);
        idle?.cancel();
        idle = scheduler.after(QUIET_MS, owner, maybeCheckpoint);
      });
    });
  let latest = stamp();
  let held: DeciderStatus | null = null;

  return {
    core: () => core,
    drop() {
      const wasOpen = core !== null;
      core = null;
      if (wasOpen || opening === null) dropHandles(path);
      else scheduler.waitFor(opening.finally(() => dropHandles(path)));
    },
    open: () =>
      new Promise((resolve, reject) => {
        if (disk.fails) {
          scheduler.after(1, owner, () => reject(fault()));
          return;
        }
        const at = stamp();
        opening = openDeciderEngine({ path, gate, verifyKeys: [world.fixture.signer.publicKey], release: 'sim', notice: () => {} }, at);
        scheduler.waitFor(opening);
        opening.then(
          (opened) => {
            if (!owner.alive) return;
            core = opened;
            const status = opened.status(at);
            if (status.lastRowMs != null) clock.raiseFloor(status.lastRowMs);
            scheduler.after(2, owner, () => resolve(status));
          },
          (error: Error) => scheduler.after(1, owner, () => reject(error)),
        );
      }),
    close: async () => {
      core?.close();
      core = null;
    },
    decide(presentation) {
      const id = nextId++;
      ids.set(presentation, id);
      options.planted(presentation);
      if (mutant === 'disk-error-admits' && disk.fails) {
        const verdict = { kind: 'grant', type: 'first_entry', direction: presentation.direction, units: 1, flags: [], lastEntryMs: null, vip: false } as const;
        const stages = { lookup_us: 0, decision_us: 0, commit_us: 0 };
        return Promise.resolve({ verdict, row: [1, 1] as const, eventId: null, ticketId: null, ticketRef: null, medium: 'opaque', stages });
      }
      return call((opened) => {
        const known = opened.vector();
        const decision = opened.decide(id, presentation, latest, () => 0);
        if ('ask' in decision) throw new Error('nobody may be asked here');
        watcher.decided(presentation, decision, known);
        return decision;
      }, true);
    },
    abandon(presentation) {
      const id = ids.get(presentation);
      if (id !== undefined) call((opened) => opened.abandon(id, latest), true).catch(() => undefined);
    },
    record(note) {
      if (mutant === 'return-forgotten' && note.kind === 'passage' && note.outcome === 'returned') return Promise.resolve([1, 1] as const);
      return call((opened) => {
        const row = opened.record(note, latest);
        watcher.noted(note, row);
        return row;
      }, true);
    },
    setFireLatch: (latched) => call((opened) => opened.setFireLatch(latched), true),
    rememberTransaction: (transaction, untilMs) => call((opened) => opened.rememberTransaction(transaction, untilMs, latest), true),
    nextBatch: (after) => {
      const place = String(after);
      return call((opened) => {
        // The outbox asks after every kick: where nothing was written or acknowledged since, the answer is the same.
        if (nothingAfter === place) return null;
        const batch = opened.nextBatch(after);
        nothingAfter = batch === null ? place : null;
        return batch;
      }, false);
    },
    acknowledge: (ack) =>
      call((opened) => {
        let given = ack;
        if (mutant === 'sequence-reused-after-restore') {
          const { epoch, lastSeq } = opened.status(latest);
          given = { ...ack, epochs: ack.epochs.filter((one) => one.epoch < epoch || (one.epoch === epoch && one.upto_seq <= lastSeq)) };
        }
        if (mutant === 'ack-by-number')
          given = { ...given, epochs: given.epochs.map(({ hash: _hash, last: _last, ...rest }) => ({ ...rest, last: rest.upto_seq })) };
        // Once acknowledged is acknowledged for good.
        if (mutant === 'resend-only-kicks') {
          for (const one of given.epochs) most.set(one.epoch, Math.max(most.get(one.epoch) ?? 0, one.upto_seq));
          const kept = (one: (typeof given.epochs)[number]) =>
            one.upto_seq < (most.get(one.epoch) ?? 0) ? { ...one, upto_seq: most.get(one.epoch) as number, hash: null, missing: [] } : one;
          given = { ...given, since: 'for ever', epochs: given.epochs.map(kept) };
        }
        const answer = opened.acknowledge(given, latest);
        nothingAfter = null;
        if (answer.ahead) held = null;
        watcher.acknowledged(opened, answer.backlog, ack.since);
        return answer;
      }, false),
    resend: (from) => call((opened) => opened.resend(from), true),
    applyPeer: (message) =>
      call((opened) => {
        if (mutant === 'no-peer-rows') return { applied: 0, gap: false };
        const answer = opened.applyPeer(message);
        watcher.heard(message.payload);
        if (answer.gap) held = null;
        return mutant === 'gap-ignored' ? { ...answer, gap: false } : answer;
      }, false),
    vector: () => call((opened) => opened.vector(), false),
    caughtUp: () =>
      call((opened) => {
        held = null;
        opened.caughtUp();
      }, false),
    async installManifest(file, wanted) {
      await call(() => undefined, false);
      if (core === null) throw fault();
      held = null;
      const installing = core.installManifest(file, wanted, stamp());
      scheduler.waitFor(installing);
      return installing;
    },
    applyOverlay: (payload) =>
      call((opened) => {
        const answer = opened.applyOverlay(payload, latest);
        if (answer.ok || mutant === null) return answer;
        if ((mutant === 'overlay-goes-back' && answer.why === 'not_newer') || (mutant === 'stranger-signs' && answer.why !== 'not_newer')) {
          // As if nobody looked at the version, or at the signature: the same content, made to pass.
          const { tickets, ...rest } = JSON.parse(Buffer.from(payload).toString('utf8')) as Record<string, unknown>;
          const held = opened.status(latest).manifests[0]?.overlayVersion ?? 1;
          const { signature: _signature, ...bare } = rest;
          const made = world.fixture.signer.sign({ ...bare, tickets, from_version: held, to_version: held + 1, key_id: world.fixture.signer.publicKey.key_id });
          return opened.applyOverlay(Buffer.from(JSON.stringify(made)), latest);
        }
        return answer;
      }, true),
    want: (payload) => call((opened) => opened.want(payload, latest), false),
    status: () =>
      call((opened) => {
        // Asked for every few seconds: answered again from memory while the files and what is known of peers are as they were.
        held ??= opened.status(latest);
        return held;
      }, false),
    rows: (after, limit) => call((opened) => opened.rows(after, limit), false),
  };
}
