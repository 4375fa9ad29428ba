/**
 * The decider's worker, as a thread: started by the decider itself, or before anything else is read, because a thread takes as long to start
 * as the rest to load. Then its store opens while the rest of the gate is still being loaded.
 */
import { Worker } from 'node:worker_threads';
import { releaseName } from '../../runtime/build-info.ts';
import type { Clock } from '../ports.ts';
import type { Stamp } from '../store/ledger.ts';
import { monotonicUs, type StoreIdentity, type WorkerData, type WorkerReply, type WorkerRequest } from './protocol.ts';

export interface EarlyWorker {
  /** Opens the store before the decider is there to ask for it: its own `open` then finds it done, or fails as this did. */
  openEarly(store: StoreIdentity, stamp: Stamp): void;
  /** Returns the worker, for good, or null where it has ended meanwhile. What it said so far is told again. */
  take(receive: (reply: WorkerReply) => void): Worker | null;
}

/** No decider waits for the answer of this call. */
const NOBODYS_CALL = 0;

/** Returns which store a gate has, and which program opens it. */
export const storeIdentity = (store: Omit<StoreIdentity, 'release'>): StoreIdentity => ({ ...store, release: releaseName() });

export const timestampNow = (clock: Clock): Stamp => ({
  boottimeMs: clock.boottimeMs(),
  wallMs: clock.wallMs(),
  bootId: clock.bootId,
  offset: clock.offset(),
  trusted: clock.trusted(),
});

export function startWorker(url: URL): Worker {
  const workerData: WorkerData = { role: 'decider' };
  return new Worker(url, { workerData, name: 'stile-decider' });
}

/** `url`: `worker.ts`, or the part of the bundle that holds it. Does not hold the process before a decider has taken it. */
export function startWorkerEarly(url: URL): EarlyWorker {
  const worker = startWorker(url);
  const said: WorkerReply[] = [];
  let ended = false;
  const hear = (reply: WorkerReply) => void said.push(reply);
  // One that fails before a decider has it is not used; the decider starts another, and tells what becomes of that.
  const failed = () => undefined;
  const end = () => {
    ended = true;
  };
  worker.on('message', hear).on('error', failed).on('exit', end).unref();
  return {
    openEarly(store, stamp) {
      const request: WorkerRequest = { id: NOBODYS_CALL, call: { name: 'open', store }, sentUs: monotonicUs(), stamp };
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
