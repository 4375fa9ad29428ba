/**
 * Queues peers' rows for the decider, one message at a time, so that a stalled disk delays neither requests nor acknowledgements.
 * Bounded: further messages are dropped, and the gate fetches their rows over HTTP.
 */

import type { Log } from '../log/log.ts';
import type { PeerMessage } from '../ports.ts';

export const MAX_PEER_MESSAGES = 64;
export const MAX_PEER_BYTES = 4 * 1024 * 1024;

export interface PeerQueue {
  push(message: PeerMessage): void;
}

export function createPeerQueue(options: {
  readonly apply: (message: PeerMessage) => void | Promise<void>;
  readonly dropped: () => void;
  readonly log: Log;
}): PeerQueue {
  const waiting: PeerMessage[] = [];
  let bytes = 0;
  let working = false;
  let dropped = 0;

  const work = async () => {
    working = true;
    for (let message = waiting.shift(); message !== undefined; message = waiting.shift()) {
      bytes -= message.payload.byteLength;
      try {
        await options.apply(message);
      } catch (error) {
        options.log.error("applying a peer's rows failed", { cause: (error as Error).message });
      }
    }
    working = false;
    if (dropped === 0) return;
    options.log.warn(`${dropped} messages of peers dropped: the queue was full; the gate fetches the site's ledger instead`);
    dropped = 0;
    options.dropped();
  };
  return {
    push(message) {
      if (waiting.length >= MAX_PEER_MESSAGES || bytes + message.payload.byteLength > MAX_PEER_BYTES) {
        dropped += 1;
        return;
      }
      waiting.push(message);
      bytes += message.payload.byteLength;
      if (!working) void work();
    },
  };
}
