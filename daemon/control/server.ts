/**
 * Serves the control socket, over which commands call the running gate: JSON, one object a line, over a unix socket.
 *
 * A client sends `{"id": 1, "call": "status", "args": {}}`; it gets any number of `{"id": 1, "item": …}` and then
 * `{"id": 1, "ok": true, "data": …}` or `{"id": 1, "ok": false, "error": {"code", "message", "hint"}}`. Who may
 * connect is decided by the socket's owner, group and mode (0660); anyone who may is an operator.
 */
import { chmodSync, chownSync, rmSync, statSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { cutText } from '../../contract/text.ts';
import { groupId } from '../platform/groups.ts';

/** Most clients; a further one gets the error `busy` and is closed. */
export const MAX_CLIENTS = 16;
/** Longest line, in bytes; a longer one ends the connection. */
export const MAX_LINE_BYTES = 64 * 1024;
/** Most calls of one client in flight; a further one is refused. */
export const MAX_CALLS = 8;
/** Most bytes queued for a client; one that reads more slowly is closed. */
const MAX_UNREAD_BYTES = 4 * 1024 * 1024;
/** Longest wait for another gate on the socket, in ms. */
const PROBE_MS = 500;

export type ControlErrorCode = 'unknown_call' | 'malformed' | 'refused' | 'failed' | 'busy';

/** Thrown by a handler: answered as it is. Anything else thrown is answered as `failed`. */
export class ControlError extends Error {
  readonly code: ControlErrorCode;
  readonly hint: string;
  constructor(code: ControlErrorCode, message: string, hint = '') {
    super(message);
    this.name = 'ControlError';
    this.code = code;
    this.hint = hint;
  }
}

export interface CallContext {
  /** Sends one more item of the answer. False: the client is slow; wait before the next. */
  send(item: unknown): boolean;
  /** Aborted when the client has gone or the gate stops. */
  readonly gone: AbortSignal;
}

export type Handlers = Readonly<Record<string, (args: Readonly<Record<string, unknown>>, context: CallContext) => Promise<unknown>>>;

export interface Control {
  /** Throws where another gate answers on the socket, or it can't be made. */
  open(): Promise<void>;
  close(): Promise<void>;
}

export interface ControlOptions {
  readonly socket: string;
  /** Group that may use it. Where the system has none of that name, only the gate's own user may. */
  readonly group: string;
  readonly handlers: Handlers;
  readonly warn: (message: string, fields: Record<string, unknown>) => void;
}

export function createControl(options: ControlOptions): Control {
  const clients = new Set<Socket>();
  let server: Server | null = null;
  return {
    async open() {
      await clearWay(options.socket);
      server = createServer((client) => {
        if (clients.size >= MAX_CLIENTS) {
          // Read and then closed from here: one that nobody reads is never seen to end, and the gate could not stop.
          client.on('error', () => undefined).resume();
          client.end(
            `${JSON.stringify({ id: null, ok: false, error: { code: 'busy', message: `${MAX_CLIENTS} clients are connected already`, hint: 'close one of them' } })}\n`,
            () => client.destroy(),
          );
          return;
        }
        clients.add(client);
        client.on('close', () => clients.delete(client));
        serve(client, options.handlers);
      });
      await listen(server, options);
    },
    async close() {
      const closing = server;
      server = null;
      if (closing === null) return;
      const closed = new Promise<void>((resolve) => closing.close(() => resolve()));
      for (const client of clients) client.destroy();
      await closed;
    },
  };
}

/** Removes a socket file that a killed gate left behind; one that answers is another gate's. */
async function clearWay(path: string): Promise<void> {
  const there = statSync(path, { throwIfNoEntry: false });
  if (there === undefined) return;
  // A mistyped path must not cost a file.
  if (!there.isSocket()) throw new ControlError('failed', `${path} is there and is no socket`, 'take it away, or set control.socket to another path');
  const answered = await new Promise<boolean>((resolve) => {
    const probe = connect(path);
    const done = (result: boolean) => {
      probe.destroy();
      resolve(result);
    };
    probe.setTimeout(PROBE_MS, () => done(true));
    probe.on('connect', () => done(true)).on('error', () => done(false));
  });
  if (answered)
    throw new ControlError('refused', `another gate is running on ${path}`, 'stop it first, or give this one its own control.socket and store.path');
  rmSync(path, { force: true });
}

async function listen(server: Server, { socket, group, warn }: ControlOptions): Promise<void> {
  // Nobody else may connect between the socket's making and its mode.
  const before = process.umask(0o177);
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', (error) =>
        reject(
          new ControlError(
            'failed',
            `the control socket ${socket} cannot be made: ${error.message}`,
            "make its folder, writable for the gate's user, or set control.socket",
          ),
        ),
      );
      server.listen(socket, resolve);
    });
  } finally {
    process.umask(before);
  }
  server.on('error', () => undefined);
  const gid = groupId(group);
  try {
    if (gid !== null) chownSync(socket, -1, gid);
    chmodSync(socket, gid === null ? 0o600 : 0o660);
  } catch (error) {
    chmodSync(socket, 0o600);
    warn("setting the group of the control socket failed: only the gate's user may use it", { socket, group, cause: (error as Error).message });
    return;
  }
  if (gid === null) warn('setting the group of the control socket failed: no such group', { socket, group });
}

function serve(client: Socket, handlers: Handlers): void {
  const gone = new AbortController();
  let calls = 0;
  let waiting = '';
  client.setEncoding('utf8');
  client.on('error', () => undefined);
  client.on('close', () => gone.abort());
  const send = (message: unknown): boolean => {
    if (client.destroyed) return false;
    const flowing = client.write(`${JSON.stringify(message)}\n`);
    if (client.writableLength > MAX_UNREAD_BYTES) client.destroy();
    return flowing;
  };
  const fail = (id: unknown, code: ControlErrorCode, message: string, hint = '') => send({ id, ok: false, error: { code, message, hint } });

  const call = async (line: string): Promise<void> => {
    let request: { id?: unknown; call?: unknown; args?: unknown };
    try {
      request = JSON.parse(line);
    } catch {
      fail(null, 'malformed', 'a line is not JSON');
      return;
    }
    const { id = null, call: name, args = {} } = request ?? {};
    if (typeof name !== 'string' || typeof args !== 'object' || args === null)
      return void fail(id, 'malformed', 'a call is {"id": 1, "call": "status", "args": {}}');
    const handler = Object.hasOwn(handlers, name) ? handlers[name] : undefined;
    if (handler === undefined)
      return void fail(id, 'unknown_call', `this gate knows no call ${cutText(name, 32)}`, `it knows ${Object.keys(handlers).join(', ')}`);
    if (calls >= MAX_CALLS) return void fail(id, 'busy', `${MAX_CALLS} calls are under way already`, 'wait for one of them');
    calls++;
    try {
      const data = await handler(args as Record<string, unknown>, { send: (item) => send({ id, item }), gone: gone.signal });
      send({ id, ok: true, data: data ?? {} });
    } catch (error) {
      if (error instanceof ControlError) fail(id, error.code, error.message, error.hint);
      else fail(id, 'failed', (error as Error).message, (error as { fault?: { hint?: string } }).fault?.hint ?? '');
    } finally {
      calls--;
    }
  };
  client.on('data', (chunk: string) => {
    waiting += chunk;
    for (let end = waiting.indexOf('\n'); end >= 0; end = waiting.indexOf('\n')) {
      const line = waiting.slice(0, end);
      waiting = waiting.slice(end + 1);
      if (line.length > MAX_LINE_BYTES) return void client.destroy();
      if (line.trim() !== '') void call(line);
    }
    if (waiting.length > MAX_LINE_BYTES) client.destroy();
  });
}
