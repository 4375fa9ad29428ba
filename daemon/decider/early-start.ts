/**
 * The desk's worker, as a thread: started by the desk itself, or before anything else is read, because a thread takes as long to start
 * as the rest to load. Then its store opens while the rest of the gate is still being loaded.
 */
import { Worker } from 'node:worker_threads';
import type { Clock } from '../ports.ts';
import type { Stamp } from '../store/ledger.ts';
import { type DeskReply, type DeskRequest, type DeskStore, type DeskWorkerData, monotonicUs } from './protocol.ts';

export interface DeskThread {
  /** Opens the store before the desk is there to ask for it: its own `open` then finds it done, or fails as this did. */
  openEarly(store: DeskStore, stamp: Stamp): void;
  /** The worker, for good, or null where it has ended meanwhile. What it said so far is told again. */
  take(receive: (reply: DeskReply) => void): Worker | null;
}

/** No desk waits for the answer of this call. */
const NOBODYS_CALL = 0;

export const stampOf = (clock: Clock): Stamp => ({
  boottimeMs: clock.boottimeMs(),
  wallMs: clock.wallMs(),
  bootId: clock.bootId,
  offset: clock.offset(),
  trusted: clock.trusted(),
});

export function startDeskWorker(url: URL): Worker {
  const workerData: DeskWorkerData = { role: 'desk' };
  return new Worker(url, { workerData, name: 'stile-desk' });
}

/** `url`: `worker.ts`, or the part of the bundle that holds it. Does not hold the process before a desk has taken it. */
export function startDeskThread(url: URL): DeskThread {
  const worker = startDeskWorker(url);
  const said: DeskReply[] = [];
  let ended = false;
  const hear = (reply: DeskReply) => void said.push(reply);
  // One that fails before a desk has it is not used; the desk starts another, and tells what becomes of that.
  const failed = () => undefined;
  const end = () => {
    ended = true;
  };
  worker.on('message', hear).on('error', failed).on('exit', end).unref();
  return {
    openEarly(store, stamp) {
      const request: DeskRequest = { id: NOBODYS_CALL, call: { name: 'open', store }, sentUs: monotonicUs(), stamp };
      worker.postMessage(request);
    },
    take(receive) {
      if (ended) return null;
      worker.off('message', hear).off('error', failed).off('exit', end).ref();
      for (const reply of said.splice(0)) receive(reply);
      return worker;
    },
  };
}
