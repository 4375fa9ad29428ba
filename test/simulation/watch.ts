/** What is seen of a gate while the history runs, and what can be judged at once: I1, I2, I4, I6, I8. */
import { identityKey } from '../../contract/identity.ts';
import type { Direction, LedgerVector, RowPosition } from '../../contract/ids.ts';
import type { DeciderEngine } from '../../daemon/decider/engine.ts';
import type { Decision, Presentation } from '../../daemon/ports.ts';
import { atOf, messageOf } from './cloud-api.ts';
import { type AccountPolicy, type AccountTicket, excessOf, grantsOf, newReplay, type Row, take } from './counts.ts';
import type { GateWatcher, SimGate } from './gate.ts';
import type { Registry } from './registry.ts';
import type { World } from './types.ts';

/** Refusals that say that the ticket is used up. */
const USED_UP: ReadonlySet<string> = new Set(['already_redeemed', 'max_entries', 'already_inside', 'passback']);
const READ_ROWS = 500;
const NOWHEN = { boottimeMs: 0, wallMs: 0, bootId: '', offset: null, trusted: true } as const;

export interface Seen {
  /** Every row of this gate that anybody was shown, by a decision, a note's answer or a message: `epoch seq` → hash, null where only the place is known. */
  readonly shown: ReadonlyMap<string, string | null>;
  /** Places of rows that cards which were taken out had written. */
  readonly former: ReadonlySet<string>;
  readonly watcher: GateWatcher;
  /** A guest pressed the staff button: it opens at once, and its row follows. */
  pressed(): void;
  /** In this life an acknowledgement has come: the gate knows whether the cloud has rows that its card has not. */
  heardOfCloud(): boolean;
  /** This card was given that row of another ledger. */
  heard(ledger: string, epoch: number, seq: number): boolean;
  readonly counts: { grants: number; refusals: number; releases: number };
}

export function watchGate(world: World, registry: Registry, gate: SimGate, policy: AccountPolicy): Seen {
  const { scheduler, cloud } = world;
  let allowed: Record<Direction, number> = { in: 0, out: 0 };
  let given: Record<Direction, number> = { in: 0, out: 0 };
  let presses = 0;
  let acknowledged = false;
  const counts = { grants: 0, refusals: 0, releases: 0 };
  const shown = new Map<string, string | null>();
  const former = new Set<string>();
  /** Shown, and not yet known to be in the cloud. */
  const waiting = new Set<string>();
  const wentBack = (): boolean => cloud.restored > 0 || world.backs.size > 0;
  /** This store's own rows, read as they come. */
  let own = new Map<string, Row>();
  /** The same, by ticket. */
  let ownOf = new Map<unknown, Row[]>();
  let last: RowPosition | null = null;
  /** Peers' rows that this card was ever given. */
  let heard = new Set<string>();

  const show = (key: string, hash: string | null): void => {
    const before = shown.get(key);
    if (before != null && hash !== null && before !== hash) world.violated('I1', `${gate.name} shows row ${key} with another hash than before`);
    if (before === undefined) waiting.add(key);
    if (before == null) shown.set(key, hash);
  };
  const readOwn = (core: DeciderEngine): void => {
    for (;;) {
      const rows = core.rows(last, READ_ROWS);
      for (const { epoch, entry } of rows) {
        const row: Row = { gate: gate.name, epoch, seq: entry.seq, hash: entry.hash, entry };
        own.set(`${epoch} ${entry.seq}`, row);
        const ofTicket = ownOf.get(entry['ticket_ref']) ?? [];
        if (ofTicket.push(row) === 1) ownOf.set(entry['ticket_ref'], ofTicket);
        last = [epoch, entry.seq];
      }
      if (rows.length < READ_ROWS) return;
    }
  };
  /**
   * Returns the facts about a ticket in the rows that this gate had applied: its own, and of each other ledger the part that the decider knows.
   * `above`: with those beyond a hole, which count at once; a restart may have forgotten some of them.
   */
  const knownOf = (ticketRef: string, known: LedgerVector, which: 'prefix' | 'all' | 'heard'): Row[] => {
    const above = which !== 'prefix';
    const rows = [...(ownOf.get(ticketRef) ?? [])];
    // A passage tells of its grant, whether the grant's own row has come or not: up to the unit that it names, not how many there are in all.
    const told = new Map<string, number>();
    for (const { gate: ledger, epoch, seq, hash, entry } of above ? registry.ofTicket(ticketRef) : [])
      if (heard.has(`${ledger} ${epoch} ${seq} ${hash}`) && entry['kind'] === 'passage' && Array.isArray(entry['of'])) {
        const place = `${ledger} ${entry['of'].slice(0, 2).join(' ')}`;
        told.set(place, Math.max(told.get(place) ?? 0, Number(entry['unit'] ?? 1)));
      }
    for (const row of registry.ofTicket(ticketRef)) {
      if (row.gate === gate.name && own.get(`${row.epoch} ${row.seq}`)?.hash === row.hash) continue;
      const at = known[row.gate];
      const inPrefix = at !== undefined && (row.epoch < at[0] || (row.epoch === at[0] && row.seq <= at[1]));
      if ((inPrefix && which !== 'heard') || (above && heard.has(`${row.gate} ${row.epoch} ${row.seq} ${row.hash}`))) {
        rows.push(row);
        continue;
      }
      const units = above ? told.get(`${row.gate} ${row.epoch} ${row.seq}`) : undefined;
      if (units !== undefined) rows.push({ ...row, entry: { ...row.entry, units: Math.min(units, Number(row.entry['units'] ?? 1)) } });
    }
    return rows;
  };
  /** Fire opens whatever was granted: such edges are nobody's. */
  const isFree = (): boolean => {
    const state = gate.life()?.gate.state();
    return state === undefined || state.fire.latched || state.in.mode !== 'controlled' || state.out.mode !== 'controlled';
  };

  const decided = (presentation: Presentation, { verdict, row, ticketRef, ticketId }: Decision, known: LedgerVector): void => {
    const core = gate.life()?.decider.core();
    show(row.join(' '), null);
    if (verdict.kind === 'grant') {
      counts.grants += 1;
      allowed[presentation.direction] += verdict.units;
    } else if (presentation.opened !== true) counts.refusals += 1;
    world.trace.add(scheduler.nowMs(), `${gate.name} decides ${row.join('/')} ${verdict.kind === 'grant' ? verdict.type : verdict.reason} ${ticketId ?? ''}`);
    // Who was let out without an admission is nobody's use of a right.
    if (core == null || ticketId === null || ticketRef === null || (presentation.opened === true && verdict.kind === 'refusal')) return;
    // A ticket that nobody has admitted before, and rights that never changed: nothing can be wrong with it.
    const isFirst = verdict.kind === 'grant' && !registry.isUsed(ticketRef) && cloud.version === 1;
    if (verdict.kind === 'grant') registry.use(ticketRef);
    if (isFirst) return;
    if (verdict.kind === 'refusal' && (!USED_UP.has(verdict.reason) || !core.status(NOWHEN).usageComplete)) return;
    readOwn(core);
    const written = own.get(row.join(' '));
    if (written === undefined) return world.violated('I1', `${gate.name} decided ${row.join('/')}, and the row is not in its ledger`);
    // A refusal's row does not say by which rights: those that the gate has, which may be cut off from newer ones.
    const version = Number(written.entry['manifest_version'] ?? core.status(NOWHEN).manifests[0]?.overlayVersion ?? cloud.version);
    const right = cloud.rightAt(ticketId, version);
    if (right === null || (verdict.kind === 'grant' && presentation.direction === 'in' && right.status !== 'valid'))
      return world.violated('I4', `${gate.name} admitted ${ticketId} by version ${version}, where it is ${right?.status ?? 'not sold'}`);
    if (verdict.kind === 'grant' && presentation.direction === 'out') return;
    judge(presentation.direction, verdict.kind === 'grant', { ticketId, units: right.units, vip: right.vip, maxScans: right.max_scans }, written, known);
  };

  /** I4: by the rows that the gate had applied, the ticket had a right left; or had none, where it was refused for that. */
  const judge = (direction: Direction, isGranted: boolean, ticket: AccountTicket, written: Row, known: LedgerVector): void => {
    // Where two lives of a store share numbers, a vector does not say which of them is meant.
    const causes = (['prefix', 'all', ...(wentBack() ? (['heard'] as const) : [])] as const).map((which) =>
      causeBy(knownOf(String(written.entry['ticket_ref']), known, which), direction, ticket, written),
    );
    const place = `${written.epoch}/${written.seq}`;
    if (isGranted && causes.every((cause) => cause !== null && USED_UP.has(cause)))
      world.violated('I4', `${gate.name} admitted ${ticket.ticketId} as ${place}: by what it knew, ${causes[0]}`);
    if (!isGranted && causes.every((cause) => cause === null))
      world.violated('I4', `${gate.name} refused ${ticket.ticketId} as used up (${place}): by what it knew, it had a right left`);
  };
  const causeBy = (rows: readonly Row[], direction: Direction, ticket: AccountTicket, written: Row): string | null => {
    const grants = grantsOf(rows)
      .filter((grant) => grant.used > 0 && !(grant.gate === gate.name && grant.epoch === written.epoch && grant.seq === written.seq))
      .sort((a, b) => atOf(a.entry) - atOf(b.entry) || (a.gate < b.gate ? -1 : a.gate > b.gate ? 1 : 0) || a.epoch - b.epoch || a.seq - b.seq);
    const replay = newReplay();
    // A gate counts what happened, within its right or not.
    for (const grant of grants) take(replay, { ...grant, atMs: atOf(grant.entry) }, ticket);
    return excessOf(replay, { gate: gate.name, direction, used: 1, atMs: atOf(written.entry) }, ticket, policy);
  };

  return {
    shown,
    former,
    counts,
    heardOfCloud: () => acknowledged,
    heard: (ledger, epoch, seq) => heard.has(`${ledger} ${epoch} ${seq} ${cloud.has(ledger, epoch, seq)}`),
    pressed() {
      presses += 1;
    },
    watcher: {
      started() {
        allowed = { in: 0, out: 0 };
        given = { in: 0, out: 0 };
        presses = 0;
        acknowledged = false;
        own = new Map();
        ownOf = new Map();
        last = null;
      },
      decided,
      noted(note, row) {
        show(row.join(' '), null);
        world.trace.add(scheduler.nowMs(), `${gate.name} notes ${row.join('/')} ${note.kind} ${note.kind === 'passage' ? note.outcome : ''}`);
      },
      released(direction) {
        if (isFree()) return;
        counts.releases += 1;
        // Out is never refused: its row follows.
        if (direction === 'out') return;
        given[direction] += 1;
        if (given[direction] > allowed[direction] + presses)
          world.violated(
            gate.disk.fails ? 'I8' : 'I2',
            `${gate.name} released ${direction} ${given[direction]} times in a life in which ${allowed[direction]} units were committed`,
          );
      },
      ledgerSent(payload) {
        const message = messageOf(payload);
        for (const entry of message.entries) {
          show(`${message.epoch} ${entry.seq}`, entry.hash);
          registry.add({ gate: gate.name, epoch: message.epoch, seq: entry.seq, hash: entry.hash, entry });
        }
      },
      exchanged(kept) {
        heard = new Set();
        for (const key of [...shown.keys()]) {
          const [epoch, seq] = key.split(' ').map(Number) as [number, number];
          former.add(key);
          if (kept !== null && (epoch < kept[0] || (epoch === kept[0] && seq <= kept[1]))) continue;
          shown.delete(key);
          waiting.delete(key);
        }
      },
      heard(payload) {
        const { gate: ledger, epoch, entries } = messageOf(payload);
        for (const { seq, hash } of entries) heard.add(`${ledger} ${epoch} ${seq} ${hash}`);
      },
      acknowledged(core, backlog, since) {
        acknowledged = true;
        // One that was under way when the database was put back is true of the database that was. The rows stay in `waiting`: the next acknowledgement of
        // the present one is judged by them, and at the end each of them has to be in the cloud (I1).
        if (since !== cloud.since) return;
        // I6: what the outbox has let go is in the cloud. Mostly there is one epoch, and its backlog says how far it has let go.
        const missing: [string, number, number][] = [];
        for (const key of waiting) {
          const [epoch, seq] = key.split(' ').map(Number) as [number, number];
          const hash = shown.get(key) ?? null;
          const isThere =
            cloud.has(gate.name, epoch, seq) !== null || (hash !== null && cloud.counted().has(identityKey({ ledger: gate.name, epoch, seq, hash })));
          // Rows of closed epochs wait to be sent again under another one.
          if (!isThere && wentBack() && epoch < core.status(NOWHEN).epoch) continue;
          if (!isThere) missing.push([key, epoch, seq]);
          else waiting.delete(key);
        }
        if (missing.length === 0 || backlog >= missing.length) return;
        const next = core.nextBatch(null);
        for (const [key, epoch, seq] of missing) {
          if (next !== null && (epoch > next.epoch || (epoch === next.epoch && seq >= next.fromSeq))) continue;
          world.violated('I6', `${gate.name} let row ${key} go, and the cloud has not committed it`);
          waiting.delete(key);
        }
      },
    },
  };
}
