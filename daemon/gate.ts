/**
 * The gate's loop: input → the lane's step → effects, each carried out in one place. It knows ports only, so tests and the
 * simulation drive it with a time of their own.
 *
 * Inputs are queued and taken one at a time; nothing acts inside a reaction. A release follows the decision's promise, which
 * resolves after its commit. Fire and the staff button need neither the desk nor the uplink.
 */
import type { Direction, RowPosition } from '../contract/ids.ts';
import type { HealthMessage, StatsMessage } from '../contract/messages.ts';
import { explain } from '../contract/reasons.ts';
import { type Alerts, createAlerts } from './gate/alerts.ts';
import { type CommandResult, createCommands, type GateCommand, type UntimedInput } from './gate/commands.ts';
import { createDecisions } from './gate/decisions.ts';
import { createNotes } from './gate/notes.ts';
import { createOutputs } from './gate/outputs.ts';
import { runSelftest } from './gate/selftest.ts';
import { createTally } from './gate/tally.ts';
import type { GateLog, Timers } from './gate/timers.ts';
import { createWatch, type DirectionView, type GateEvent, type GateSnapshot } from './gate/watch.ts';
import type { LaneConfig } from './lane/config.ts';
import { initialLane, step } from './lane/turnstile.ts';
import { BOTH, type BaseMode, effectiveMode, type LaneEffect, type LaneInput, type LaneState, type TimerName } from './lane/types.ts';
import { type Board, type BoardEvent, type Clock, type Decision, type Desk, type DeskStatus, type Fault, INPUT_NAMES, type Note, type Presentation, type Reader, type ReaderEvent, type Uplink, type UplinkEvent } from './ports.ts';

/** The loop looks around so often: failed writes, alerts, the watchdog's proof that it turns. ms */
export const TICK_MS = 250;
/** The desk is asked for its status so often, ms. */
export const STATUS_MS = 5_000;
/** `close` waits so long for who is under way, then returns what is open. ms */
export const CLOSE_WAIT_MS = 8_000;
/** `close` waits so long for the last rows to be written, ms. */
export const FLUSH_WAIT_MS = 2_000;
/** Pause before a desk that could not be opened is tried again, ms; doubled each time up to the greatest. */
const DESK_RETRY_MS = { first: 2_000, greatest: 30_000 } as const;
/** `open` waits so long for the desk, then goes on without it: codes are refused with `error` until it is open. ms */
const DESK_WAIT_MS = 5_000;
/** Override rows remembered, so that their passages are not counted as admissions. */
const MAX_OVERRIDE_ROWS = 64;

/** Manifests and the site's ledger, fetched over HTTP: the link's part, handed in. None may throw into the loop. */
export interface GateSync {
  /** `manifest/want` as it came. */
  want(payload: Uint8Array): Promise<void>;
  /** A signed overlay as it came. */
  overlay(payload: Uint8Array): Promise<void>;
  /** A peer's rows have a gap: fetch the site's ledger. */
  gap(): Promise<void>;
  /** Fetch what is wanted now; what it says goes into the answer. */
  refresh(): Promise<unknown>;
}

export interface GateOptions {
  readonly config: { /** `<site>/<gate>`. */ readonly gate: string; readonly lane: LaneConfig };
  readonly clock: Clock;
  readonly desk: Desk;
  readonly board: Board;
  readonly readers: readonly Reader[];
  readonly uplink: Uplink;
  readonly sync: GateSync;
  readonly log: GateLog;
  readonly timers: Timers;
  /** The lane is idle and an operator asked for it: end the process so that it is started again. */
  readonly restart: () => void;
}

/** What only the process knows of itself, for `health`. */
export interface HostHealth {
  readonly rss_mb: number;
  readonly uptime_s: number;
  readonly cpu_temp_c?: number;
  readonly under_voltage?: 0 | 1;
}

export interface Gate {
  /** Board, desk, readers, uplink, in this order. A desk that fails is tried again; only a board that fails throws. */
  open(): Promise<void>;
  /** Nobody new, who is under way is waited for, the rest returned; then everything is given back. Bounded. */
  close(reason: string): Promise<void>;
  command(command: GateCommand): Promise<CommandResult>;
  /** The lane now, plain data. */
  state(): GateSnapshot;
  /** Snapshots and decisions as they come; returns the end of it. Throws where MAX_WATCHERS watch already. */
  subscribe(listener: (event: GateEvent) => void): () => void;
  /** When the loop last turned, boottime ms: feed the watchdog only where this is recent. */
  lastTurnMs(): number;
  telemetry(): {
    /** Of now. The longest lag of the loop since the last call is taken. */
    health(host: HostHealth): Omit<HealthMessage, 'schema'>;
    /** Of the window since the last call. */
    stats(): Omit<StatsMessage, 'schema'>;
  };
}

/** Nothing happens before `open`. */
export function createGate(options: GateOptions): Gate {
  const { clock, desk, board, uplink, readers, log, timers, sync } = options;
  const { gate, lane: config } = options.config;

  let lane: LaneState = initialLane();
  let status: DeskStatus | null = null;
  let deskOpen = false;
  let boardOk = false;
  let closing = false;
  let statusAsked = false;
  let statusAtMs = Number.NEGATIVE_INFINITY;
  let tick: { cancel(): void } | null = null;
  let deskRetry: { cancel(): void } | null = null;
  let lastTurnMs = clock.boottimeMs();
  let lagMs = 0;
  let latchWanted: boolean | null = null;
  let latchUnderWay = false;
  let idle: (() => void) | null = null;
  let restarting = false;
  let selftesting = false;
  const inputs: LaneInput[] = [];
  let stepping = false;
  const running = new Map<TimerName, { cancel(): void }>();
  const overrideRows = new Set<string>();
  const taps = new Set<(event: BoardEvent) => void>();

  const tally = createTally(clock.boottimeMs());
  const watch = createWatch({ snapshot, timers, failed: (error) => log.warn('a watcher failed and is taken off', { cause: said(error) }) });
  const alerts: Alerts = createAlerts({
    uplink, clock,
    changed({ id, severity, message }, active) {
      tellUplink('alert', active ? severity : 'info', { alert: id, active: active ? 1 : 0, message });
      log.info(active ? 'alert raised' : 'alert cleared', { alert: id, severity, detail: message });
      watch.changed();
    },
  });
  const outputs = createOutputs({
    board, clock, timers, lamps: config.lamps, changed: () => watch.changed(),
    failed: (output, error) => boardFailed({ operation: `write ${output}`, cause: said(error), hint: 'see stile-gate doctor', healsItself: true }),
  });
  const notes = createNotes({ record: (note) => desk.record(note), timers, written: noteWritten, failed: deskFailed });
  const decisions = createDecisions({ desk, clock, online: () => uplink.online(), ready: () => deskOpen, dispatch, decided, failed: deskFailed, answered: deskWorks });
  const command = createCommands({
    lane: () => lane, dispatch, notes, desk, uplink, clock, timers, refresh: () => sync.refresh(),
    diagnostics: async () => ({ ...snapshot(), desk: deskOpen ? await desk.status() : null }),
    selftest,
  });

  // ---------------------------------------------------------------- the loop

  /** Queues an input; takes all that wait, one step each. */
  function dispatch(input: UntimedInput): void {
    take({ ...input, atMs: clock.boottimeMs(), wallMs: clock.wallMs() } as LaneInput);
  }

  function take(input: LaneInput): void {
    inputs.push(input);
    if (stepping) return;
    stepping = true;
    try {
      for (let next = inputs.shift(); next !== undefined; next = inputs.shift()) {
        const result = step(lane, next, config);
        lane = result.state;
        for (const effect of result.effects) carryOut(effect);
      }
    } finally {
      stepping = false;
    }
    lastTurnMs = clock.boottimeMs();
    watch.changed();
  }

  function carryOut(effect: LaneEffect): void {
    switch (effect.kind) {
      case 'write': return outputs.write(effect.output, effect.active);
      case 'signal': return outputs.show(effect.direction, effect.signal);
      case 'set_timer': return setTimer(effect.timer, effect.dueMs);
      case 'cancel_timer': return cancelTimer(effect.timer);
      case 'decide': return decisions.decide(effect.presentation, effect.direction, effect.mode);
      case 'abandon': return giveUp(effect.presentation, effect.why);
      case 'drop': return decisions.drop(effect.presentation);
      case 'record': return void notes.add(effect.note, effect.override);
      case 'fire_latch': return keepLatch(effect.latched);
      case 'raise': return alerts.raise(effect.alert, effect.severity, effect.message);
      case 'clear': return alerts.clear(effect.alert);
      case 'refused': return refusedHere(effect.direction, effect.reason);
      case 'idle': return idle?.();
    }
  }

  function setTimer(timer: TimerName, dueMs: number): void {
    running.get(timer)?.cancel();
    running.set(timer, timers.after(dueMs - clock.boottimeMs(), () => {
      running.delete(timer);
      dispatch({ kind: 'timer', timer });
    }));
  }

  function cancelTimer(timer: TimerName): void {
    running.get(timer)?.cancel();
    running.delete(timer);
  }

  // ---------------------------------------------------------------- decisions

  function decided(decision: Decision, presentation: Presentation, latencyUs: number): void {
    const { verdict, row, eventId, ticketId, ticketRef, stages } = decision;
    const { direction, reader } = presentation;
    const refusal = verdict.kind === 'refusal';
    tally.decided(latencyUs);
    if (refusal) tally.refused(verdict.reason);
    const words = refusal ? verdict.explanation : grantWords(verdict);
    watch.decided({
      wallMs: clock.wallMs(), direction, reader, outcome: verdict.kind, reason: refusal ? verdict.reason : null, words, eventId, ticketId, ticketRef,
      units: refusal ? 0 : verdict.units, flags: refusal ? [] : verdict.flags, row, latencyUs: Math.round(latencyUs), stages,
    });
    tellUplink(verdict.kind, 'info', { direction, words, ...(refusal ? { reason: verdict.reason } : { type: verdict.type, units: verdict.units }), ...(ticketRef === null ? {} : { ticket_ref: ticketRef }), epoch: row[0], seq: row[1] });
    uplink.kick();
  }

  /** Refused without the desk. */
  function refusedHere(direction: Direction, reason: 'unreadable' | 'gate_locked' | 'error'): void {
    tally.refused(reason);
    const words = explain(reason);
    watch.decided({ wallMs: clock.wallMs(), direction, reader: null, outcome: 'refusal', reason, words, eventId: null, ticketId: null, ticketRef: null, units: 0, flags: [], row: null, latencyUs: null, stages: null });
    tellUplink('refusal', 'info', { direction, reason, words });
  }

  function giveUp(presentation: number, why: 'late' | 'overruled'): void {
    decisions.abandon(presentation);
    if (why === 'late') diskBad('the store has not answered in time');
  }

  // ---------------------------------------------------------------- the desk: notes, faults, latch

  function noteWritten(note: Note, row: RowPosition): void {
    deskWorks();
    if (note.kind === 'passage') tally.passage(note.outcome, note.direction, note.of !== null && !overrideRows.has(note.of.join('/')));
    if (note.kind === 'override') {
      overrideRows.add(row.join('/'));
      const oldest = overrideRows.values().next();
      if (overrideRows.size > MAX_OVERRIDE_ROWS && !oldest.done) overrideRows.delete(oldest.value);
    }
    if (note.kind === 'override' && note.action === 'open') {
      watch.decided({ wallMs: clock.wallMs(), direction: note.direction ?? 'in', reader: null, outcome: 'override', reason: null, words: `opened by ${note.actor}: ${note.reason}`, eventId: null, ticketId: null, ticketRef: null, units: note.units ?? 1, flags: [], row: null, latencyUs: null, stages: null });
    }
    if (note.kind !== 'refusal') tellUplink(note.kind, note.kind === 'alarm' || note.kind === 'fault' ? 'warning' : 'info', { ...note });
    uplink.kick();
  }

  function deskFailed(error: unknown): void {
    const fault = (error as { fault?: Fault } | null)?.fault;
    diskBad(fault === undefined ? said(error) : `${fault.operation}: ${fault.cause}. ${fault.hint}`);
  }

  function diskBad(why: string): void {
    alerts.raise('disk', 'critical', `nothing can be recorded, so nobody is admitted: ${why}`);
    if (!lane.diskOk) return;
    log.error('the store failed', { cause: why });
    dispatch({ kind: 'condition', condition: 'disk', ok: false });
    // Its own retries show when the disk works again.
    void notes.add({ kind: 'fault', what: 'disk', detail: why.slice(0, 500) });
  }

  function deskWorks(): void {
    if (lane.diskOk) return;
    alerts.clear('disk');
    log.info('the store works again');
    dispatch({ kind: 'condition', condition: 'disk', ok: true });
    if (notes.dropped() > 0) log.error('notes gave way to the bound while the store had failed', { count: notes.dropped() });
  }

  function keepLatch(latched: boolean): void {
    latchWanted = latched;
    if (!deskOpen || latchUnderWay) return;
    latchUnderWay = true;
    desk.setFireLatch(latched).then(() => {
      if (latchWanted === latched) latchWanted = null;
    }, deskFailed).finally(() => {
      latchUnderWay = false;
    });
  }

  /** A disk that stalls at the start holds neither the button nor the readers. */
  async function openDeskWithin(): Promise<void> {
    await new Promise<void>((resolve) => {
      const late = timers.after(DESK_WAIT_MS, resolve);
      void openDesk(DESK_RETRY_MS.first).then(() => {
        late.cancel();
        resolve();
      });
    });
    if (!deskOpen && lane.diskOk) diskBad('the store does not open in time');
  }

  async function openDesk(waitMs: number): Promise<void> {
    try {
      status = await desk.open();
    } catch (error) {
      deskFailed(error);
      dispatch({ kind: 'condition', condition: 'booted', ok: true });
      if (!closing) deskRetry = timers.after(waitMs, () => void openDesk(Math.min(waitMs * 2, DESK_RETRY_MS.greatest)));
      return;
    }
    deskOpen = true;
    statusAtMs = clock.boottimeMs();
    openedWith ??= status.totals;
    const restored = (direction: Direction): { mode: BaseMode; untilWallMs: number | null } => {
      const { mode, untilMs, from } = (status as DeskStatus).modes[direction];
      return { mode: mode !== 'emergency' ? mode : from === undefined || from === 'emergency' ? 'controlled' : from, untilWallMs: untilMs };
    };
    dispatch({ kind: 'restore', modes: { in: restored('in'), out: restored('out') }, fireLatched: latchWanted ?? status.fireLatched });
    deskWorks();
    notes.start();
    judgeStatus(status);
    dispatch({ kind: 'condition', condition: 'booted', ok: true });
    if (lane.fire.latched && !status.fireLatched) keepLatch(true);
  }

  // ---------------------------------------------------------------- looking around

  function around(): void {
    const nowMs = clock.boottimeMs();
    lagMs = Math.max(lagMs, nowMs - lastTickMs - TICK_MS);
    lastTickMs = nowMs;
    lastTurnMs = nowMs;
    outputs.repair();
    if (boardOk !== board.ok()) setBoard(board.ok());
    if (latchWanted !== null) keepLatch(latchWanted);
    if (clock.trusted()) alerts.clear('clock');
    else alerts.raise('clock', 'warning', 'the wall clock is not trusted: validity is judged by the policy for it');
    if (deskOpen && !statusAsked && nowMs - statusAtMs >= STATUS_MS) void askStatus();
    tick = timers.after(TICK_MS, around);
  }
  let lastTickMs = clock.boottimeMs();

  async function askStatus(): Promise<void> {
    statusAsked = true;
    try {
      status = await desk.status();
      judgeStatus(status);
    } catch (error) {
      deskFailed(error);
    } finally {
      statusAsked = false;
      statusAtMs = clock.boottimeMs();
      watch.changed();
    }
  }

  function judgeStatus({ manifests, usageComplete }: DeskStatus): void {
    const stale = manifests.filter((one) => one.expiresAtMs <= clock.wallMs());
    if (manifests.length === 0) alerts.raise('manifest', 'critical', 'no ticket list: nobody can be admitted');
    else if (stale.length > 0) alerts.raise('manifest', 'warning', `the ticket list is too old: ${stale.map((one) => one.eventId).join(', ')}`);
    else alerts.clear('manifest');
    if (lane.manifestOk !== manifests.length > 0) dispatch({ kind: 'condition', condition: 'manifest', ok: manifests.length > 0 });
    if (usageComplete) alerts.clear('ledger');
    else alerts.raise('ledger', 'warning', 'usage is not complete: this gate does not yet know everybody who is inside');
  }

  // ---------------------------------------------------------------- board and readers

  function boardFailed(fault: Fault): void {
    if (boardOk) void notes.add({ kind: 'fault', what: 'board', detail: `${fault.operation}: ${fault.cause}`.slice(0, 500) });
    boardOk = false;
    alerts.raise('board', 'critical', `${fault.operation}: ${fault.cause}. ${fault.hint}`);
  }

  function setBoard(good: boolean): void {
    boardOk = good;
    if (good) alerts.clear('board');
    else alerts.raise('board', 'critical', 'the board reports a fault');
  }

  function onBoard(event: BoardEvent): void {
    for (const tap of taps) tap(event);
    // While the lane tries itself, only fire counts; levels read every 250 ms bring the rest up to date after.
    if (selftesting && event.input !== 'fire') return;
    take({ kind: 'line', input: event.input, active: event.active, initial: false, atMs: event.atMs, wallMs: clock.wallMs() });
  }

  function onReader(event: ReaderEvent): void {
    switch (event.kind) {
      case 'frame': return dispatch(decisions.present(event));
      case 'garbled': return dispatch({ kind: 'garbled', direction: event.direction });
      case 'up': case 'down': return readerChanged(event);
    }
  }

  function readerChanged(event: Extract<ReaderEvent, { kind: 'up' | 'down' }>): void {
    const alert = `reader-${event.reader}` as const;
    if (event.kind === 'up') alerts.clear(alert);
    else alerts.raise(alert, 'critical', `${event.fault.operation}: ${event.fault.cause}. ${event.fault.hint}`);
    judgeReaders();
  }

  function judgeReaders(): void {
    for (const direction of BOTH) {
      const own = readers.filter((reader) => reader.direction === direction);
      const good = own.length === 0 || own.some((reader) => reader.ok());
      if (good !== lane[direction].readerOk) dispatch({ kind: 'reader', direction, ok: good });
    }
  }

  // ---------------------------------------------------------------- the uplink

  async function onUplink(event: UplinkEvent): Promise<void> {
    try {
      switch (event.kind) {
        case 'online': alerts.clear('uplink'); uplink.kick(); return watch.changed();
        case 'offline': alerts.raise('uplink', 'warning', `${event.fault.operation}: ${event.fault.cause}`); return watch.changed();
        case 'ack': return await acknowledged(event.ack);
        case 'peer': if ((await desk.applyPeer(event.payload)).gap) await sync.gap(); return;
        case 'want': return await sync.want(event.payload);
        case 'overlay': return await sync.overlay(event.payload);
        case 'request': {
          const { actor, reason, transaction, args } = event.request;
          return event.respond(await command({ command: event.command, args, actor, reason, transaction }));
        }
      }
    } catch (error) {
      log.warn('what the uplink brought could not be taken', { what: event.kind, cause: said(error) });
    }
  }

  async function acknowledged(ack: Extract<UplinkEvent, { kind: 'ack' }>['ack']): Promise<void> {
    const { backlog, ahead } = await desk.acknowledge(ack);
    if (status !== null) status = { ...status, backlog };
    if (ahead) log.warn('the cloud knows rows that this ledger does not have: a new epoch was begun');
    uplink.kick();
    watch.changed();
  }

  function tellUplink(type: string, severity: 'info' | 'warning' | 'critical', detail: Record<string, unknown>): void {
    uplink.event({ type, severity, ts: new Date(clock.wallMs()).toISOString(), detail });
  }

  // ---------------------------------------------------------------- what people see

  async function selftest(): Promise<Record<string, unknown>> {
    if (selftesting) throw new Error('a self-test is running already');
    selftesting = true;
    const stopWas = outputs.level('stop');
    outputs.write('stop', false);
    try {
      const steps = await runSelftest({
        board, config, timers, write: outputs.write, ended: () => lane.fire.latched || closing,
        listen: (listener) => {
          taps.add(listener);
          return () => void taps.delete(listener);
        },
      });
      return { steps };
    } finally {
      selftesting = false;
      if (stopWas && !lane.fire.latched) outputs.write('stop', true);
      for (const direction of BOTH) outputs.show(direction, lane[direction].signal);
    }
  }

  function view(direction: Direction): DirectionView {
    const one = lane[direction];
    return {
      mode: effectiveMode(lane, direction), pendingMode: one.pendingMode?.mode ?? null, untilWallMs: one.untilWallMs, signal: one.signal, lamps: outputs.lamps()[direction],
      released: outputs.level(`release_${direction}`), grant: one.grant === null ? null : { unit: one.grant.unit, units: one.grant.units, phase: one.grant.phase }, deciding: one.deciding !== null,
    };
  }

  /** Totals of the ledger as it was opened, and what has been since. */
  function totals() {
    const since = tally.totals();
    const before = openedWith ?? since;
    return openedWith === null ? since : { admissions: before.admissions + since.admissions, refusals: before.refusals + since.refusals, passages: before.passages + since.passages };
  }
  let openedWith: DeskStatus['totals'] | null = null;

  function snapshot(): GateSnapshot {
    return {
      gate, wallMs: clock.wallMs(), in: view('in'), out: view('out'), buzzer: outputs.level('buzzer'), fire: { ...lane.fire }, tamper: lane.tamper, online: uplink.online(), diskOk: lane.diskOk, boardOk,
      readers: readers.map((reader) => ({ name: reader.name, direction: reader.direction, ok: reader.ok() })), desk: status, pendingNotes: notes.pending(), totals: totals(), alerts: alerts.active(), decisions: watch.decisions(),
    };
  }

  function health(host: HostHealth): Omit<HealthMessage, 'schema'> {
    const offset = clock.offset();
    const manifest = status?.manifests.reduce<DeskStatus['manifests'][number] | null>((newest, one) => (newest === null || one.generatedAtMs > newest.generatedAtMs ? one : newest), null) ?? null;
    const counted = totals();
    const lag = Math.max(0, lagMs);
    lagMs = 0;
    return {
      ...host, loop_lag_ms: Math.round(lag), disk_free_mb: Math.floor((status?.diskFreeBytes ?? 0) / 1_048_576), clock_trusted: clock.trusted() ? 1 : 0,
      ...(offset === null ? {} : { clock_offset_ms: offset.offsetMs, clock_bound_ms: offset.boundMs }),
      backlog: status?.backlog ?? 0, backlog_oldest_s: status?.backlogOldestMs == null ? 0 : Math.max(0, Math.round((clock.wallMs() - status.backlogOldestMs) / 1_000)), manifest_version: manifest?.version ?? 0,
      manifest_age_s: manifest === null ? 0 : Math.max(0, Math.round((clock.wallMs() - manifest.generatedAtMs) / 1_000)), reader_ok: readers.every((reader) => reader.ok()) ? 1 : 0, board_ok: boardOk ? 1 : 0,
      mode: effectiveMode(lane, 'in'), ...(effectiveMode(lane, 'out') === effectiveMode(lane, 'in') ? {} : { mode_out: effectiveMode(lane, 'out') }),
      admissions_total: counted.admissions, refusals_total: counted.refusals, passages_total: counted.passages,
    };
  }

  // ---------------------------------------------------------------- beginning and end

  async function drain(): Promise<void> {
    let late: { cancel(): void } | null = null;
    const settled = new Promise<void>((resolve) => {
      idle = resolve;
      late = timers.after(CLOSE_WAIT_MS, resolve);
    });
    dispatch({ kind: 'drain', cancel: false });
    await settled;
    (late as { cancel(): void } | null)?.cancel();
  }

  return {
    async open() {
      await board.open(onBoard, boardFailed);
      boardOk = board.ok();
      for (const input of INPUT_NAMES) {
        if (board.has(input)) take({ kind: 'line', input, active: board.read(input), initial: true, atMs: clock.boottimeMs(), wallMs: clock.wallMs() });
      }
      for (const direction of BOTH) outputs.show(direction, lane[direction].signal);
      lastTickMs = clock.boottimeMs();
      tick = timers.after(TICK_MS, around);
      idle = () => {
        if (restarting || closing) return;
        restarting = true;
        options.restart();
      };
      await openDeskWithin();
      for (const reader of readers) reader.open(onReader);
      judgeReaders();
      uplink.open(onUplink);
    },
    async close(reason) {
      if (closing) return;
      closing = true;
      deskRetry?.cancel();
      await Promise.all(readers.map((reader) => reader.close()));
      await drain();
      dispatch({ kind: 'stop' });
      outputs.close();
      await board.close({ releaseOpen: lane.fire.latched || lane.fire.asserted });
      if (deskOpen && !(await notes.flush(FLUSH_WAIT_MS))) log.error('the last notes could not be written', { count: notes.pending() });
      notes.close();
      await uplink.close(reason);
      tick?.cancel();
      for (const timer of running.values()) timer.cancel();
      watch.close();
      await desk.close();
    },
    command,
    state: snapshot,
    subscribe: (listener) => watch.subscribe(listener),
    lastTurnMs: () => lastTurnMs,
    telemetry: () => ({ health, stats: () => tally.take(clock.boottimeMs()) }),
  };
}

function grantWords({ type, units, flags }: Extract<Decision['verdict'], { kind: 'grant' }>): string {
  const what = type === 'first_entry' ? 'admitted' : type === 'reentry' ? 'admitted again' : 'let out';
  return `${what}${units > 1 ? `, ${units} guests` : ''}${flags.length > 0 ? ` (${flags.join(', ')})` : ''}`;
}

function said(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
