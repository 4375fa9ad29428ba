/**
 * A lane that exists only in software, behind the same port as the real one: outputs are remembered and drawn, a software
 * turnstile answers releases with passages, and a unix socket lets people and tests look on and take part.
 *
 * The socket (`board.sim_socket`) speaks JSON, one object a line, at most 4 KiB. At first, and when asked:
 *   {"snapshot":{"outputs":{"release_in":false,…},"inputs":{"passage_in":false,…},"turnstile":{"walk":"auto","delay_ms":300,"rotate_ms":400,"relock_ms":5000},"faults":[]},"at_ms":12.3}
 * On each change, `at_ms` being boottime:
 *   {"output":"release_in","active":true,"at_ms":12.3}      {"input":"passage_in","active":true,"at_ms":12.3}
 * It takes, and answers each with {"ok":true} or {"error":"…"}:
 *   {"input":"fire","active":true}                          an input, as if wired
 *   {"walk":{"mode":"auto","delay_ms":300,"rotate_ms":400,"relock_ms":5000}}   any of these; mode auto | nobody | stuck
 *   {"guest":"in"}   {"guest":"out","force":true}           a guest pushes now; with force against locked arms
 *   {"unstick":true}                                        whoever stands in the arms goes on
 *   {"fault":"write"}   {"fault":"read"}   {"fault":"none"} writes or reads throw EIO until "none"; "times": so often
 *   {"snapshot":true}
 *
 * Beside the socket, in `<sim_socket>.wires/`, each output has a file that holds 0 or 1, the level on its wire. Like a real
 * wire it keeps its level when the process is killed, until the unit's stop step returns it.
 */
import { closeSync, constants, mkdirSync, openSync, rmSync, writeSync } from 'node:fs';
import { type BoardEvent, type Clock, type Fault, type InputName, OUTPUT_NAMES, type OutputName } from '../ports.ts';
import { initialTurnstile, stepTurnstile, type TurnstileInput, type TurnstileSettings } from '../sim/turnstile.ts';
import type { LaneBoard } from './failsafe-file.ts';
import { drawLamps } from './lamp-line.ts';
import { type BoardConfig, normaliseLines, type OutputLine, safeLevel, wireLevel } from './pin-map.ts';
import { createSimSocket, type SimCommand, type SimSocket } from './sim-socket.ts';

export interface SimBoardOptions {
  readonly config: Pick<BoardConfig, 'outputs' | 'inputs' | 'simSocket' | 'simDraw' | 'simGuest' | 'simPassageMs'>;
  /** Draws the lamps with `simDraw`, a line at a time. Default: writes to standard output. */
  readonly draw?: (line: string) => void;
  /** Tells at `open` whether fire is latched: the releases then begin open. */
  readonly startOpen?: () => boolean;
}

/** The simulated board for programs in the same process: tests and benches. */
export interface SimBoard extends LaneBoard {
  setInput(input: InputName, active: boolean): void;
  output(output: OutputName): boolean;
  /** Calls the listener at once with every change of an output. Returns the function that ends it. */
  onOutput(watcher: (output: OutputName, active: boolean, atMs: number) => void): () => void;
  turnstile(input: TurnstileInput): void;
  /** Makes the next `times` writes or reads throw EIO. */
  injectFault(what: 'write' | 'read' | 'none', times?: number): void;
}

export function createSimBoard({ config, draw, startOpen }: SimBoardOptions, clock: Pick<Clock, 'boottimeMs'>): SimBoard {
  const lines = normaliseLines(config);
  const byName = new Map<OutputName, OutputLine>(lines.outputs.map((line) => [line.name, line]));
  const inputNames: readonly InputName[] = lines.inputs.map(({ name }) => name);
  const print = config.simDraw ? (draw ?? ((line: string) => process.stdout.write(`${line}\n`))) : null;
  const outputs = new Map<OutputName, boolean>();
  const inputs = new Map<InputName, boolean>();
  const wires = new Map<OutputName, number>();
  const watchers = new Set<(output: OutputName, active: boolean, atMs: number) => void>();
  const faults = { write: 0, read: 0 };
  const settings: Partial<TurnstileSettings> = {
    walk: config.simGuest === false ? 'nobody' : 'auto',
    sensor: inputNames.includes('beam_a') ? 'beams' : 'per_direction',
    ...(config.simPassageMs === undefined ? {} : { rotateMs: config.simPassageMs }),
  };
  let turnstile = initialTurnstile(settings);
  let timer: NodeJS.Timeout | undefined;
  let listener: ((event: BoardEvent) => void) | null = null;
  let failed: ((fault: Fault) => void) | null = null;
  let broken = false;
  let socket: SimSocket | null = null;

  const setInput = (input: InputName, active: boolean): void => {
    if (!inputNames.includes(input) || inputs.get(input) === active) return;
    const atMs = clock.boottimeMs();
    inputs.set(input, active);
    socket?.broadcast({ input, active, at_ms: atMs });
    listener?.({ kind: 'input', input, active, atMs });
  };

  const move = (input: TurnstileInput): void => {
    const atMs = clock.boottimeMs();
    const step = stepTurnstile(turnstile, input, atMs);
    turnstile = step.state;
    clearTimeout(timer);
    if (step.deadlineMs !== null && listener !== null) timer = setTimeout(() => move({ kind: 'tick' }), Math.max(1, Math.ceil(step.deadlineMs - atMs)));
    for (const { input: name, active } of step.effects) setInput(name, active);
  };

  const drive = (line: OutputLine, active: boolean): void => {
    const wire = wires.get(line.name);
    if (wire !== undefined) writeSync(wire, wireLevel(line, active) === 'high' ? '1\n' : '0\n', 0);
    if (outputs.get(line.name) === active) return;
    const atMs = clock.boottimeMs();
    outputs.set(line.name, active);
    for (const watcher of watchers) watcher(line.name, active, atMs);
    socket?.broadcast({ output: line.name, active, at_ms: atMs });
    print?.(drawLamps(outputs));
    // After the caller is done: on a real lane, too, nothing answers before the write returns.
    setImmediate(() => move({ kind: 'output', output: line.name, active }));
  };

  const toDefined = (releaseOpen: boolean): void => {
    for (const line of lines.outputs) drive(line, safeLevel(line, releaseOpen) === line.active);
  };

  /** Throws a planted fault, as the kernel would. */
  const stumble = (what: 'write' | 'read', name: string): void => {
    if (faults[what] === 0) {
      broken = false;
      return;
    }
    faults[what] -= 1;
    broken = true;
    const fault: Fault = {
      operation: `${what} ${name}`,
      cause: `EIO: i/o error, ${what} (planted in the simulated board)`,
      hint: 'send {"fault":"none"} to the board\'s socket',
      healsItself: true,
    };
    failed?.(fault);
    throw Object.assign(new Error(`${fault.operation}: ${fault.cause}`), { code: 'EIO', fault });
  };

  const injectFault = (what: 'write' | 'read' | 'none', times = Number.POSITIVE_INFINITY): void => {
    if (what === 'none') faults.write = faults.read = 0;
    else faults[what] = times;
    if (what === 'none') broken = false;
  };

  const snapshot = (): object => {
    const { walk, delayMs, rotateMs, relockMs } = turnstile.settings;
    return {
      snapshot: {
        outputs: Object.fromEntries(outputs),
        inputs: Object.fromEntries(inputs),
        turnstile: { walk, delay_ms: delayMs, rotate_ms: rotateMs, relock_ms: relockMs },
        faults: (['write', 'read'] as const).filter((what) => faults[what] > 0),
      },
      at_ms: clock.boottimeMs(),
    };
  };

  const obey = (command: SimCommand): string | null => {
    if (command.kind === 'input') {
      if (!inputNames.includes(command.input)) return `this lane has no input ${command.input}; configured: ${inputNames.join(', ')}`;
      setInput(command.input, command.active);
    } else if (command.kind === 'fault') injectFault(command.what, command.times);
    else if (command.kind === 'turnstile') move(command.input);
    return null;
  };

  return {
    describe: () => 'sim',
    async open(givenListener, givenFailed) {
      if (listener !== null) throw new Error('simulated board: opened twice; close it first');
      listener = givenListener;
      failed = givenFailed;
      if (config.simSocket) {
        openWires(`${config.simSocket}.wires`, lines.outputs, wires);
        socket = await createSimSocket(config.simSocket, { snapshot, obey });
      }
      for (const name of inputNames) if (!inputs.has(name)) inputs.set(name, false);
      toDefined(startOpen?.() ?? false);
      for (const input of inputNames) listener({ kind: 'input', input, active: inputs.get(input) ?? false, atMs: clock.boottimeMs() });
    },
    has: (name) => byName.has(name as OutputName) || inputNames.includes(name as InputName),
    write(output, active) {
      const line = byName.get(output);
      if (line === undefined) return;
      if (listener === null) throw new Error(`write ${output}: the simulated board is not open`);
      stumble('write', output);
      drive(line, active);
    },
    read(input) {
      stumble('read', input);
      return inputs.get(input) ?? false;
    },
    async close({ releaseOpen }) {
      if (listener === null) return;
      toDefined(releaseOpen);
      listener = null;
      clearTimeout(timer);
      for (const wire of wires.values()) closeSync(wire);
      wires.clear();
      await socket?.close();
      socket = null;
    },
    ok: () => listener !== null && !broken,
    releaseTargets: (releaseOpen) =>
      config.simSocket
        ? lines.outputs.map((line) => ({ kind: 'sim', path: `${config.simSocket}.wires/${line.name}`, level: safeLevel(line, releaseOpen) }))
        : [],
    setInput,
    output: (output) => outputs.get(output) ?? false,
    onOutput(watcher) {
      watchers.add(watcher);
      return () => watchers.delete(watcher);
    },
    turnstile: move,
    injectFault,
  };
}

function openWires(folder: string, outputs: readonly OutputLine[], wires: Map<OutputName, number>): void {
  mkdirSync(folder, { recursive: true });
  for (const name of OUTPUT_NAMES) if (!outputs.some((line) => line.name === name)) rmSync(`${folder}/${name}`, { force: true });
  for (const { name } of outputs) wires.set(name, openSync(`${folder}/${name}`, constants.O_RDWR | constants.O_CREAT, 0o660));
}
