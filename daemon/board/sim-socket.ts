/** The simulated board's socket: JSON lines in and out (sim-board.ts says which). Nobody who connects can stop the lane. */
import { chmodSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { INPUT_NAMES, type InputName } from '../ports.ts';
import type { TurnstileInput, TurnstileSettings, WalkMode } from '../sim/turnstile.ts';

export type SimCommand =
  | { readonly kind: 'input'; readonly input: InputName; readonly active: boolean }
  | { readonly kind: 'turnstile'; readonly input: TurnstileInput }
  | { readonly kind: 'fault'; readonly what: 'write' | 'read' | 'none'; readonly times: number }
  | { readonly kind: 'snapshot' };

export interface SimSocket {
  broadcast(message: object): void;
  close(): Promise<void>;
}

/** A longer line is answered with an error, and its sender is cut off. */
const MAX_LINE_BYTES = 4_096;
/** Further ones are cut off at once. */
const MAX_CLIENTS = 16;
/** What a client that does not read may have waiting before it is cut off. */
const MAX_WAITING_BYTES = 1024 * 1024;
/** Longest delay or rotation that can be asked for. */
const MAX_WALK_MS = 600_000;

interface Handlers {
  snapshot(): object;
  /** null: done; else why not. */
  obey(command: SimCommand): string | null;
}

/** Listens; a socket file left by a process that was killed is replaced. Rejects with a Fault where it cannot. */
export async function createSimSocket(path: string, handlers: Handlers): Promise<SimSocket> {
  const clients = new Set<Socket>();
  const send = (client: Socket, message: object): void => {
    if (client.writableLength > MAX_WAITING_BYTES) client.destroy();
    else client.write(`${JSON.stringify(message)}\n`);
  };
  const server = createServer((client) => {
    client.on('error', () => client.destroy());
    if (clients.size >= MAX_CLIENTS) return client.destroy();
    clients.add(client);
    client.on('close', () => clients.delete(client));
    let rest = '';
    client.setEncoding('utf8');
    client.on('data', (text: string) => {
      const parts = (rest + text).split('\n');
      rest = parts.pop() ?? '';
      for (const part of parts) {
        if (part.trim() === '') continue;
        const command = parseCommand(part);
        const problem = typeof command === 'string' ? command : handlers.obey(command);
        if (problem === null && typeof command !== 'string' && command.kind === 'snapshot') send(client, handlers.snapshot());
        else send(client, problem === null ? { ok: true } : { error: problem });
      }
      if (rest.length <= MAX_LINE_BYTES) return;
      client.end(`${JSON.stringify({ error: `a line has at most ${MAX_LINE_BYTES} bytes` })}\n`);
      rest = '';
    });
    send(client, handlers.snapshot());
  });
  rmSync(path, { force: true });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => {
      const fault = {
        operation: `listen on ${path}`,
        cause: error.message,
        hint: 'give board.sim_socket a path (at most 107 bytes) in a folder that exists and that the gate may write',
        healsItself: false,
      };
      reject(Object.assign(new Error(`${fault.operation}: ${fault.cause}`), { fault }));
    });
    server.listen(path, resolve);
  });
  // Whoever may use it can walk guests through and plant faults: the gate's own user and group.
  chmodSync(path, 0o660);
  return {
    broadcast(message) {
      for (const client of clients) send(client, message);
    },
    async close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const client of clients) client.end();
      setTimeout(() => {
        for (const client of clients) client.destroy();
      }, 100).unref();
      await closed;
      rmSync(path, { force: true });
    },
  };
}

/** Parses a line into a command, or returns what is wrong with it. */
export function parseCommand(text: string): SimCommand | string {
  let value: unknown;
  if (text.length > MAX_LINE_BYTES) return `a line has at most ${MAX_LINE_BYTES} bytes`;
  try {
    value = JSON.parse(text);
  } catch {
    return 'not JSON: send one object a line, such as {"input":"fire","active":true}';
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return 'not an object: send such as {"input":"fire","active":true}';
  const message = value as Record<string, unknown>;
  if ('input' in message) {
    if (!(INPUT_NAMES as readonly unknown[]).includes(message.input)) return `input: one of ${INPUT_NAMES.join(', ')}`;
    if (typeof message.active !== 'boolean') return 'active: true or false';
    return { kind: 'input', input: message.input as InputName, active: message.active };
  }
  if ('walk' in message) return parseWalk(message.walk);
  if ('guest' in message) {
    if (message.guest !== 'in' && message.guest !== 'out') return 'guest: in or out';
    return { kind: 'turnstile', input: { kind: 'guest', direction: message.guest, force: message.force === true } };
  }
  if ('unstick' in message) return { kind: 'turnstile', input: { kind: 'unstick' } };
  if ('fault' in message) {
    const { fault, times } = message;
    if (fault !== 'write' && fault !== 'read' && fault !== 'none') return 'fault: write, read or none';
    if (times !== undefined && !(Number.isInteger(times) && (times as number) > 0)) return 'times: a whole number above 0';
    return { kind: 'fault', what: fault, times: times === undefined ? Number.POSITIVE_INFINITY : (times as number) };
  }
  if ('snapshot' in message) return { kind: 'snapshot' };
  return 'unknown: send input, walk, guest, unstick, fault or snapshot';
}

function parseWalk(value: unknown): SimCommand | string {
  if (typeof value !== 'object' || value === null) return 'walk: an object with mode, delay_ms, rotate_ms, relock_ms';
  const { mode, ...times } = value as Record<string, unknown>;
  const settings: { -readonly [K in keyof TurnstileSettings]?: TurnstileSettings[K] } = {};
  if (mode !== undefined) {
    if (mode !== 'auto' && mode !== 'nobody' && mode !== 'stuck') return 'walk.mode: auto, nobody or stuck';
    settings.walk = mode satisfies WalkMode;
  }
  const names = { delay_ms: 'delayMs', rotate_ms: 'rotateMs', relock_ms: 'relockMs' } as const;
  for (const [key, time] of Object.entries(times)) {
    if (!(key in names)) return `walk.${key}: unknown; there are mode, ${Object.keys(names).join(', ')}`;
    if (typeof time !== 'number' || !(time >= 0 && time <= MAX_WALK_MS)) return `walk.${key}: 0 to ${MAX_WALK_MS}`;
    settings[names[key as keyof typeof names]] = time;
  }
  return { kind: 'turnstile', input: { kind: 'settings', settings } };
}
