/** Handles the calls of the control socket (listed in protocol.ts), from loop and decider. */

import { realpathSync } from 'node:fs';
import { RowPosition } from '../../contract/ids.ts';
import type { Command } from '../../contract/requests.ts';
import { withTimeout } from '../../runtime/timeout.ts';
import type { GateClock } from '../clock/clock.ts';
import type { Config } from '../config/load.ts';
import type { Gate } from '../gate/gate.ts';
import type { GateSnapshot } from '../gate/live-feed.ts';
import type { ActiveAlert, ShownDecision } from '../gate/outcome.ts';
import type { SelftestWatcher } from '../gate/selftest.ts';
import type { Decider, GrantConflict, Reader } from '../ports.ts';
import type { GateStatus, LedgerRow, ManifestStatus, ReaderBytesItem, ReaderTapItem, RecentLine, WatchItem } from './protocol.ts';
import { type CallContext, ControlError, type Handlers } from './server.ts';

/** Most recent lines in a status; the oldest is dropped. */
const MAX_RECENT = 20;
/** Shortest time between two statuses of `watch`, in ms. */
const STATUS_PERIOD_MS = 100;
/** Longest time between two statuses of `watch`, in ms, since uptime and backlog change. */
const STEADY_PERIOD_MS = 5_000;
/** Longest wait for the decider, in ms; then the status omits its part. */
const DECIDER_TIMEOUT_MS = 1_000;
/** Most rows of one `ledger` call; the caller continues from the last. */
const MAX_ROWS = 500;
/** Most ports of one `hear`: the readers that a gate can have; more are refused. */
const MAX_PORTS = 8;
/** Serial ports, and the pseudo-terminals of software readers. */
const SERIAL_PORT = /^\/dev\/(tty(ACM|USB|AMA|S)\d+|pts\/\d+)$/;

export interface HandlerParts {
  readonly config: Config;
  readonly version: string;
  readonly clock: GateClock;
  readonly gate: Gate;
  readonly board: { describe(): string };
  readonly decider: Decider;
  /** Makes a reader on a port that the configuration does not name; does not open it. */
  readonly openPort: (path: string) => Reader;
  /** Returns the reason why the wanted tickets could not be fetched; null when there is none. */
  readonly fetchProblem: () => string | null;
  readonly startedAtMs: number;
  /** Resolves when guests can be decided, with how long that took from the process's start, ms. Calls wait for it. */
  readonly ready: Promise<number>;
}

export interface ControlHandlers {
  readonly handlers: Handlers;
  close(): void;
}

/** Creates the handlers and keeps recent lines until `close`. */
export function createHandlers(parts: HandlerParts): ControlHandlers {
  const recent: RecentLine[] = [];
  const watchers = new Set<(line: RecentLine) => void>();
  const seen = createDifferences((line) => {
    recent.push(line);
    if (recent.length > MAX_RECENT) recent.shift();
    for (const watcher of watchers) watcher(line);
  });
  let end: () => void = () => undefined;
  // From the first decision on: what the lane does while it opens is no news.
  let startMs = 0;
  const ready = parts.ready.then((ms) => {
    startMs = ms;
    end = parts.gate.subscribe((event) => {
      if (event.kind === 'decision') seen.decision(event.decision);
      else if (event.kind === 'conflict') seen.conflict(event.conflict, parts.clock.wallMs());
      else seen.snapshot(event.snapshot);
    });
  });
  const statusNow = (decider = parts.gate.state().decider) => statusOf(parts, { ...parts.gate.state(), decider }, recent, startMs);
  /** Returns the status, with the decider's part when it answers in time. */
  const status = async () => {
    return statusNow(
      await withTimeout(
        // Without an answer the status omits the decider's part; the decider reports its own failure.
        parts.decider.status().catch(() => undefined),
        DECIDER_TIMEOUT_MS,
        undefined,
      ),
    );
  };

  const order = (command: Command, args: Readonly<Record<string, unknown>>) => {
    const { actor, reason, ...rest } = args;
    return obey(parts.gate, command, rest, actor, reason);
  };
  const handlers: Handlers = {
    status,
    manifest: async () => {
      const { manifests, fetch_problem } = await status();
      return { manifests, fetch_problem };
    },
    watch: (_args, context) => watch(context, parts.gate, statusNow, watchers),
    ledger: (args, context) => ledger(args, context, parts.decider),
    open: (args) => order('open', args),
    mode: (args) => order('mode', args),
    'reset-emergency': (args) => order('reset-emergency', args),
    evacuate: (args) => order('evacuate', args),
    'stop-entry': (args) => order('stop-entry', args),
    'resume-entry': (args) => order('resume-entry', args),
    sensor: (args) => order('sensor', args),
    selftest: ({ actor, reason }, { send, gone }) =>
      obey(parts.gate, 'selftest', {}, actor, reason, { report: (news) => void send(news), gone: () => gone.aborted }),
    hear: (args, context) => tapReaders(args, context, parts),
    'reader-bytes': (_args, context) => watchBytes(context, parts.gate),
  };
  const whenReady = Object.entries(handlers).map(
    ([name, handler]) =>
      [
        name,
        async (args: Readonly<Record<string, unknown>>, context: CallContext) => {
          await ready;
          return handler(args, context);
        },
      ] as const,
  );
  return { close: () => end(), handlers: Object.fromEntries(whenReady) };
}

async function obey(gate: Gate, command: Command, args: Record<string, unknown>, actor: unknown, reason: unknown, watcher?: SelftestWatcher): Promise<unknown> {
  if (typeof actor !== 'string' || typeof reason !== 'string')
    throw new ControlError('malformed', 'actor and reason are missing', 'both are recorded: give who and why');
  const result = await gate.command({ command, args, actor, reason, ...(watcher && { watcher }) });
  if (result.status === 'ok') return result.data;
  throw new ControlError(result.error.code === 'malformed' ? 'malformed' : result.error.code === 'refused' ? 'refused' : 'failed', result.error.message);
}

/** Streams the ports from which codes arrive, never the codes, until the client disconnects. Opens ports that no reader of the gate has. */
async function tapReaders(args: Readonly<Record<string, unknown>>, { send, gone }: CallContext, { config, gate, openPort }: HandlerParts): Promise<void> {
  const ports = Array.isArray(args.ports) ? args.ports : [];
  if (ports.length > MAX_PORTS || !ports.every((port) => typeof port === 'string' && SERIAL_PORT.test(port)))
    throw new ControlError('malformed', `ports is a list of at most ${MAX_PORTS} serial ports, such as /dev/ttyACM0`);
  const own = new Map(config.readers.map(({ name, path }) => [name, realPath(path)]));
  const item = (news: ReaderTapItem) => void send(news);
  const end = gate.tapReaders((reader) => item({ port: own.get(reader) ?? '', reader }));
  const opened = (ports as string[])
    .filter((port) => ![...own.values()].includes(port))
    .map((port) => {
      const reader = openPort(port);
      reader.open((event) => {
        if (event.kind === 'frame' || event.kind === 'garbled') item({ port, reader: null });
        else if (event.kind === 'down') item({ port, fault: `${event.fault.cause}. ${event.fault.hint}` });
      });
      return reader;
    });
  try {
    await goneOf(gone);
  } finally {
    end();
    await Promise.all(opened.map((reader) => reader.close()));
  }
}

/** Streams what comes from the readers until the client disconnects. */
async function watchBytes({ send, gone }: CallContext, gate: Gate): Promise<void> {
  const item = (news: ReaderBytesItem) => void send(news);
  const end = gate.tapBytes((event) => {
    if (event.kind === 'coming') return;
    const problem = gate.state().readers.find(({ name }) => name === event.reader)?.problem ?? null;
    const hex = 'bytes' in event ? Buffer.from(event.bytes).toString('hex') : undefined;
    const detail = event.kind === 'garbled' ? event.why : event.kind === 'down' ? `${event.fault.cause}. ${event.fault.hint}` : undefined;
    item({ reader: event.reader, kind: event.kind, problem, ...(hex === undefined ? {} : { hex }), ...(detail === undefined ? {} : { detail }) });
  });
  try {
    await goneOf(gone);
  } finally {
    end();
  }
}

function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}

const goneOf = (gone: AbortSignal): Promise<void> =>
  new Promise((resolve) => (gone.aborted ? resolve() : gone.addEventListener('abort', () => resolve(), { once: true })));

/** Streams statuses and lines until the client disconnects. */
async function watch({ send, gone }: CallContext, gate: Gate, status: () => GateStatus, watchers: Set<(line: RecentLine) => void>): Promise<void> {
  const item = (news: WatchItem) => void send(news);
  let sentMs = 0;
  let later: NodeJS.Timeout | undefined;
  const sendStatus = () => {
    clearTimeout(later);
    later = undefined;
    sentMs = performance.now();
    item({ status: status() });
  };
  const line = (news: RecentLine) => item({ line: news });
  watchers.add(line);
  const end = gate.subscribe(() => {
    if (later === undefined) later = setTimeout(sendStatus, Math.max(0, sentMs + STATUS_PERIOD_MS - performance.now()));
  });
  const steady = setInterval(sendStatus, STEADY_PERIOD_MS);
  try {
    await goneOf(gone);
  } finally {
    end();
    watchers.delete(line);
    clearInterval(steady);
    clearTimeout(later);
  }
}

async function ledger(args: Readonly<Record<string, unknown>>, { send }: CallContext, decider: Decider): Promise<{ rows: number }> {
  const after = args.after === undefined ? null : RowPosition.safeParse(args.after).data;
  if (after === undefined) throw new ControlError('malformed', 'after is [epoch, seq]');
  const limit = typeof args.limit === 'number' && Number.isInteger(args.limit) ? Math.min(Math.max(args.limit, 1), MAX_ROWS) : MAX_ROWS;
  const rows: readonly LedgerRow[] = await decider.rows(after, limit);
  for (const row of rows) send(row);
  return { rows: rows.length };
}

const timestamp = (ms: number): string => new Date(ms).toISOString();

function statusOf(
  { config, version, clock, startedAtMs, board, fetchProblem }: HandlerParts,
  now: GateSnapshot,
  recent: readonly RecentLine[],
  startMs: number,
): GateStatus {
  const { decider } = now;
  const offset = clock.offset();
  const mode = (direction: 'in' | 'out') => ({
    mode: now[direction].mode,
    until: now[direction].untilWallMs === null ? null : timestamp(now[direction].untilWallMs),
  });
  return {
    gate: config.gate,
    version,
    pid: process.pid,
    started_at: timestamp(startedAtMs),
    uptime_s: Math.round(process.uptime()),
    config_files: config.files,
    modes: { in: mode('in'), out: mode('out') },
    signals: { in: now.in.signal, out: now.out.signal },
    lamps: { in: now.in.lamps, out: now.out.lamps },
    fire: now.fire,
    readers: now.readers.map(({ name, ...rest }) => ({ name, ...rest, path: config.readers.find((reader) => reader.name === name)?.path ?? '' })),
    board: { driver: config.board.driver, by: board.describe(), ok: now.boardOk },
    ledger: {
      epoch: decider?.epoch ?? 0,
      last_seq: decider?.lastSeq ?? 0,
      backlog: decider?.backlog ?? 0,
      backlog_oldest_s: decider?.backlogOldestMs == null ? null : Math.max(0, Math.round((clock.wallMs() - decider.backlogOldestMs) / 1000)),
      usage_complete: decider?.usageComplete ?? false,
    },
    fetch_problem: fetchProblem(),
    manifests: (decider?.manifests ?? []).map(
      (one): ManifestStatus => ({
        event_id: one.eventId,
        version: one.version,
        overlay_version: one.overlayVersion,
        generated_at: timestamp(one.generatedAtMs),
        expires_at: timestamp(one.expiresAtMs),
        tickets: one.tickets,
      }),
    ),
    conflicts: {
      standing: decider?.conflicts?.standing ?? 0,
      newest: (decider?.conflicts?.newest ?? []).map(({ row, cause, verdict, ticketId, words }) => ({ row, cause, verdict, ticket_id: ticketId, words })),
    },
    totals: now.totals,
    not_taken: now.notTaken,
    disk_free_mb: Math.floor((decider?.diskFreeBytes ?? 0) / 1_048_576),
    uplink: { url: config.mqtt?.url ?? null, online: now.online },
    clock: {
      wall: timestamp(clock.wallMs()),
      trusted: clock.trusted(),
      why: clock.why(),
      offset_ms: offset?.offsetMs ?? null,
      bound_ms: offset?.boundMs ?? null,
    },
    alerts: now.alerts.map(({ id, severity, message, sinceWallMs }) => ({ id, severity, message, since: timestamp(sinceWallMs) })),
    recent: [...recent],
    start_ms: startMs,
  };
}

/** Creates lines from the differences between snapshots. */
function createDifferences(addLine: (line: RecentLine) => void) {
  let last: GateSnapshot | null = null;
  const alertLine = (at: number, { severity, message }: ActiveAlert, ended: boolean) =>
    addLine({ at: timestamp(at), direction: null, kind: 'alert', words: ended ? `over: ${message}` : `${severity}: ${message}` });
  return {
    decision({ wallMs, direction, outcome, words, ticketId }: ShownDecision): void {
      addLine({
        at: timestamp(wallMs),
        direction,
        kind: outcome === 'grant' || outcome === 'exit_unmatched' ? 'granted' : outcome === 'refusal' ? 'refused' : 'override',
        words: `${outcome === 'refusal' ? 'refused: ' : ''}${words}${ticketId === null ? '' : ` (ticket ${ticketId})`}`,
      });
    },
    conflict({ direction, words, ticketId }: GrantConflict, wallMs: number): void {
      addLine({ at: timestamp(wallMs), direction, kind: 'conflict', words: `${ticketId === null ? '' : `ticket ${ticketId}: `}${words}` });
    },
    snapshot(now: GateSnapshot): void {
      const before = last;
      last = now;
      if (before === null) return;
      for (const direction of ['in', 'out'] as const) {
        if (before[direction].mode !== now[direction].mode)
          addLine({ at: timestamp(now.wallMs), direction, kind: 'mode', words: `mode ${before[direction].mode} → ${now[direction].mode}` });
      }
      for (const alert of now.alerts)
        if (!before.alerts.some(({ id, message }) => id === alert.id && message === alert.message)) alertLine(now.wallMs, alert, false);
      for (const alert of before.alerts) if (!now.alerts.some(({ id }) => id === alert.id)) alertLine(now.wallMs, alert, true);
      if (before.online !== now.online)
        addLine({ at: timestamp(now.wallMs), direction: null, kind: 'alert', words: now.online ? 'broker online' : 'broker offline' });
      const passed = now.totals.passages - before.totals.passages;
      if (passed > 0)
        addLine({ at: timestamp(now.wallMs), direction: null, kind: 'passage', words: passed === 1 ? 'one guest passed' : `${passed} guests passed` });
    },
  };
}
