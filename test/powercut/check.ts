/**
 * Opens a store that was found after a power cut with the gate's own code, recovery and all, and looks for what was promised: every
 * row that was answered, with its content; one unbroken chain an epoch; what was acknowledged stays spent, what was not is still sent.
 */
import { entryHash, firstPredecessor } from '../../contract/hash-chain.ts';
import type { LedgerVector } from '../../contract/ids.ts';
import { openDeciderEngine } from '../../daemon/decider/decider.ts';
import type { DeciderEngine } from '../../daemon/decider/engine.ts';
import { GATE, PEER, show } from '../../daemon/decider/testing/store.ts';
import type { DeciderStatus, Decision } from '../../daemon/ports.ts';
import { type Stamp, type StoredEntry, sha256Text } from '../../daemon/store/ledger.ts';
import type { Random } from '../../testkit/prng.ts';
import { keyOf, type Truth } from './expected.ts';
import { codeOf, signer, timestampNow } from './fixture.ts';

const READ_ROWS = 500;
/** A year on the venue's clock: the gate comes back long after whatever it did. */
const LATER_MS = 365 * 86_400_000;

export interface Found {
  /** What does not hold; empty: all of it does. */
  readonly problems: readonly string[];
  /** Rows that were answered and are not there, out of how many should be. */
  readonly lost: number;
  readonly expected: number;
  /** What the gate said loudly while it opened. */
  readonly notices: readonly string[];
  /** Rows of peers that were heard and are forgotten. */
  readonly peerForgotten: number;
}

/** Chains that were found good before: (predecessor, row) pairs by the text of both. */
const good = new Set<string>();
function follows(previous: string, entry: StoredEntry): boolean {
  const text = previous + JSON.stringify(entry);
  if (good.has(text)) return true;
  if (entryHash(sha256Text, previous, entry) !== entry.hash) return false;
  if (good.size > 200_000) good.clear();
  good.add(text);
  return true;
}

/** The report of a store on itself once it is open. */
export interface Reading {
  /** Why it does not open, or what it fails at. */
  readonly error: string | null;
  readonly notices: readonly string[];
  readonly rows: readonly Row[];
  /** Rows on their way to the cloud. */
  readonly waiting: ReadonlySet<string>;
  readonly status: DeciderStatus | null;
  readonly vector: LedgerVector;
  /** What it did wrong when it was asked to do something. */
  readonly misdeeds: readonly string[];
}

/** Opens the store as the gate does, reads everything, and lets a guest come who was there before. */
export async function readStore(store: string, truth: Truth, random: Random): Promise<Reading> {
  const notices: string[] = [];
  const misdeeds: string[] = [];
  const later = timestampNow(LATER_MS + random.below(1_000_000), 'after-the-cut');
  const nothing: Reading = { error: null, notices, rows: [], waiting: new Set(), status: null, vector: {}, misdeeds };
  let core: DeciderEngine;
  try {
    core = await openDeciderEngine(
      { path: store, gate: GATE, verifyKeys: [signer.publicKey], notice: (what, detail) => notices.push(`${what}: ${detail}`) },
      later,
    );
  } catch (error) {
    return { ...nothing, error: `the store does not open: ${(error as Error).message}` };
  }
  try {
    const reading = { ...nothing, rows: readAll(core), waiting: outboxOf(core), status: core.status(later), vector: core.vector() };
    askAgain(core, truth, random, later, reading.rows, misdeeds);
    return reading;
  } catch (error) {
    return { ...nothing, error: `the store fails: ${(error as Error).stack ?? String(error)}` };
  } finally {
    core.close();
  }
}

/** Holds what was read against what had been answered. `rebuilt`: damage was done before, so that the database may have been quarantined. */
export function judge(reading: Reading, truth: Truth, rebuilt: boolean): Found {
  const problems: string[] = [...reading.misdeeds];
  if (reading.error !== null) problems.push(reading.error);
  if (!rebuilt)
    problems.push(...reading.notices.filter((notice) => !/cut short|rows of peers/.test(notice)).map((notice) => `a cut alone looks like damage: ${notice}`));
  checkChain(reading.rows, truth, problems);
  const { lost, expected } = checkRows(reading.rows, reading.waiting, truth, problems);
  if (reading.status !== null) checkStanding(reading.status, truth, rebuilt, problems);
  const heard = reading.vector[PEER];
  const peerForgotten = truth.peer === null ? 0 : truth.peer[1] - (heard !== undefined && heard[0] === truth.peer[0] ? heard[1] : 0);
  return { problems, lost, expected, notices: reading.notices, peerForgotten };
}

export interface Row {
  readonly epoch: number;
  readonly entry: StoredEntry;
}

function readAll(core: DeciderEngine): Row[] {
  const all: Row[] = [];
  for (;;) {
    const last = all.at(-1);
    const more = core.rows(last === undefined ? null : [last.epoch, last.entry.seq], READ_ROWS);
    if (more.length === 0) return all;
    all.push(...more);
  }
}

/** Every row that is on its way to the cloud. */
function outboxOf(core: DeciderEngine): Set<string> {
  const found = new Set<string>();
  for (let after: readonly [number, number] | null = null; ; ) {
    const batch = core.nextBatch(after === null ? null : [after[0], after[1]]);
    if (batch === null) return found;
    const { entries } = JSON.parse(Buffer.from(batch.payload).toString()) as { entries: { seq: number }[] };
    for (const { seq } of entries) found.add(keyOf(batch.epoch, seq));
    after = [batch.epoch, batch.uptoSeq];
  }
}

/** No gap, no row twice, each with the hash of the one before; and what stands in front of the first was acknowledged. */
function checkChain(rows: readonly Row[], truth: Truth, problems: string[]): void {
  let epoch = 0;
  let seq = 0;
  let hash: string | null = null;
  for (const row of rows) {
    if (row.epoch !== epoch) {
      if (row.epoch < epoch) problems.push(`epoch ${row.epoch} after ${epoch}`);
      if (row.entry.seq !== 1 && row.entry.seq - 1 > (truth.acked.get(row.epoch) ?? 0))
        problems.push(`the first row is ${row.epoch}/${row.entry.seq}, and the cloud has only ${truth.acked.get(row.epoch) ?? 0}`);
      epoch = row.epoch;
      seq = row.entry.seq;
      hash = seq === 1 ? firstPredecessor(sha256Text, GATE, epoch) : null;
    } else if (row.entry.seq !== ++seq) {
      problems.push(`row ${epoch}/${row.entry.seq} where ${seq} should stand`);
      seq = row.entry.seq;
    }
    if (hash !== null && !follows(hash, row.entry)) problems.push(`row ${epoch}/${seq} does not follow from the one before`);
    hash = row.entry.hash;
  }
}

function checkRows(rows: readonly Row[], waiting: ReadonlySet<string>, truth: Truth, problems: string[]): { lost: number; expected: number } {
  const found = new Map(rows.map((row) => [keyOf(row.epoch, row.entry.seq), row.entry]));
  let lost = 0;
  let expected = 0;
  for (const [key, entry] of truth.rows) {
    const [epoch = 0, seq = 0] = key.split('/').map(Number);
    const here = found.get(key);
    const acked = seq <= (truth.acked.get(epoch) ?? 0);
    if (here !== undefined && !acked && !waiting.has(key)) problems.push(`row ${key} is not in Postgres and is not sent`);
    if (here === undefined) {
      if (acked) continue;
      expected++;
      if (waiting.has(key)) continue;
      lost++;
      if (lost === 1) problems.push(`row ${key} was answered and is not there`);
      continue;
    }
    expected++;
    if (entry !== null && entry.hash !== here.hash) problems.push(`row ${key} was answered with another content`);
  }
  for (const key of truth.waiting) {
    const [epoch = 0, seq = 0] = key.split('/').map(Number);
    if (seq <= (truth.acked.get(epoch) ?? 0) || waiting.has(key) || found.has(key)) continue;
    problems.push(`row ${key} waited for the cloud and is forgotten`);
  }
  return { lost, expected };
}

function checkStanding(status: DeciderStatus, truth: Truth, rebuilt: boolean, problems: string[]): void {
  for (const [direction, mode] of truth.modes) {
    const now = status.modes[direction as 'in' | 'out'].mode;
    if (mode !== null && now !== mode) problems.push(`mode ${direction} was ${mode}, now ${now}`);
  }
  if (truth.latched !== null && status.fireLatched !== truth.latched) problems.push(`the fire latch was ${truth.latched}, now ${status.fireLatched}`);
  if (rebuilt && truth.incomplete && status.usageComplete) problems.push('usage was lost, and is said to be complete');
  const manifest = status.manifests[0];
  if (truth.manifest !== null && (manifest === undefined || manifest.version < truth.manifest.version || manifest.overlayVersion < truth.manifest.overlay))
    problems.push(
      `manifest ${truth.manifest.version}/${truth.manifest.overlay} was in force, now ${manifest?.version ?? 'none'}/${manifest?.overlayVersion ?? ''}`,
    );
}

/** A ticket that went through does not go through again, a request is not carried out again, and the next row takes a number that nobody saw. */
function askAgain(core: DeciderEngine, truth: Truth, random: Random, later: Stamp, rows: readonly Row[], misdeeds: string[]): void {
  const transaction = truth.transactions.at(-1);
  if (transaction !== undefined && core.rememberTransaction(transaction, later.wallMs + 1_000, later))
    misdeeds.push(`request ${transaction} would be carried out twice`);
  const code = truth.used.length === 0 ? 0 : random.pick(truth.used);
  const decision = core.decide(1, show(codeOf(code), later.boottimeMs), later, () => 100) as Decision;
  if (truth.used.length > 0 && decision.verdict.kind === 'grant') misdeeds.push(`ticket ${code} went through before and is granted again`);
  const key = keyOf(decision.row[0], decision.row[1]);
  if (truth.rows.has(key) || truth.former.has(key) || rows.some((row) => keyOf(row.epoch, row.entry.seq) === key))
    misdeeds.push(`row ${key} was numbered twice`);
}
