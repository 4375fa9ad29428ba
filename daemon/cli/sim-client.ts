/** Connects to the simulated turnstile's socket (daemon/board/sim-board.ts has the protocol). */
import { connect, type Socket } from 'node:net';
import { CliError, EXIT } from './exit-codes.ts';

export interface Turnstile {
  /** Sends a command. Rejects with the turnstile's error. */
  send(command: object): Promise<void>;
  input(name: string): boolean;
  active(): readonly string[];
  walk(): string;
  changed(listener: () => void): void;
  gone(listener: () => void): void;
  close(): void;
}

/** Connects. Throws CliError 69. */
export async function connectTurnstile(path: string): Promise<Turnstile> {
  const socket = await new Promise<Socket>((resolve, reject) => {
    const attempt = connect(path, () => resolve(attempt));
    attempt.once('error', (error: NodeJS.ErrnoException) =>
      reject(new CliError(EXIT.unreachable, `no simulated lane answers on ${path} (${error.code})`, 'start the gate in another terminal: stile-gate run')),
    );
  });
  const inputs = new Map<string, boolean>();
  const waiting: { readonly resolve: () => void; readonly reject: (error: Error) => void; readonly walk: string | undefined }[] = [];
  let walk = 'auto';
  let notifyChanged: () => void = () => undefined;
  let text = '';
  const take = (line: string) => {
    const message = JSON.parse(line) as {
      ok?: boolean;
      error?: string;
      input?: string;
      active?: boolean;
      snapshot?: { inputs: Record<string, boolean>; turnstile: { walk: string } };
    };
    if (message.snapshot !== undefined) {
      for (const [name, active] of Object.entries(message.snapshot.inputs)) inputs.set(name, active);
      walk = message.snapshot.turnstile.walk;
    } else if (message.input !== undefined) inputs.set(message.input, message.active === true);
    else if (message.ok !== undefined || message.error !== undefined) {
      const first = waiting.shift();
      if (message.error !== undefined) first?.reject(new Error(message.error));
      else {
        walk = first?.walk ?? walk;
        first?.resolve();
      }
    }
    notifyChanged();
  };
  socket.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
    for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
      const line = text.slice(0, end);
      text = text.slice(end + 1);
      take(line);
    }
  });
  socket.on('error', () => undefined);
  return {
    send: (command) =>
      new Promise((resolve, reject) => {
        waiting.push({ resolve, reject, walk: (command as { walk?: { mode?: string } }).walk?.mode });
        socket.write(`${JSON.stringify(command)}\n`);
      }),
    input: (name) => inputs.get(name) === true,
    active: () => [...inputs].filter(([, active]) => active).map(([name]) => name),
    walk: () => walk,
    changed(listener) {
      notifyChanged = listener;
    },
    gone: (listener) => void socket.once('close', listener),
    close: () => void socket.destroy(),
  };
}
