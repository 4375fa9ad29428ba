/**
 * Runs the operators' commands, from the cloud or through the control socket: the same commands, the same answers. Each writes
 * an override row with actor and reason.
 */
import { ActorId, type Direction, type RowPosition } from '../../contract/ids.ts';
import { MAX_TEXT_CHARS } from '../../contract/limits.ts';
import { type Command, CommandArgs, type RequestError } from '../../contract/requests.ts';
import { describeIssue } from '../../contract/schema-errors.ts';
import { cutText } from '../../contract/text.ts';
import { isIdle, openRefusal } from '../lane/state-machine.ts';
import { BOTH, closes, effectiveMode, type LaneNote, type LaneState } from '../lane/types.ts';
import type { Clock, Decider, GateSync, Uplink } from '../ports.ts';
import type { Timers } from '../timers.ts';
import { causeOf, type Report, type UntimedInput } from './outcome.ts';
import type { PendingEntries } from './pending-entries.ts';
import type { SelftestWatcher } from './selftest.ts';

/** One command. `args` as in contract/requests.ts, checked here once more. */
export interface GateCommand {
  readonly command: Command;
  readonly args?: unknown;
  readonly actor: string;
  readonly reason: string;
  /** The transaction of a request from the cloud. */
  readonly transaction?: string;
  /** Self-test alone: a person at the lane follows it. */
  readonly watcher?: SelftestWatcher;
}

export type CommandResult =
  | { readonly status: 'ok'; readonly data: Record<string, unknown> }
  | { readonly status: 'error'; readonly error: { readonly code: RequestError; readonly message: string } };

/** Bounds the ranges in the answer to `resend`; `rows` counts those of all. */
const MAX_RANGES_ANSWERED = 100;
/** Bounds the wait for a command's row, ms; beyond it `open` is refused and the others answer `recorded: false`. */
export const RECORD_WAIT_MS = 2_000;

export interface CommandsOptions {
  readonly lane: () => LaneState;
  readonly report: Report;
  readonly pendingEntries: Pick<PendingEntries, 'add'>;
  readonly decider: Pick<Decider, 'resend'>;
  readonly uplink: Pick<Uplink, 'kick'>;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly sync: Pick<GateSync, 'refresh'>;
  readonly diagnostics: () => Promise<Record<string, unknown>>;
  readonly selftest: (watcher: SelftestWatcher | null) => Promise<Record<string, unknown>>;
}

const IN: readonly Direction[] = ['in'];

const refused = (message: string): CommandResult => ({ status: 'error', error: { code: 'refused', message } });
const failed = (message: string): CommandResult => ({ status: 'error', error: { code: 'failed', message: cutText(message, MAX_TEXT_CHARS) } });
const ok = (data: Record<string, unknown>): CommandResult => ({ status: 'ok', data });

/** Returns the function that runs one command. It never rejects. */
export function createCommands(options: CommandsOptions): (command: GateCommand) => Promise<CommandResult> {
  const { lane, report, pendingEntries, clock, timers } = options;
  const dispatch = (input: UntimedInput) => report({ kind: 'lane_input', input });

  let opened = 0;

  const override = (order: GateCommand, rest: Partial<Extract<LaneNote, { kind: 'override' }>> = {}, number?: number) =>
    pendingEntries.add(
      {
        kind: 'override',
        actor: order.actor,
        action: order.command,
        reason: order.reason,
        ...rest,
        ...(order.transaction === undefined ? {} : { transaction: order.transaction }),
      },
      number,
    );

  /** Returns the row, or null when it is not committed within RECORD_WAIT_MS (it is still retried). */
  const within = (row: Promise<RowPosition>): Promise<RowPosition | null> =>
    new Promise((resolve) => {
      const late = timers.after(RECORD_WAIT_MS, () => resolve(null));
      void row.then((position) => {
        late.cancel();
        resolve(position);
      });
    });

  const modes = () => ({ mode_in: effectiveMode(lane(), 'in'), mode_out: effectiveMode(lane(), 'out') });

  async function open(order: GateCommand, args: { direction: Direction; units: number }): Promise<CommandResult> {
    const { direction, units } = args;
    const why = openRefusal(lane(), direction);
    if (why !== null) return refused(why);
    if (direction === 'out') return openOut(order, units);
    const written = override(order, { direction, units });
    const row = await within(written);
    if (row === null) {
      // Committed later after all: its units are returned.
      void written.then((late) => dispatchReturn(late, direction, units));
      return failed('the opening could not be recorded, so the lane stays closed: see the alert disk; the staff button and mode free work');
    }
    const stillWhy = openRefusal(lane(), direction);
    dispatch({ kind: 'open', direction, units, row });
    return stillWhy === null ? ok({ direction, units, row, ...modes() }) : refused(stillWhy);
  }

  /** Opens outwards at once: the row follows. */
  async function openOut(order: GateCommand, units: number): Promise<CommandResult> {
    opened += 1;
    // Below zero, apart from the lane's own numbers.
    const written = override(order, { direction: 'out', units }, -opened);
    dispatch({ kind: 'open', direction: 'out', units, override: -opened });
    const row = await within(written);
    return ok({ direction: 'out', units, row, recorded: row !== null, ...modes() });
  }

  function dispatchReturn(row: RowPosition, direction: Direction, units: number): void {
    for (let unit = 1; unit <= units; unit += 1) void pendingEntries.add({ kind: 'passage', of: { row }, direction, unit, outcome: 'returned' });
  }

  async function mode(
    order: GateCommand,
    args: {
      mode: 'controlled' | 'free' | 'locked' | 'out_of_service';
      direction?: Direction | undefined;
      until?: string | undefined;
      confirm_exit_closed?: true | undefined;
    },
  ): Promise<CommandResult> {
    const confirmed = args.confirm_exit_closed === true;
    if (confirmed && (args.direction !== 'out' || !closes(args.mode)))
      return refused('confirm_exit_closed belongs to direction out and a mode that closes it (locked, out_of_service)');
    if (args.direction === 'out' && closes(args.mode) && !confirmed)
      return refused('nobody is kept inside: to close the exit for at most 15 min, give --confirm-exit-closed with direction out');
    const untilWallMs = args.until === undefined ? null : Date.parse(args.until);
    if (untilWallMs !== null && untilWallMs <= clock.wallMs()) return refused('until is in the past');
    // Without a direction only in is closed: out stays as it is.
    const directions = args.direction !== undefined ? [args.direction] : closes(args.mode) ? IN : BOTH;
    const row = within(
      override(order, { ...(args.direction === undefined ? {} : { direction: args.direction }), ...(args.until === undefined ? {} : { until: args.until }) }),
    );
    dispatch({ kind: 'mode', directions, mode: args.mode, untilWallMs, actor: order.actor, reason: order.reason, exitClosedConfirmed: confirmed });
    const waits = directions.filter((direction) => lane()[direction].pendingMode !== null);
    return ok({ ...modes(), waits_for_passage: waits, recorded: (await row) !== null });
  }

  async function reset(order: GateCommand): Promise<CommandResult> {
    const { fire } = lane();
    if (!fire.latched) return refused('there is no emergency to reset');
    if (fire.asserted) return refused('the fire input is still asserted: clear it first');
    const row = within(override(order));
    dispatch({ kind: 'reset_emergency', actor: order.actor, reason: order.reason });
    return ok({ ...modes(), recorded: (await row) !== null });
  }

  /** Gives the lane an order that it carries out at once; the row follows. */
  async function act(order: GateCommand, input: UntimedInput): Promise<CommandResult> {
    const row = within(override(order));
    dispatch(input);
    return ok({ ...modes(), waits_for_passage: BOTH.filter((direction) => lane()[direction].pendingMode !== null), recorded: (await row) !== null });
  }

  async function sensor(order: GateCommand, turns: boolean): Promise<CommandResult> {
    if (BOTH.every((direction) => lane()[direction].sensor.fault === null)) return refused('the passage sensor has no fault that waits for an answer');
    return act(order, { kind: 'sensor_answer', turns, actor: order.actor, reason: order.reason });
  }

  async function restart(order: GateCommand): Promise<CommandResult> {
    if (lane().fire.latched) return refused('the lane is open by the fire input: restarts wait until it is reset');
    const waits = BOTH.some((direction) => !isIdle(lane(), direction));
    const recorded = (await within(override(order))) !== null;
    dispatch({ kind: 'drain', cancel: false });
    return ok({ waits_for_passage: waits, recorded });
  }

  async function selftest(order: GateCommand): Promise<CommandResult> {
    if (effectiveMode(lane(), 'in') !== 'out_of_service') return refused('a self-test moves the lane: put it out of service first (mode out_of_service)');
    if ((await within(override(order))) === null) return failed('the self-test could not be recorded: see the alert disk');
    return ok(await options.selftest(order.watcher ?? null));
  }

  async function run(order: GateCommand): Promise<CommandResult> {
    switch (order.command) {
      case 'open':
        return open(order, order.args as Parameters<typeof open>[1]);
      case 'mode':
        return mode(order, order.args as Parameters<typeof mode>[1]);
      case 'reset-emergency':
        return reset(order);
      case 'evacuate':
        return act(order, { kind: 'evacuate', actor: order.actor, reason: order.reason });
      case 'stop-entry':
        return act(order, { kind: 'stop_entry', actor: order.actor, reason: order.reason });
      case 'resume-entry':
        return act(order, { kind: 'resume_entry', actor: order.actor, reason: order.reason });
      case 'sensor':
        return sensor(order, (order.args as { turns: boolean }).turns);
      case 'restart':
        return restart(order);
      case 'selftest':
        return selftest(order);
      case 'refresh': {
        const found = await options.sync.refresh();
        return ok({ recorded: (await within(override(order))) !== null, ...(typeof found === 'object' && found !== null ? found : {}) });
      }
      case 'resend': {
        const { epoch, from_seq } = order.args as { epoch?: number; from_seq?: number };
        const spans = await options.decider.resend(epoch === undefined || from_seq === undefined ? null : [epoch, from_seq]);
        options.uplink.kick(true);
        const rows = spans.reduce((sum, [, from, to]) => sum + to - from + 1, 0);
        return ok({ rows, ranges: spans.slice(0, MAX_RANGES_ANSWERED), recorded: (await within(override(order))) !== null });
      }
      case 'handback':
        return refused('this gate keeps no messages of other ledgers');
      case 'diagnostics':
        return ok(await options.diagnostics());
    }
  }

  return async (command) => {
    if (!Object.hasOwn(CommandArgs, command.command))
      return { status: 'error', error: { code: 'unknown_command', message: `this gate knows ${Object.keys(CommandArgs).join(', ')}` } };
    const args = CommandArgs[command.command].safeParse(command.args ?? {});
    if (!args.success)
      return {
        status: 'error',
        error: {
          code: 'malformed',
          message: cutText(
            `args: ${args.error.issues.map((issue) => `${issue.path.join('.') || '(all)'}: ${describeIssue(issue)}`).join('; ')}`,
            MAX_TEXT_CHARS,
          ),
        },
      };
    if (!ActorId.safeParse(command.actor).success)
      return { status: 'error', error: { code: 'malformed', message: 'actor: a staff id of 1 to 64 letters, digits or . _ : @ -' } };
    const reason = command.reason.trim();
    if (reason === '' || reason.length > MAX_TEXT_CHARS)
      return { status: 'error', error: { code: 'malformed', message: `reason: 1 to ${MAX_TEXT_CHARS} characters` } };
    try {
      return await run({ ...command, reason, args: args.data });
    } catch (error) {
      return failed(causeOf(error));
    }
  };
}
