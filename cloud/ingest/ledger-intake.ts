/**
 * Commits ledger messages in batches, then acknowledges them. Messages that arrive during a commit form the next batch, and the batch grows with
 * the load; where rows come quickly one by one, a transaction waits some milliseconds for further ones. A guest after a pause never waits. Where a backlog waits, two transactions run at once, for different gates. Broker and gate get their acknowledgement after
 * the commit, never before.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type AckMessage, type GoneRange, LedgerEnvelope } from '../../contract/ledger.ts';
import { MAX_PAYLOAD_BYTES } from '../../contract/limits.ts';
import { type ParseFailure, parsePayload } from '../../contract/parse.ts';
import type { LedgerHeads } from '../../contract/references.ts';
import { DELIVERY, topicOf } from '../../contract/topics.ts';
import { type Database, type DatabaseClient, isTransient } from '../db/database.ts';
import type { Log } from '../log.ts';
import type { CloudBroker, IncomingMessage } from '../mqtt/client.ts';
import type { Quarantine, Quarantined, QuarantineReason } from './quarantine.ts';
import type { Sender, Senders } from './sender-cache.ts';

/** Rows of one transaction; further ones wait for the next. Enough to spread the cost of a commit, few enough that none waits long. */
const MAX_BATCH_ROWS = 1_000;
/** Transactions at once; further batches wait. While one waits for the disk or for this process, another works, for other gates, whose locks differ. */
const MAX_TRANSACTIONS = 2;
/** Rows that must wait before a second transaction starts: fewer are better committed together by the next. */
const SECOND_FROM_ROWS = 500;
/** Least time, in milliseconds, between the starts of two transactions while rows come quickly; a row then waits at most so long for others. */
const GATHER_MS = 25;
/** Rows that must be expected in that time: a transaction of many rows costs PostgreSQL as much as three or four of one row, so fewer are committed at once. */
const GATHER_FROM_ROWS = 5;
/** Rows that wait for nothing further: a backlog is not slowed down. */
const GATHERED_ROWS = 100;
/** Time over which the rate of arrivals is measured, in milliseconds. Nothing for twice as long: the rate is none. */
const RATE_MS = 200;
/**
 * Messages that wait for the next transaction. With MQTT 5 the broker stops before that (receiveMaximum); a further one is dropped unacknowledged:
 * its gate publishes it again.
 */
const MAX_WAITING_MESSAGES = 2_000;
/**
 * Bytes of their payloads, including the running transactions'. The broker's connection applies backpressure before that (backpressure.ts), for
 * some seconds; a further message is dropped likewise.
 */
const MAX_HELD_BYTES = 4 * 1024 * 1024;
/** Rows that one log line names; of more, the first. */
const MAX_NAMED_ROWS = 10;
/** Retry backoff while the database is away: 0.1 s, doubling, at most 5 s. */
const RETRY_MIN_MS = 100;
const RETRY_MAX_MS = 5_000;

/** Rows for the reconciler, made by its `readRow`; ingest does not read them. */
export type ReadRow<Row> = (gate: string, epoch: number, entry: unknown) => Row | null;

export type Reconcile<Row> = (
  client: DatabaseClient,
  rows: readonly Row[],
) => Promise<{ readonly stored: number; readonly duplicates: number; readonly forked: readonly unknown[] }>;

export interface IntakeReconciler<Row> {
  readonly readRow: ReadRow<Row>;
  /** Appends and judges rows, in the transaction. */
  readonly reconcile: Reconcile<Row>;
  /** Does the same for a message that failed alone, row by row. */
  readonly reconcileEach?: Reconcile<Row>;
  /** Records rows that the gate declares gone: pruned before they were stored. */
  readonly declareGone?: (client: DatabaseClient, gate: string, gone: readonly GoneRange[]) => Promise<void>;
  /** Reads what a gate says that it holds of its site's ledgers; `ahead`: more than this database holds of what it wrote itself. */
  readonly takeHeads?: (client: DatabaseClient, gate: string, heads: LedgerHeads) => Promise<{ readonly ahead: boolean }>;
  readonly acksFor: (client: DatabaseClient, gates: readonly string[]) => Promise<Map<string, AckMessage>>;
}

export interface LedgerIntakeOptions<Row> {
  readonly database: Database;
  readonly broker: Pick<CloudBroker, 'publish'>;
  readonly senders: Senders;
  readonly quarantine: Quarantine;
  readonly reconciler: IntakeReconciler<Row>;
  /** Called after the commit when a gate shows that the database went back in time. */
  readonly onAhead?: (gate: string) => void;
  readonly log: Log;
  /** Milliseconds that only rise, and a wait until they have risen by so much. Default: the machine's. */
  readonly clock?: { now(): number; wait(ms: number, signal: AbortSignal): Promise<void> };
}

const MACHINE_CLOCK = { now: () => performance.now(), wait: (ms: number, signal: AbortSignal) => sleep(ms, undefined, { signal }) };

export interface LedgerIntakeStats {
  messages: number;
  rows: number;
  duplicates: number;
  batches: number;
  quarantined: number;
  let_go: number;
  retries: number;
  waiting: number;
  forked: number;
}

export interface LedgerIntake {
  /** Queues a message; never waits. `gate` is the topic's. */
  take(gate: string, message: IncomingMessage): void;
  /** Resolves when every queued message is processed. */
  idle(): Promise<void>;
  /** Ends after the running transaction; waiting messages stay unacknowledged, and are delivered again. */
  close(): Promise<void>;
  stats(): LedgerIntakeStats;
}

interface Waiting<Row> {
  readonly gate: string;
  readonly message: IncomingMessage;
  readonly rows: readonly Row[];
  readonly gone?: readonly GoneRange[] | undefined;
  readonly heads?: LedgerHeads | undefined;
  /** The parts to quarantine, besides or instead of the rows. */
  readonly bad: readonly Omit<Quarantined, 'topic'>[];
}

/** Returns whether a message says anything that a transaction must keep; one that says nothing is a question. */
const says = <Row>({ rows, gone, heads }: Waiting<Row>): boolean => rows.length > 0 || (gone !== undefined && gone.length > 0) || heads !== undefined;

export function createLedgerIntake<Row>(options: LedgerIntakeOptions<Row>): LedgerIntake {
  const { database, senders, quarantine, reconciler, log } = options;
  let waiting: Waiting<Row>[] = [];
  let heldBytes = 0;
  const running = new Set<Promise<void>>();
  /** Gates with a running transaction: their further messages wait for its end, rather than for its locks. */
  const busy = new Set<string>();
  let closed = false;
  const stop = new AbortController();
  const clock = options.clock ?? MACHINE_CLOCK;
  const arrivals = createArrivalRate(clock.now);
  let lastStartMs = Number.NEGATIVE_INFINITY;
  const counts: LedgerIntakeStats = {
    messages: 0,
    rows: 0,
    duplicates: 0,
    batches: 0,
    quarantined: 0,
    let_go: 0,
    retries: 0,
    waiting: 0,
    forked: 0,
  };

  function settled({ message }: Waiting<Row>): void {
    heldBytes -= message.payload.byteLength;
    message.acknowledge();
  }

  /** Retries until it succeeds, the error is permanent, or ingest closes (then undefined). */
  async function patiently<T>(work: () => Promise<T>): Promise<T | undefined> {
    for (let wait = RETRY_MIN_MS; !closed; wait = Math.min(wait * 2, RETRY_MAX_MS)) {
      try {
        return await work();
      } catch (error) {
        if (!isTransient(error)) throw error;
        counts.retries += 1;
        log.warn({ error: (error as Error).message, wait_ms: wait }, 'committing ledger rows failed; retrying');
        // The loop checks for the stop.
        await sleep(wait, undefined, { signal: stop.signal }).catch(() => {});
      }
    }
    return undefined;
  }

  function read(gate: string, message: IncomingMessage): Waiting<Row> {
    // Entries are read one by one: an unreadable one must not hide the others. A text that cannot be stored (U+0000, half a surrogate pair) affects
    // its own row alone: the row is kept as text, and the others count.
    const parsed = parsePayload(LedgerEnvelope, message.payload, MAX_PAYLOAD_BYTES, 'entries');
    const bad = (reason: QuarantineReason, detail: string, payload: Uint8Array = message.payload) => ({ reason, detail, payload });
    if (!parsed.ok) return { gate, message, rows: [], bad: [bad(REASONS[parsed.error], parsed.message)] };
    if (parsed.value.gate !== gate) return { gate, message, rows: [], bad: [bad('mismatch', `the topic says ${gate}, the message says ${parsed.value.gate}`)] };
    const rows: Row[] = [];
    const unreadable: Omit<Quarantined, 'topic'>[] = [];
    for (const [index, entry] of parsed.value.entries.entries()) {
      const row = reconciler.readRow(gate, parsed.value.epoch, entry);
      if (row !== null) rows.push(row);
      else
        unreadable.push(
          bad('unreadable', `entry ${index + 1} of epoch ${parsed.value.epoch} has no readable seq, kind and hash`, Buffer.from(JSON.stringify(entry) ?? '')),
        );
    }
    return { gate, message, rows, bad: unreadable, gone: parsed.value.gone, heads: parsed.value.heads };
  }

  /** Starts transactions while enough rows wait. */
  function wake(): void {
    while (!closed && running.size < MAX_TRANSACTIONS && waits(running.size === 0 ? 0 : SECOND_FROM_ROWS)) {
      const work = Promise.resolve()
        .then(run)
        .catch((error: Error) => log.error({ error: error.message }, 'ledger intake failed'))
        .finally(() => running.delete(work));
      running.add(work);
    }
  }

  /** Returns whether this many rows wait of gates without a transaction. */
  function waits(atLeastRows: number): boolean {
    let rows = 0;
    for (const item of waiting) {
      if (busy.has(item.gate)) continue;
      rows += item.rows.length;
      if (rows >= atLeastRows) return true;
    }
    return false;
  }

  /** Runs one transaction after the other until no waiting gate is free. */
  async function run(): Promise<void> {
    while (!closed && waits(0)) {
      await gather();
      // Senders first: a transaction holds messages of one tenant.
      const resolved = await patiently(() => senders.resolveAll(waiting.slice(0, MAX_WAITING_MESSAGES).map(({ gate }) => gate)));
      if (resolved === undefined) return;
      const { tenantId, batch } = nextBatch(resolved);
      const gates = new Set(batch.map(({ gate }) => gate));
      for (const gate of gates) busy.add(gate);
      try {
        await settle(tenantId, batch, resolved);
      } finally {
        for (const gate of gates) busy.delete(gate);
      }
      wake();
    }
  }

  /** Waits for further rows where many are expected within GATHER_MS of the last transaction's start. */
  async function gather(): Promise<void> {
    const waitMs = lastStartMs + GATHER_MS - clock.now();
    if (waitMs > 0 && arrivals.perMs() * GATHER_MS >= GATHER_FROM_ROWS && !waits(GATHERED_ROWS))
      // The loop checks for the stop.
      await clock.wait(waitMs, stop.signal).catch(() => {});
    lastStartMs = clock.now();
  }

  /** Takes waiting messages: all of the gate that waits longest, then of the next, up to the rows of one transaction. */
  function nextBatch(resolved: ReadonlyMap<string, Sender>): { readonly tenantId: string | null; readonly batch: readonly Waiting<Row>[] } {
    const byGate = new Map<string, Waiting<Row>[]>();
    for (const item of waiting) {
      if (busy.has(item.gate) || !resolved.has(item.gate)) continue;
      const before = byGate.get(item.gate);
      if (before === undefined) byGate.set(item.gate, [item]);
      else before.push(item);
    }
    const batch = new Set<Waiting<Row>>();
    let tenantId: string | null = null;
    let rows = 0;
    for (const [gate, items] of byGate) {
      const sender = resolved.get(gate) as Sender;
      for (const item of items) {
        if (sender.kind !== 'device') {
          batch.add(item);
          continue;
        }
        tenantId ??= sender.tenantId;
        if (sender.tenantId !== tenantId || (rows > 0 && rows + item.rows.length > MAX_BATCH_ROWS)) continue;
        rows += item.rows.length;
        batch.add(item);
      }
    }
    waiting = waiting.filter((item) => !batch.has(item));
    return { tenantId, batch: [...batch].map((item) => refused(item, resolved.get(item.gate) as Sender)) };
  }

  /** Quarantines a message of an unknown or revoked sender without reading it. */
  function refused(item: Waiting<Row>, sender: Sender): Waiting<Row> {
    if (sender.kind === 'device') return item;
    return {
      ...item,
      rows: [],
      gone: undefined,
      heads: undefined,
      bad: [{ reason: sender.kind === 'revoked' ? 'revoked_device' : 'unknown_device', detail: item.gate, payload: item.message.payload }],
    };
  }

  async function settle(tenantId: string | null, batch: readonly Waiting<Row>[], resolved: ReadonlyMap<string, Sender>): Promise<void> {
    // All at once: quarantine writes together what arrives together.
    await Promise.all(
      batch.flatMap((item) =>
        item.bad.map((bad) => {
          const sender = resolved.get(item.gate);
          counts.quarantined += 1;
          log.warn({ gate: item.gate, reason: bad.reason, detail: bad.detail }, 'a ledger message was quarantined');
          return patiently(() =>
            quarantine.put(sender === undefined || sender.kind === 'unknown' ? null : sender.tenantId, { topic: item.message.topic, ...bad }),
          ).catch((error: Error) => log.error({ error: error.message }, 'quarantine failed'));
        }),
      ),
    );
    const withRows = batch.filter(says);
    let lastError = '';
    const note = (message: string) => {
      lastError = message;
    };
    const failed = tenantId === null ? [] : await commit(tenantId, withRows, note, reconciler.reconcile);
    // Where a batch fails, its messages are tried one by one, and then their rows.
    for (const item of failed) {
      const { reconcileEach } = reconciler;
      const alone = reconcileEach ?? (withRows.length === 1 ? null : reconciler.reconcile);
      const [still] = alone === null ? [item] : await commit(tenantId as string, [item], note, alone);
      if (still === undefined || closed) continue;
      counts.quarantined += 1;
      await patiently(() => quarantine.put(tenantId, { topic: item.message.topic, reason: 'failed', detail: lastError, payload: item.message.payload })).catch(
        (error: Error) => log.error({ error: error.message }, 'quarantine failed'),
      );
      settled(item);
    }
    if (closed) return;
    const gates = [...new Set(batch.filter((item) => !says(item) && resolved.get(item.gate)?.kind === 'device').map(({ gate }) => gate))];
    // Every ledger message is answered, an unreadable one too.
    if (tenantId !== null && gates.length > 0)
      await patiently(async () => publishAcks(await database.withTenant(tenantId, (client) => reconciler.acksFor(client, gates)))).catch((error: Error) =>
        log.error({ error: error.message }, 'reading acknowledgements failed'),
      );
    for (const item of batch) if (!says(item)) settled(item);
  }

  /** Runs one transaction; returns the messages that it could not commit. */
  async function commit(
    tenantId: string,
    items: readonly Waiting<Row>[],
    note: (error: string) => void,
    work: Reconcile<Row>,
  ): Promise<readonly Waiting<Row>[]> {
    if (items.length === 0) return [];
    const gates = [...new Set(items.map(({ gate }) => gate))];
    try {
      const done = await patiently(() =>
        database.withTenant(tenantId, async (client) => {
          const outcome = await work(
            client,
            items.flatMap(({ rows }) => rows),
          );
          const ahead: string[] = [];
          for (const { gate, gone, heads } of items) {
            if (gone !== undefined && gone.length > 0) await reconciler.declareGone?.(client, gate, gone);
            if (heads !== undefined && (await reconciler.takeHeads?.(client, gate, heads))?.ahead === true) ahead.push(gate);
          }
          return { outcome, ahead, acks: await reconciler.acksFor(client, gates) };
        }),
      );
      if (done === undefined) return [];
      counts.batches += 1;
      counts.rows += done.outcome.stored;
      counts.duplicates += done.outcome.duplicates;
      counts.forked += done.outcome.forked.length;
      if (done.outcome.forked.length > 0)
        log.error(
          { rows: done.outcome.forked.filter((_, index) => index < MAX_NAMED_ROWS), alert: 'ledger' },
          `${done.outcome.forked.length} rows do not follow what is stored: kept apart, not acknowledged`,
        );
      publishAcks(done.acks);
      for (const gate of done.ahead) options.onAhead?.(gate);
      for (const item of items) settled(item);
      return [];
    } catch (error) {
      const { message } = error as Error;
      note(message);
      log.error({ error: message, messages: items.length }, 'reconciling ledger rows failed');
      return items;
    }
  }

  /** Logs missing rows between stored ones, by gate: when there are some, when there are more, and when there are none any more. */
  const lacking = new Map<string, number>();
  function reportMissing(gate: string, ack: AckMessage): void {
    const rows = ack.epochs.reduce((sum, { missing }) => sum + missing.reduce((some, [from, to]) => some + to - from + 1, 0), 0);
    const before = lacking.get(gate) ?? 0;
    if (rows > before)
      log.error({ gate, rows, alert: 'ledger' }, `${rows} rows of ${gate} are missing: its acknowledgement names them, and the gate sends them again`);
    if (rows === 0 && before > 0) log.info({ gate, alert: 'ledger' }, `no row of ${gate} is missing any more`);
    if (rows > 0) lacking.set(gate, rows);
    else lacking.delete(gate);
  }

  /** Not awaited: a lost ack is published again with the next message. */
  function publishAcks(acks: ReadonlyMap<string, AckMessage>): void {
    for (const [gate, ack] of acks) {
      reportMissing(gate, ack);
      options.broker
        .publish(topicOf({ kind: 'ack', gate }), JSON.stringify(ack), DELIVERY.ack)
        .catch((error: Error) => log.warn({ gate, error: error.message }, 'publishing an acknowledgement failed'));
    }
  }

  return {
    take(gate, message) {
      counts.messages += 1;
      if (closed) return;
      if (waiting.length >= MAX_WAITING_MESSAGES || heldBytes >= MAX_HELD_BYTES) {
        // Acknowledged to the broker, not to the gate: the gate publishes again what has no ack.
        counts.let_go += 1;
        message.acknowledge();
        return;
      }
      heldBytes += message.payload.byteLength;
      const item = read(gate, message);
      arrivals.count(item.rows.length);
      waiting.push(item);
      wake();
    },
    async idle() {
      while (running.size > 0) await Promise.all(running);
    },
    async close() {
      closed = true;
      stop.abort();
      await Promise.all(running);
    },
    stats: () => ({ ...counts, waiting: waiting.length }),
  };
}

/** Measures how quickly rows arrive, over the last whole RATE_MS. */
function createArrivalRate(now: () => number) {
  let sinceMs = now();
  let rows = 0;
  let last = 0;
  const turn = (): void => {
    const forMs = now() - sinceMs;
    if (forMs < RATE_MS) return;
    last = forMs < 2 * RATE_MS ? rows / forMs : 0;
    sinceMs += forMs;
    rows = 0;
  };
  return {
    count(more: number): void {
      turn();
      rows += more;
    },
    perMs(): number {
      turn();
      return last;
    },
  };
}

const REASONS: Readonly<Record<ParseFailure['error'], QuarantineReason>> = {
  oversized: 'oversized',
  not_utf8: 'unreadable',
  not_json: 'unreadable',
  wrong_version: 'wrong_version',
  malformed: 'unreadable',
};
