/** Implements open, mode and reset-emergency. The gate records each with actor and reason, also offline. */
import { userInfo } from 'node:os';
import { ActorId } from '../../contract/ids.ts';
import { withGate } from './context.ts';
import { CliError, EXIT, print } from './exit-codes.ts';
import type { CommonOptions } from './options.ts';

interface PersonOptions extends CommonOptions {
  readonly reason: string;
  readonly actor?: string;
}

export async function open(options: PersonOptions & { readonly direction: string; readonly units: number }): Promise<void> {
  const args = { direction: options.direction, units: options.units, actor: actorOf(options), reason: options.reason };
  const data = await withGate(options, (gate) => gate.call<Record<string, unknown>>('open', args));
  print(
    options.json,
    data,
    () => `open for ${options.units === 1 ? 'one guest' : `${options.units} guests`}, direction ${options.direction}; recorded under ${args.actor}`,
  );
}

const MODES = ['controlled', 'free', 'locked', 'out_of_service'];

export async function mode(
  wanted: string,
  options: PersonOptions & { readonly direction?: string; readonly until?: string; readonly confirmExitClosed?: boolean },
): Promise<void> {
  const name = wanted.replaceAll('-', '_');
  if (!MODES.includes(name))
    throw new CliError(EXIT.usage, `there is no mode ${wanted}`, `modes are ${MODES.join(', ')}; emergency is entered by the fire input alone`);
  const until = options.until === undefined ? undefined : untilTime(options.until);
  const args = {
    mode: name,
    ...(options.direction === undefined ? {} : { direction: options.direction }),
    ...(until === undefined ? {} : { until }),
    ...(options.confirmExitClosed === true ? { confirm_exit_closed: true } : {}),
    actor: actorOf(options),
    reason: options.reason,
  };
  const data = await withGate(options, (gate) => gate.call<Record<string, unknown>>('mode', args));
  print(
    options.json,
    data,
    () =>
      `${options.direction === undefined ? 'the lane' : `direction ${options.direction}`} is set to ${name}${until === undefined ? '' : ` until ${until}`}; recorded under ${args.actor}`,
  );
}

export async function resetEmergency(options: PersonOptions): Promise<void> {
  const data = await withGate(options, (gate) => gate.call<Record<string, unknown>>('reset-emergency', { actor: actorOf(options), reason: options.reason }));
  print(options.json, data, () => 'the emergency is over; the lane is back in its mode');
}

/** Sends an order without arguments. `done`: the line printed when the gate has taken it. */
export async function giveOrder(order: 'evacuate' | 'stop-entry' | 'resume-entry', done: string, options: PersonOptions): Promise<void> {
  const data = await withGate(options, (gate) => gate.call<Record<string, unknown>>(order, { actor: actorOf(options), reason: options.reason }));
  print(options.json, data, () => done);
}

/** Answers whether the arms turn, where the passage sensor has a fault. */
export async function answerSensor(options: PersonOptions & { readonly turns: string }): Promise<void> {
  const turns = options.turns === 'yes';
  const data = await withGate(options, (gate) => gate.call<Record<string, unknown>>('sensor', { turns, actor: actorOf(options), reason: options.reason }));
  print(options.json, data, () => (turns ? 'the release counts as the passage until the sensor works again' : 'in closes: the lane is out of service'));
}

/** Returns the actor that is recorded. Throws CliError 2. */
export function actorOf(options: { readonly actor?: string }): string {
  const actor = options.actor ?? process.env.SUDO_USER ?? userInfo().username;
  if (!ActorId.safeParse(actor).success)
    throw new CliError(EXIT.usage, `"${actor}" is not a staff id`, 'give --actor with 1 to 64 letters, digits or . _ : @ -');
  return actor;
}

/** Parses HH:MM as the next such time of this machine, or ISO 8601. Returns UTC with milliseconds. */
export function untilTime(text: string, now = new Date()): string {
  const short = /^([01]?\d|2[0-3]):([0-5]\d)$/.exec(text);
  if (short !== null) {
    const at = new Date(now);
    at.setHours(Number(short[1]), Number(short[2]), 0, 0);
    if (at <= now) at.setDate(at.getDate() + 1);
    return at.toISOString();
  }
  const at = /^\d{4}-\d{2}-\d{2}T/.test(text) ? Date.parse(text) : Number.NaN;
  if (Number.isNaN(at)) throw new CliError(EXIT.usage, `"${text}" is no time`, 'give HH:MM, or such as 2026-07-01T18:00:00+02:00');
  if (at <= now.getTime()) throw new CliError(EXIT.usage, `${text} has passed`, 'give a time in the future');
  return new Date(at).toISOString();
}
