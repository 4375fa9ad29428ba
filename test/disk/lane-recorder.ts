/** What a lane's wires did and when, by the software turnstile's own clock (boottime of the gate's process). */
import { connect } from 'node:net';
import { createClock } from '../../daemon/clock/clock.ts';

export interface Change {
  readonly wire: string;
  readonly active: boolean;
  /** CLOCK_BOOTTIME, ms. */
  readonly atMs: number;
}

export interface Wires {
  readonly changes: readonly Change[];
  /** The first change of this wire at or after `sinceMs`; waits for it at most `withinMs`, then throws. */
  next(wire: string, active: boolean, sinceMs: number, withinMs?: number): Promise<Change>;
  /** Sends a command without waiting for the answer. Answers the time at which it was sent. */
  send(command: object): number;
  close(): void;
}

/** The same clock as the gate's. */
export const boottimeMs: () => number = createClock({ floorMs: 0 }).boottimeMs;

export async function watchWires(simSocket: string): Promise<Wires> {
  const changes: Change[] = [];
  const waiting = new Set<() => void>();
  const socket = connect(simSocket);
  await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject));
  let text = '';
  socket.on('error', () => undefined);
  socket.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
    for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
      const message = JSON.parse(text.slice(0, end)) as { output?: string; input?: string; active?: boolean; at_ms?: number; error?: string };
      text = text.slice(end + 1);
      if (message.error !== undefined) throw new Error(`the software turnstile: ${message.error}`);
      const wire = message.output ?? message.input;
      if (wire !== undefined) changes.push({ wire, active: message.active === true, atMs: message.at_ms ?? Number.NaN });
    }
    for (const look of [...waiting]) look();
  });
  return {
    changes,
    next(wire, active, sinceMs, withinMs = 10_000) {
      const find = () => changes.find((change) => change.wire === wire && change.active === active && change.atMs >= sinceMs);
      return new Promise((resolve, reject) => {
        const late = setTimeout(() => {
          waiting.delete(look);
          reject(new Error(`${wire} was not ${active ? 'on' : 'off'} within ${withinMs} ms; last: ${JSON.stringify(changes.slice(-12))}`));
        }, withinMs);
        const look = () => {
          const found = find();
          if (found === undefined) return;
          clearTimeout(late);
          waiting.delete(look);
          resolve(found);
        };
        waiting.add(look);
        look();
      });
    },
    send(command) {
      const sentMs = boottimeMs();
      socket.write(`${JSON.stringify(command)}\n`);
      return sentMs;
    },
    close: () => void socket.destroy(),
  };
}
