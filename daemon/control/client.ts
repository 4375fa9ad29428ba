/** Connects to the control socket of a running gate (protocol.ts has the calls). */
import { connect, type Socket } from 'node:net';

/** Longest wait for the answer to a call, in ms; then the call fails. A stream has no bound. */
const ANSWER_MS = 30_000;
/** Longest line of an answer, in characters; a longer one ends the connection. */
const MAX_LINE_CHARS = 4 * 1024 * 1024;

/** `unreachable`: no gate answers. `not_allowed`: the user may not open the socket. `timeout`, `busy`: a later try may succeed. `refused`: the gate refused the call. */
export type ControlClientFault = 'unreachable' | 'not_allowed' | 'timeout' | 'busy' | 'refused';

/** Says why a call failed, and how to fix it. */
export class ControlClientError extends Error {
  readonly kind: ControlClientFault;
  readonly hint: string;
  constructor(kind: ControlClientFault, message: string, hint: string) {
    super(message);
    this.name = 'ControlClientError';
    this.kind = kind;
    this.hint = hint;
  }
}

type Answer = {
  readonly item?: unknown;
  readonly ok?: boolean;
  readonly data?: unknown;
  readonly error?: { readonly code: string; readonly message: string; readonly hint: string };
};

export interface GateClient {
  /** Calls the gate, one call at a time. Rejects with ControlClientError. */
  call<T>(name: string, args?: Record<string, unknown>, onItem?: (item: unknown) => void): Promise<T>;
  close(): void;
}

/** Connects. Rejects with ControlClientError when no gate answers or the user may not open the socket. */
export async function connectGate(socketPath: string): Promise<GateClient> {
  const socket = await new Promise<Socket>((resolve, reject) => {
    const attempt = connect(socketPath);
    attempt.once('connect', () => resolve(attempt));
    attempt.once('error', (error: NodeJS.ErrnoException) => reject(unreachable(socketPath, error.code ?? error.message)));
  });
  let waiting: ((answer: Answer | null) => void) | null = null;
  let text = '';
  let nextId = 1;
  socket.setEncoding('utf8');
  socket.on('data', (chunk: string) => {
    text += chunk;
    if (text.length > MAX_LINE_CHARS) socket.destroy();
    for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
      const line = text.slice(0, end);
      text = text.slice(end + 1);
      waiting?.(JSON.parse(line) as Answer);
    }
  });
  socket.on('error', () => undefined);
  socket.on('close', () => waiting?.(null));
  return {
    call<T>(name: string, args: Record<string, unknown> = {}, onItem?: (item: unknown) => void): Promise<T> {
      return new Promise<T>((resolve, reject) => {
        const timer =
          onItem === undefined
            ? setTimeout(
                () =>
                  settle(() =>
                    reject(
                      new ControlClientError(
                        'timeout',
                        `the gate did not answer within ${ANSWER_MS / 1000} s`,
                        "try again; if it fails again, see the gate's journal",
                      ),
                    ),
                  ),
                ANSWER_MS,
              )
            : undefined;
        const settle = (how: () => void) => {
          clearTimeout(timer);
          waiting = null;
          how();
        };
        waiting = (answer) => {
          if (answer === null)
            settle(() => reject(new ControlClientError('unreachable', 'the gate closed the connection', 'see whether it is running: stile-gate status')));
          else if (answer.ok === true) settle(() => resolve(answer.data as T));
          else if (answer.ok === false) settle(() => reject(refusal(answer.error)));
          else onItem?.(answer.item);
        };
        if (socket.destroyed) waiting(null);
        else socket.write(`${JSON.stringify({ id: nextId++, call: name, args })}\n`);
      });
    },
    close: () => void socket.destroy(),
  };
}

function refusal(error: Answer['error']): ControlClientError {
  return new ControlClientError(error?.code === 'busy' ? 'busy' : 'refused', error?.message ?? 'the gate gave no reason', error?.hint ?? '');
}

function unreachable(path: string, code: string): ControlClientError {
  if (code === 'EACCES')
    return new ControlClientError('not_allowed', `you may not use ${path}`, 'join the group stile-operators (usermod -aG stile-operators you), or use sudo');
  return new ControlClientError(
    'unreachable',
    `no gate answers on ${path} (${code})`,
    'start it (systemctl start stile-gate), or name its socket with --socket',
  );
}
