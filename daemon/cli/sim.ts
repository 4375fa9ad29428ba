/**
 * Implements sim: a person plays guest at a simulated lane, in the terminal. Sends codes through the reader's wire and everything
 * else through the simulated turnstile's socket; the gate runs as on a real lane.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Config } from '../config/load.ts';
import type { WatchItem } from '../control/protocol.ts';
import { openPtyPair, type PtyPair } from '../sim/pty-pair.ts';
import { requireConfig, withGate } from './context.ts';
import { CliError, EXIT } from './exit-codes.ts';
import { healthPicture, lanePicture } from './lane-view.ts';
import type { CommonOptions } from './options.ts';
import { createLastLines } from './recent-lines.ts';
import { connectTurnstile, type Turnstile } from './sim-client.ts';
import { hasTerminal, openScreen, paint } from './terminal.ts';

const REDRAW_MS = 1_000;
/** Length of a press of the staff button, in ms. */
const BUTTON_MS = 250;
/** Longest typed code, in characters; further ones are ignored. */
const MAX_CODE_CHARS = 1_024;
const MAX_SAMPLES = 9;

export interface SimOptions extends CommonOptions {
  readonly code?: readonly string[];
  readonly codes?: string;
  /** `in=/run/stile/guest-in` */
  readonly guest?: readonly string[];
}

interface Wire {
  readonly reader: string;
  readonly direction: string;
  /** Path that guests write to. */
  readonly path: string;
  /** The reader that this program created, which it can unplug; null: it existed already. */
  readonly pair: PtyPair | null;
}

export async function sim(options: SimOptions): Promise<void> {
  const config = requireConfig(options.config);
  const { simSocket } = config.board;
  if (config.board.driver !== 'sim' || simSocket === null)
    throw new CliError(
      EXIT.failed,
      'this lane is a real one',
      'for a simulated one set board: { driver: sim, sim_socket: /run/stile/sim.sock } and restart the gate',
    );
  if (!hasTerminal() || process.stdin.isTTY !== true)
    throw new CliError(
      EXIT.usage,
      'this needs a terminal',
      `programs write codes into the reader's wire and JSON lines into ${simSocket} (daemon/board/sim-board.ts)`,
    );
  const samples = samplesOf(options);
  const turnstile = await connectTurnstile(simSocket);
  const wires = wiresOf(config, options.guest ?? []);
  try {
    await withGate(options, async (gate) => {
      await play({ samples, turnstile, wires, watch: (item) => gate.call('watch', {}, item), close: gate.close });
    });
  } finally {
    turnstile.close();
    for (const { pair } of wires) pair?.close();
  }
}

interface Play {
  readonly samples: readonly string[];
  readonly turnstile: Turnstile;
  readonly wires: readonly Wire[];
  readonly watch: (item: (item: unknown) => void) => Promise<unknown>;
  readonly close: () => void;
}

async function play({ samples, turnstile, wires, watch, close }: Play): Promise<void> {
  let ending = false;
  let chosen = 0;
  /** Code being typed; null: keys are commands. */
  let typed: string | null = null;
  let message = '';
  const last = createLastLines();
  const wire = () => wires[chosen] as Wire;

  const show = (code: string, what: string) => {
    try {
      writeFileSync(wire().path, `${code}\r\n`);
      message = `showed ${what} to the reader ${wire().reader}`;
    } catch (error) {
      message = `the reader ${wire().reader} cannot be reached: ${(error as Error).message}`;
    }
  };
  const send = (command: object, text: string) => {
    message = text;
    turnstile.send(command).catch((error: Error) => {
      message = error.message;
      draw();
    });
  };
  const orders: Readonly<Record<string, () => void>> = {
    c: () => {
      typed = '';
    },
    '\t': () => {
      chosen = (chosen + 1) % wires.length;
      message = `now at the reader ${wire().reader}`;
    },
    w: () => send({ walk: { mode: 'auto' } }, 'guests walk through when they may'),
    n: () => send({ walk: { mode: 'nobody' } }, 'guests do not walk through'),
    s: () => send({ walk: { mode: 'stuck' } }, 'guests get stuck in the arms'),
    u: () => send({ unstick: true }, 'whoever was stuck goes on'),
    g: () => send({ guest: wire().direction }, 'a guest pushes'),
    j: () => send({ guest: wire().direction, force: true }, 'a guest forces the arms'),
    b: () => {
      send({ input: 'button', active: true }, 'the staff button was pressed');
      setTimeout(() => send({ input: 'button', active: false }, message), BUTTON_MS);
    },
    f: () => toggle('fire', 'the fire loop is cut', 'the fire loop is closed again'),
    t: () => toggle('tamper', 'the lid is open', 'the lid is shut'),
    p: () => {
      const { pair, reader } = wire();
      if (pair === null) message = `the reader ${reader} is not plugged in by this program, so it cannot pull it out`;
      else if (pair.plugged) pair.unplug();
      else pair.plug();
      if (pair !== null) message = `the reader ${reader} is ${pair.plugged ? 'plugged in' : 'pulled out'}`;
    },
    q: () => end(),
  };
  const toggle = (input: string, on: string, off: string) => {
    const active = !turnstile.input(input);
    send({ input, active }, active ? on : off);
  };
  const key = (pressed: string) => {
    if (typed !== null) typed = typing(typed, pressed, (code) => show(code, 'your own code'));
    else if (/^[1-9]$/.test(pressed) && samples[Number(pressed) - 1] !== undefined) show(samples[Number(pressed) - 1] as string, `sample ${pressed}`);
    else orders[pressed.toLowerCase()]?.();
    draw();
  };
  const end = () => {
    ending = true;
    close();
  };
  const draw = () => {
    const status = last.status();
    if (status === null) return;
    const head = [
      `${paint('bold', status.gate)}  a simulated lane; you are the guest at the reader ${paint('bold', wire().reader)}`,
      '',
      ...lanePicture(status),
      `    arms ${turnstile.walk() === 'auto' ? 'guests walk through' : turnstile.walk() === 'nobody' ? paint('amber', 'guests do not walk') : paint('amber', 'guests get stuck')}${turnstile.active().length > 0 ? `, active: ${paint('amber', turnstile.active().join(', '))}` : ''}`,
      '',
      ...help(samples, wires),
      '',
      typed === null ? message : `code: ${typed}▏  (Enter shows it, Esc does not)`,
      '',
      ...healthPicture(status),
      '',
    ];
    screen.draw([...head, ...last.below(head, screen.rows())]);
  };
  turnstile.changed(draw);
  turnstile.gone(end);
  const screen = openScreen({ key, end, resized: draw });
  const steady = setInterval(draw, REDRAW_MS);
  try {
    await watch((item) => {
      last.take(item as WatchItem);
      draw();
    });
  } catch (error) {
    if (!ending || !(error instanceof CliError)) throw error;
  } finally {
    clearInterval(steady);
    screen.close();
  }
}

function help(samples: readonly string[], wires: readonly Wire[]): readonly string[] {
  const sample = samples.length === 0 ? '' : `${samples.length === 1 ? '1' : `1-${samples.length}`} show a sample code   `;
  return [
    `${sample}c type a code${wires.length > 1 ? '   Tab the other reader' : ''}${wires.some(({ pair }) => pair !== null) ? '   p pull the reader out, or plug it in' : ''}`,
    'w walk through   n do not walk   s get stuck   u go on   g push   j force the arms',
    'b staff button   f fire   t tamper   q quit',
  ].map((line) => paint('grey', line));
}

/** Returns the typed code after a key; null: typing has ended. */
function typing(typed: string, key: string, done: (code: string) => void): string | null {
  if (key === '\r' || key === '\n') {
    if (typed !== '') done(typed);
    return null;
  }
  if (key === '\x1b') return null;
  if (key === '\x7f' || key === '\b') return typed.slice(0, -1);
  return key.length === 1 && key >= ' ' && typed.length < MAX_CODE_CHARS ? typed + key : typed;
}

function samplesOf({ code = [], codes }: SimOptions): readonly string[] {
  let fromFile: readonly string[] = [];
  if (codes !== undefined)
    try {
      fromFile = readFileSync(codes, 'utf8').split(/\r?\n/);
    } catch (error) {
      throw new CliError(EXIT.failed, `${codes} cannot be read (${(error as NodeJS.ErrnoException).code})`, 'give a file with a code on each line');
    }
  return [...code, ...fromFile].filter((one) => one.trim() !== '').slice(0, MAX_SAMPLES);
}

/** Returns the path that guests write to for each reader: as given, else beside the reader's port, else a new simulated reader. */
function wiresOf(config: Config, given: readonly string[]): readonly Wire[] {
  const named = new Map(given.map((one) => [one.slice(0, one.indexOf('=')), one.slice(one.indexOf('=') + 1)] as const));
  for (const name of named.keys())
    if (!config.readers.some((reader) => reader.name === name))
      throw new CliError(EXIT.usage, `no reader is called ${name}`, `say --guest ${config.readers[0]?.name}=<path>`);
  return config.readers.map(({ name, direction, path }): Wire => {
    const given = named.get(name);
    const beside = [`guest-${name}`, 'guest'].map((file) => join(dirname(path), file));
    const found = given ?? (existsSync(path) ? beside.find((file) => existsSync(file)) : undefined);
    if (found !== undefined) return { reader: name, direction, path: found, pair: null };
    if (existsSync(path))
      throw new CliError(EXIT.failed, `the reader ${name} is there already (${path}), and where guests write is not known`, `say it: --guest ${name}=<path>`);
    try {
      const pair = openPtyPair({ readerLink: path });
      return { reader: name, direction, path: pair.guestPath, pair };
    } catch (error) {
      throw new CliError(
        EXIT.failed,
        `no reader could be plugged in at ${path}: ${(error as Error).message}`,
        'let readers name a path in a folder that you may write',
      );
    }
  });
}
