/** A command line's end of the control socket (control.ts has the protocol). */
import { connect, type Socket } from 'node:net';
import { CliError, EXIT } from '../cli/exit-codes.ts';

/** A call that is not answered for so long has failed. Streams are not bounded: they live as long as someone watches. */
const ANSWER_MS = 30_000;
/** One line of an answer; the gate sends far less. */
const MAX_LINE_BYTES = 4 * 1024 * 1024;

type Answer = {
  readonly item?: unknown;
  readonly ok?: boolean;
  readonly data?: unknown;
  readonly error?: { readonly code: string; readonly message: string; readonly hint: string };
};

export interface GateClient {
  /** One call at a time. Throws CliError with the exit code that fits. */
  call<T>(name: string, args?: Record<string, unknown>, onItem?: (item: unknown) => void): Promise<T>;
  close(): void;
}

/** Throws CliError 69 where no gate answers, 1 where the socket may not be used. */
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
    if (text.length > MAX_LINE_BYTES) socket.destroy();
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
                      new CliError(EXIT.tryAgain, `the gate did not answer within ${ANSWER_MS / 1000} s`, "try again; see the gate's journal if it stays so"),
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
          if (answer === null) settle(() => reject(new CliError(EXIT.unreachable, 'the gate has gone', 'see whether it is running: stile-gate status')));
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

function refusal(error: Answer['error']): CliError {
  return new CliError(error?.code === 'busy' ? EXIT.tryAgain : EXIT.failed, error?.message ?? 'the gate gave no reason', error?.hint ?? '');
}

function unreachable(path: string, code: string): CliError {
  if (code === 'EACCES')
    return new CliError(EXIT.failed, `you may not use ${path}`, 'join the group stile-operators (usermod -aG stile-operators you), or use sudo');
  return new CliError(EXIT.unreachable, `no gate answers on ${path} (${code})`, 'start it (systemctl start stile-gate), or name its socket with --socket');
}
