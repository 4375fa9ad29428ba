/**
 * A gate's store at work, as a process of its own: guests, passages, peers, acknowledgements, manifests, requests, pauses; then it is
 * killed, or closes. After each call it marks what that call had answered. What it does follows from its seed.
 *
 *   node workload.ts <task as JSON>
 */
import { openSync, readFileSync, writeSync } from 'node:fs';
import { openDeciderEngine } from '../../daemon/decider/decider.ts';
import type { DeciderEngine } from '../../daemon/decider/engine.ts';
import { EVENT, GATE, makeManifest, makeOverlay, PEER, peerMessage, refOf, show } from '../../daemon/decider/testing/store.ts';
import type { Decision, Note } from '../../daemon/ports.ts';
import { createRandom, type Random } from '../../testkit/prng.ts';
import { keyOf, learn, type Mark, marksOf, newTruth, type Truth } from './expected.ts';
import { codeOf, FIRST_OF_PEER, signer, TICKETS, ticketOf, timestampNow, usageUpTo } from './fixture.ts';

export interface LifeTask {
  /** The store. */
  readonly store: string;
  /** Where marks are written, and what was marked in former lives. */
  readonly marks: string;
  readonly past: string | null;
  /** For manifests as they are downloaded. */
  readonly downloads: string;
  readonly seed: number;
  readonly steps: number;
  /** How it ends. `leave`: as `close`, and what does not close is left to the process. */
  readonly end: 'kill' | 'close' | 'leave';
  /** ms on the venue's clock at which this life begins. */
  readonly fromMs: number;
}

const DAY_MS = 86_400_000;
/** Every so many lives lay out their log: an image is then 2 MiB larger, and fewer fit into the time. */
const LAYING_OUT = 4;
/** Rows read at once. */
const READ_ROWS = 500;

/** The receiver of failures while the disk fails: a step that fails is reported, and the gate goes on with the next. */
export interface Trouble {
  failed(error: unknown): void;
  notice(what: string, detail: string): void;
  doing(what: string): void;
}

interface Life {
  readonly trouble: Trouble | null;
  readonly core: DeciderEngine;
  readonly random: Random;
  readonly truth: Truth;
  readonly mark: (mark: Mark) => void;
  readonly bootId: string;
  /** Its log is preallocated while idle, as the worker does. */
  readonly laysOut: boolean;
  nowMs: number;
  /** Grants whose guest is on the way. */
  open: { readonly row: readonly [number, number]; readonly code: number }[];
  read: readonly [number, number] | null;
  peerSeq: number;
}

export async function live(task: LifeTask, trouble: Trouble | null = null): Promise<void> {
  const file = openSync(task.marks, 'a');
  const truth = newTruth();
  if (task.past !== null) for (const mark of marksOf(readFileSync(task.past))) learn(truth, mark);
  const mark = (one: Mark): void => {
    writeSync(file, `${JSON.stringify(one)}\n`);
    learn(truth, one);
    if (one.mark === 'doing') trouble?.doing(one.what);
  };
  const bootId = `00000000-0000-4000-8000-${String(task.seed % 1_000_000).padStart(12, '0')}`;
  mark({ mark: 'doing', what: 'open' });
  const core = await openDeciderEngine(
    { path: task.store, gate: GATE, verifyKeys: [signer.publicKey], notice: (what, detail) => trouble?.notice(what, detail) },
    timestampNow(task.fromMs, bootId),
  );
  const life: Life = {
    trouble,
    core,
    random: createRandom(task.seed),
    truth,
    mark,
    bootId,
    laysOut: task.seed % LAYING_OUT === 0,
    nowMs: task.fromMs,
    open: [],
    read: null,
    peerSeq: truth.peer?.[1] ?? 0,
  };
  readRows(life);
  markWaiting(life);
  if (!core.status(stamp(life)).usageComplete) mark({ mark: 'incomplete' });
  const bravely = async (work: () => Promise<void>): Promise<void> => {
    if (trouble === null) return work();
    await work().catch((error: unknown) => trouble.failed(error));
  };
  if (truth.manifest === null) await bravely(() => installNext(life, task.downloads));
  for (let n = 0; n < task.steps; n++) await bravely(() => step(life, task));
  mark({ mark: 'doing', what: 'end' });
  if (task.end === 'close') core.close();
  else if (task.end === 'leave')
    try {
      core.close();
    } catch (error) {
      trouble?.failed(error);
    }
  else process.kill(process.pid, 'SIGKILL');
}

const stamp = (life: Life) => timestampNow(life.nowMs, life.bootId);

/** Rows that are new since the last look: whoever can read a row was shown it. */
function readRows(life: Life): void {
  for (;;) {
    const rows = life.core.rows(life.read === null ? null : [life.read[0], life.read[1]], READ_ROWS);
    for (const { epoch, entry } of rows) {
      if (life.truth.rows.get(keyOf(epoch, entry.seq)) == null) life.mark({ mark: 'row', epoch, entry });
      life.read = [epoch, entry.seq];
    }
    if (rows.length === 0) return;
  }
}

/** Marks the waiting rows of epochs that are no longer read as rows: those that a rebuild took over. */
function markWaiting({ core, mark }: Life): void {
  const own = new Set(core.rows(null, READ_ROWS).map(({ epoch }) => epoch));
  for (let after: readonly [number, number] | null = null; ; ) {
    const batch = core.nextBatch(after === null ? null : [after[0], after[1]]);
    if (batch === null) return;
    after = [batch.epoch, batch.uptoSeq];
    if (own.has(batch.epoch)) continue;
    const { entries } = JSON.parse(Buffer.from(batch.payload).toString()) as { entries: { seq: number }[] };
    for (const { seq } of entries) mark({ mark: 'waiting', epoch: batch.epoch, seq });
  }
}

async function step(life: Life, task: LifeTask): Promise<void> {
  const { random, mark } = life;
  life.nowMs += random.chance(0.02) ? 8 * DAY_MS : 500 + random.below(20_000);
  const roll = random.below(100);
  const does = (what: string, work: () => void): void => {
    mark({ mark: 'doing', what });
    work();
  };
  if (roll < 34) does('decide', () => guest(life));
  else if (roll < 58) does('passage', () => passage(life));
  else if (roll < 66) does('note', () => note(life));
  else if (roll < 72) does('peer', () => peer(life));
  else if (roll < 78) does('acknowledge', () => acknowledge(life));
  else if (roll < 91) does('idle', () => idle(life));
  else if (roll < 94) does('request', () => request(life));
  else if (roll < 96) does('latch', () => latch(life));
  else if (roll < 98) {
    mark({ mark: 'doing', what: 'manifest' });
    await installNext(life, task.downloads);
  } else does('overlay', () => overlay(life));
  readRows(life);
}

function guest(life: Life): void {
  const { core, random, mark } = life;
  const code = random.chance(0.9) ? random.below(FIRST_OF_PEER) : TICKETS + random.below(8);
  const decision = core.decide(life.nowMs, show(codeOf(code), life.nowMs), stamp(life), () => 100) as Decision;
  mark({ mark: 'answered', epoch: decision.row[0], seq: decision.row[1] });
  if (decision.verdict.kind === 'grant') life.open.push({ row: decision.row, code });
}

function passage(life: Life): void {
  const { core, random, mark } = life;
  const grant = life.open.shift();
  if (grant === undefined) return;
  const outcome = random.chance(0.8) ? 'passed' : 'returned';
  const [epoch, seq] = core.record({ kind: 'passage', of: [grant.row[0], grant.row[1]], direction: 'in', unit: 1, outcome }, stamp(life));
  mark({ mark: 'answered', epoch, seq });
  if (outcome === 'passed') mark({ mark: 'used', code: grant.code });
}

function note(life: Life): void {
  const { core, random, mark } = life;
  const modes = ['controlled', 'free', 'locked'] as const;
  const to = random.pick(modes);
  const what: Note = random.pick<Note>([
    { kind: 'alarm', what: 'tamper', detail: 'x'.repeat(random.below(400)) },
    { kind: 'override', actor: 'anna-7', action: 'open', reason: 'pram', direction: 'in' },
    { kind: 'mode', direction: random.pick(['in', 'out'] as const), from: 'controlled', to, actor: 'anna-7', reason: 'evening' },
  ]);
  if (what.kind === 'mode') mark({ mark: 'mode', direction: what.direction, mode: null });
  const [epoch, seq] = core.record(what, stamp(life));
  mark({ mark: 'answered', epoch, seq });
  if (what.kind === 'mode') mark({ mark: 'mode', direction: what.direction, mode: what.to });
}

function peer(life: Life): void {
  const { core, random } = life;
  const first = life.peerSeq + 1;
  const entries = Array.from({ length: 1 + random.below(4) }, (_, n) => peerGrant(first + n));
  core.applyPeer(peerMessage(PEER, 100, entries));
  life.peerSeq += entries.length;
  life.mark({ mark: 'peer', epoch: 100, seq: life.peerSeq });
}

/** A guest at the other lane. */
function peerGrant(seq: number): Record<string, unknown> & { readonly seq: number } {
  const { ticket_id, ticket_ref } = ticketOf(FIRST_OF_PEER + (seq % (TICKETS - FIRST_OF_PEER)));
  const place = { event_id: EVENT, ticket_id, ticket_ref, direction: 'in' };
  return { seq, kind: 'grant', ...place, type: 'first_entry', units: 1, medium: 'opaque', manifest_version: 1, online: false, latency_us: 1, seen: {} };
}

/** The cloud takes some batches, and says so. What it has, it has: marked before the gate is told. */
function acknowledge(life: Life): void {
  const { core, random, mark, truth } = life;
  const batch = core.nextBatch(null);
  if (batch === null) return;
  const upto = random.chance(0.7) ? batch.uptoSeq : batch.fromSeq + random.below(batch.uptoSeq - batch.fromSeq + 1);
  // Behind a hole: the cloud never says that it has what lies before.
  if (truth.waiting.has(keyOf(batch.epoch, batch.fromSeq)) && batch.fromSeq !== (truth.acked.get(batch.epoch) ?? 0) + 1) return;
  mark({ mark: 'acked', epoch: batch.epoch, seq: upto });
  core.acknowledge(
    { schema: 1, epochs: [{ epoch: batch.epoch, upto_seq: upto, missing: [] }], cloud_time: new Date(stamp(life).wallMs).toISOString() },
    stamp(life),
  );
}

function idle(life: Life): void {
  for (let most = 20; most > 0 && (life.core.idle(stamp(life), true) || (life.laysOut && life.core.preallocateWal())); most--);
}

function request(life: Life): void {
  const id = `t-${life.nowMs}`;
  if (life.core.rememberTransaction(id, stamp(life).wallMs + 1_000 * DAY_MS, stamp(life))) life.mark({ mark: 'transaction', id });
}

function latch(life: Life): void {
  const latched = life.truth.latched !== true;
  life.mark({ mark: 'latch', latched: null });
  life.core.setFireLatch(latched);
  life.mark({ mark: 'latch', latched });
}

/** A newer file: it counts the rows that the cloud has of the newest epoch that it has any of. */
async function installNext(life: Life, downloads: string): Promise<void> {
  const { core, truth, mark } = life;
  const version = (truth.manifest?.overlay ?? 0) + 1;
  const epoch = Math.max(0, ...truth.acked.keys());
  const upto = truth.acked.get(epoch) ?? 0;
  const { file, wanted } = await makeManifest(downloads, signer, {
    version,
    tickets: Array.from({ length: TICKETS }, (_, n) => ticketOf(n)),
    upto: upto === 0 ? {} : { [GATE]: [epoch, upto] },
    usage: usageUpTo(truth, epoch, upto),
  });
  const result = await core.installManifest(file, wanted, stamp(life));
  if (result.ok) mark({ mark: 'manifest', version, overlay: version });
  else life.trouble?.failed(new Error(result.message));
}

function overlay(life: Life): void {
  const { core, random, truth, mark } = life;
  if (truth.manifest === null) return;
  const { version, overlay: from } = truth.manifest;
  // Nobody's right changes: what is checked is that the version that was answered stays.
  const change = { ...ticketOf(random.below(TICKETS)) };
  const result = core.applyOverlay(makeOverlay(signer, from, from + 1, [change], EVENT), stamp(life));
  if (result.ok) mark({ mark: 'manifest', version, overlay: from + 1 });
  else life.trouble?.failed(new Error(result.message));
}

/** Returns the ref under which an overlay's ticket is found. */
export const refOfTicket = (n: number): string => refOf(codeOf(n));

if (import.meta.main) await live(JSON.parse(process.argv[2] ?? '{}') as LifeTask);
