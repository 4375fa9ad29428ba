/** What must be true once all is quiet: I1, I2, I3, I5, I7, I9, I10, over everything that was written so far. */
import { createHash } from 'node:crypto';
import { entryHash, firstPredecessor } from '../../contract/hash-chain.ts';
import { identityKey, identityOf, originalOf, readReference } from '../../contract/identity.ts';
import type { Direction } from '../../contract/ids.ts';
import { CLOUD_LEDGER } from './cloud-api.ts';
import { type AccountPolicy, accountOf, type Judged, type Row, rowKey } from './counts.ts';
import type { SimGate } from './gate.ts';
import type { World } from './types.ts';
import type { Seen } from './watch.ts';

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');
const READ_ROWS = 500;

export interface Checked {
  readonly world: World;
  readonly gates: readonly SimGate[];
  readonly seen: ReadonlyMap<string, Seen>;
  readonly policy: AccountPolicy;
}
/** The part of each ledger that earlier histories checked: the chain shows that it is unchanged. */
export interface Ending extends Checked {
  /** By gate and life: the last row of its card that was compared. */
  readonly compared: Map<string, Row>;
  /** By ledger and epoch: how far the cloud's chain was followed, and its hash there. */
  readonly followed: Map<string, { readonly seq: number; readonly hash: string }>;
  /** Restores of the cloud's database so far: each makes the looking begin anew. */
  restored: number;
}
export const beginChecks = (checked: Checked): Ending => ({ ...checked, compared: new Map(), followed: new Map(), restored: 0 });

/** `whole`: verdicts and order of all tickets as well. */
export function checkEnd(ending: Ending, whole: boolean): void {
  const { world, gates, seen } = ending;
  if (world.cloud.restored !== ending.restored) {
    ending.restored = world.cloud.restored;
    ending.compared.clear();
    ending.followed.clear();
  }
  for (const gate of gates) {
    checkOwn(ending, gate);
    checkShown(world, gate, seen.get(gate.name) as Seen);
    checkSender(world, gate, seen.get(gate.name) as Seen);
    checkOutcomes(world, gate);
    checkTruth(world, gate);
  }
  checkCloud(ending);
  checkOnce(world);
  if (whole) checkAccount(ending);
}

/** Returns the rows that the card holds after this one, in order. */
function rowsOf(gate: SimGate, after: Row | null): Row[] {
  const core = gate.life()?.decider.core();
  const rows: Row[] = [];
  for (;;) {
    const last = rows.at(-1) ?? after;
    const more = core?.rows(last === null ? null : [last.epoch, last.seq], READ_ROWS) ?? [];
    for (const { epoch, entry } of more) rows.push({ gate: gate.name, epoch, seq: entry.seq, hash: entry.hash, entry });
    if (more.length < READ_ROWS) return rows;
  }
}

/** I1: every row on the card is in the cloud, under its own key or as the `again` of it. I3: 1..n without a gap, each with the hash of the one before. */
function checkOwn({ world, compared }: Ending, gate: SimGate): void {
  const key = `${gate.name} ${gate.life()?.number}`;
  let before = compared.get(key) ?? null;
  for (const row of rowsOf(gate, before)) {
    const follows = before !== null && before.epoch === row.epoch ? before.seq + 1 : 1;
    if (row.seq !== follows) world.violated('I3', `${gate.name}: row ${row.epoch}/${row.seq} where ${follows} comes next`);
    if (before !== null && row.epoch < before.epoch) world.violated('I3', `${gate.name}: epoch ${row.epoch} after ${before.epoch}`);
    const stored = world.cloud.has(gate.name, row.epoch, row.seq);
    if (!world.cloud.counted().has(identityOf(rowKey(row))))
      world.violated('I1', `${gate.name}: row ${row.epoch}/${row.seq} is ${stored === null ? 'not in the cloud' : 'another one in the cloud'}`);
    before = row;
  }
  if (before !== null) compared.set(key, before);
}

/** I1: what anybody was shown is there. */
function checkShown(world: World, gate: SimGate, seen: Seen): void {
  const places = new Set(world.backs.size === 0 ? [] : world.cloud.originals().flatMap((row) => (row.gate === gate.name ? [`${row.epoch} ${row.seq}`] : [])));
  for (const [key, hash] of seen.shown) {
    const gap = key.indexOf(' ');
    const stored = world.cloud.has(gate.name, Number(key.slice(0, gap)), Number(key.slice(gap + 1)));
    const [epoch, seq] = key.split(' ').map(Number) as [number, number];
    if (hash === null ? places.has(key) : world.cloud.counted().has(identityKey({ ledger: gate.name, epoch, seq, hash }))) continue;
    if (stored === null || (hash !== null && stored !== hash))
      world.violated('I1', `${gate.name}: row ${key} was shown and is ${stored === null ? 'lost' : 'another one now'}`);
  }
}

/** I9: what the cloud holds in a gate's name, that gate has written. */
function checkSender(world: World, gate: SimGate, seen: Seen): void {
  for (const [epoch, rows] of world.cloud.ledgers.get(gate.name) ?? [])
    for (const seq of rows.keys())
      if (!seen.shown.has(`${epoch} ${seq}`) && !seen.former.has(`${epoch} ${seq}`))
        world.violated('I9', `the cloud holds row ${epoch}/${seq} of ${gate.name}, which that gate never wrote`);
}

/** I2: every unit that was opened ended once. */
function checkOutcomes(world: World, gate: SimGate): void {
  const open = new Map<string, Set<number>>();
  const unmatched = new Set<string>();
  const unknown = new Set<string>();
  // Of a gate whose card was put back, the card that is in: what was open on the other one, nobody can know.
  const isBack = world.backs.has(gate.name) || world.cloud.restored > 0;
  const rows: Row[] = isBack
    ? rowsOf(gate, null).map((row) => {
        const { epoch, seq, hash } = originalOf(rowKey(row));
        return { ...row, epoch, seq, hash };
      })
    : world.cloud.originals().filter((row) => row.gate === gate.name);
  rows.sort((a, b) => a.epoch - b.epoch || a.seq - b.seq);
  const done = new Set<string>();
  for (const { epoch, seq, hash, entry } of rows) {
    if (done.has(`${epoch} ${seq} ${hash}`)) continue;
    done.add(`${epoch} ${seq} ${hash}`);
    const releases = entry['kind'] === 'grant' || (entry['kind'] === 'override' && entry['units'] !== undefined);
    // An exit that matches nothing was open before its row; who passed by it is said where the process lived to see it.
    if (entry['kind'] === 'exit_unmatched') unmatched.add(`${epoch} ${seq}`);
    if (releases) open.set(`${epoch} ${seq}`, new Set(Array.from({ length: Number(entry['units']) }, (_, n) => n + 1)));
    const of = readReference(gate.name, entry['of']);
    const place = `${of?.epoch} ${of?.seq}`;
    if (entry['kind'] !== 'passage' || of === null || unmatched.delete(place)) continue;
    // The same guest at the same lane after a restart: what nobody saw is taken back, once.
    const unit = `${place} ${entry['unit']}`;
    if (entry['outcome'] === 'returned' && Array.isArray(entry['flags']) && entry['flags'].includes('unverified') && (isBack || unknown.delete(unit))) continue;
    if (entry['outcome'] === 'unknown') unknown.add(unit);
    if (open.get(place)?.delete(Number(entry['unit'] ?? 1)) !== true)
      world.violated('I2', `${gate.name}: row ${epoch}/${seq} says ${entry['outcome']} of unit ${entry['unit']} of ${place}, which is not open`);
  }
  for (const [key, units] of open) if (units.size > 0) world.violated('I2', `${gate.name}: grant ${key} never heard how unit ${[...units].join(', ')} ended`);
}

/** I1: what one gate decided once counts once, under whatever key it was sent. */
function checkOnce(world: World): void {
  const counted = new Map<string, Row>();
  for (const row of world.cloud.originals()) {
    const { kind, boot_id, boottime_ms, ticket_id } = row.entry;
    if (kind !== 'grant') continue;
    const key = `${row.gate} ${boot_id} ${boottime_ms} ${ticket_id}`;
    const other = counted.get(key);
    if (other !== undefined) world.violated('I1', `${key} counts twice: as ${other.epoch}/${other.seq} and as ${row.epoch}/${row.seq}`);
    counted.set(key, row);
  }
}

/** I7: what the ledger says of passages is what the turnstile did. Unknown ones, and those in the dark, may have been or not. */
function checkTruth(world: World, gate: SimGate): void {
  const said = { in: { sure: 0, unsure: 0 }, out: { sure: 0, unsure: 0 } };
  for (const { gate: writer, entry } of world.cloud.originals()) {
    if (writer !== gate.name || entry['kind'] !== 'passage') continue;
    const checksums = said[entry['direction'] as Direction];
    if (['passed', 'stuck', 'free', 'forced'].includes(String(entry['outcome']))) checksums.sure += 1;
  }
  for (const direction of ['in', 'out'] as const) {
    if (said[direction].sure > gate.turned[direction])
      world.violated('I7', `${gate.name}: ${said[direction].sure} passages ${direction} are recorded, and ${gate.turned[direction]} happened`);
  }
}

/** I9, I3: rows in the cloud are those of the gate whose name they carry, and each epoch is one chain. */
function checkCloud({ world, gates, followed }: Ending): void {
  const names = new Set([...gates.map(({ name }) => name), CLOUD_LEDGER]);
  for (const [ledger, epochs] of world.cloud.ledgers) {
    if (!names.has(ledger)) world.violated('I9', `the cloud took rows of ${ledger}, which is no gate of this site`);
    for (const [epoch, rows] of epochs) {
      const key = `${ledger} ${epoch}`;
      let last = followed.get(key) ?? { seq: 0, hash: firstPredecessor(sha256, ledger, epoch) };
      for (let seq = last.seq + 1; seq <= rows.size; seq++) {
        const row = rows.get(seq);
        // What a card that was taken out had sent the half of, nobody can send any more.
        if (row === undefined && (world.backs.has(ledger) || world.cloud.restored > 0)) break;
        if (row === undefined) {
          world.violated('I3', `${ledger}: the cloud holds ${rows.size} rows of epoch ${epoch}, and not row ${seq}`);
          break;
        }
        if (entryHash(sha256, last.hash, row.entry) !== row.hash)
          world.violated('I3', `${ledger}: row ${epoch}/${seq} does not carry the hash of the one before`);
        last = { seq, hash: row.hash };
      }
      followed.set(key, last);
    }
  }
  for (const { gate, epoch, seq } of world.cloud.forks.values())
    if (!world.backs.has(gate) && world.cloud.restored === 0) world.violated('I3', `two rows were written as ${gate} ${epoch} ${seq}`);
}

/** I4, I7, I10: verdicts, sums, order. */
function checkAccount({ world, policy }: Ending): void {
  const account = accountOf(world.cloud.originals(), world.cloud.accountTicket, policy);
  for (const [key, counts] of account.counts) {
    if (counts.grants !== counts.winners + counts.reentries + counts.exits + counts.excess + counts.annulled)
      world.violated('I7', `${key}: ${counts.grants} grants are not the sum of their verdicts`);
  }
  for (const [ticketId, judged] of account.tickets) checkOrder(world, ticketId, judged);
}

/** I10: who was surely first ranks first; who cannot be told apart is flagged. */
function checkOrder(world: World, ticketId: string, judged: readonly Judged[]): void {
  const winners = judged.filter((one) => one.verdict === 'winner').length;
  if (winners > 1) world.violated('I7', `${ticketId} has ${winners} first entries`);
  for (const [index, later] of judged.entries()) {
    for (const earlier of judged.slice(0, index)) {
      if (later.highMs < earlier.lowMs) world.violated('I10', `${ticketId}: ${later.key} was surely before ${earlier.key}, and ranks after it`);
      const overlap = later.lowMs <= earlier.highMs && earlier.lowMs <= later.highMs;
      if (overlap && later.used > 0 && earlier.used > 0 && !(later.overlapping && earlier.overlapping))
        world.violated('I10', `${ticketId}: ${later.key} and ${earlier.key} cannot be told apart, and are not flagged`);
    }
  }
}

/** Counts what a fleet has met: verdicts, outcomes, epochs. For people: histories that never meet a conflict show nothing about conflicts. */
export function metBy(world: World, policy: AccountPolicy): Record<string, number> {
  const met: Record<string, number> = {};
  const meet = (what: string, times = 1): void => {
    met[what] = (met[what] ?? 0) + times;
  };
  const account = accountOf(world.cloud.originals(), world.cloud.accountTicket, policy);
  for (const judged of account.tickets.values()) {
    for (const { verdict, units } of judged) {
      meet(WORDS[verdict] ?? verdict);
      for (const outcome of units) meet(outcome);
    }
  }
  for (const { entry } of world.cloud.originals()) {
    if (entry['kind'] === 'settlement') meet('settled');
    if (entry['outcome'] === 'free' || entry['outcome'] === 'forced') meet(String(entry['outcome']));
  }
  for (const epochs of world.cloud.ledgers.values()) meet('epochs', epochs.size);
  return met;
}
const WORDS: Readonly<Record<string, string>> = { winner: 'first entries', reentry: 're-entries', exit: 'exits' };
