/**
 * The decider as the loop sees it: a worker that holds store and rules. Every call carries the time, and is answered in order.
 */
import type { Worker } from 'node:worker_threads';
import type { LookupAnswer, PublicKey } from '../../contract/manifest.ts';
import { withTimeout } from '../../runtime/timeout.ts';
import type { Clock, Decider, DeciderStatus, Decision, Fault, Presentation } from '../ports.ts';
import { parseCloudAnswer } from './cloud-answer.ts';
import { type EarlyWorker, startWorker, timestampNow } from './early-start.ts';
import type { LookupNeeded } from './engine.ts';
import { monotonicUs, type StoreIdentity, type WorkerCall, type WorkerReply, type WorkerRequest } from './protocol.ts';
import type { CloudTicket } from './resolve-ticket.ts';

/** Calls that wait for the worker at once; further ones are refused as a fault: the disk has stalled. */
export const MAX_WAITING_CALLS = 1_000;
/** For the cloud's answer about an unknown code, in milliseconds; then it is decided without. */
export const LOOKUP_BUDGET_MS = 300;

export interface DeciderClientOptions {
  /** Folder of the store, such as /var/lib/stile. Made where it is missing. */
  readonly path: string;
  /** `<site>/<gate>`. */
  readonly gate: string;
  /** Pinned at enrolment: what manifests, overlays and wanted entries must be signed with. */
  readonly verifyKeys: readonly PublicKey[];
  readonly clock: Clock;
  /** Where the worker starts: `worker.ts`, or the bundle that holds it. */
  readonly workerUrl?: URL;
  /** Names the program that runs, exactly: what it checked of a manifest's head it need not check with every start. Absent: it checks every time. */
  readonly release?: string | null;
  /** One that was started already (early-start.ts), and is this decider's from now on. */
  readonly thread?: EarlyWorker;
  /** Receives what no call returns: a database quarantined, a manifest that cannot be used, the worker gone. Never holds a code. */
  readonly notice?: (what: string, detail: string) => void;
  /** Asks the cloud about a code that no manifest knows, by its refs; null: no answer. Called only for presentations made online. */
  readonly lookup?: (refs: LookupNeeded['ask']) => Promise<LookupAnswer['tickets'] | null>;
  /** A decision waits so long for `lookup`, ms. Default LOOKUP_BUDGET_MS. */
  readonly lookupBudgetMs?: number;
}

/** The error of a call that the store refused. */
export class DeciderError extends Error {
  readonly fault: Fault;
  readonly code: string;
  constructor(message: string, code: string, fault: Fault) {
    super(message);
    this.name = 'DeskError';
    this.code = code;
    this.fault = fault;
  }
}

interface Waiting {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: DeciderError) => void;
}

export interface DeciderClient extends Decider {
  /** Keeps an answer to an earlier `lookup` that came after its budget: the same guest's next try finds it. Never rejects. */
  remember(answer: LookupAnswer['tickets']): Promise<void>;
}

export function createDeciderClient(options: DeciderClientOptions): DeciderClient {
  const { clock, notice = () => {}, lookup, lookupBudgetMs = LOOKUP_BUDGET_MS } = options;
  const workerUrl = options.workerUrl ?? new URL('./worker.ts', import.meta.url);
  const waiting = new Map<number, Waiting>();
  const deciding = new WeakMap<Presentation, number>();
  /** Presentations given up before their decision was even sent (the cloud was still being asked). */
  const abandoned = new WeakSet<Presentation>();
  let worker: Worker | null = null;
  let lastId = 0;
  /** The `prepare` that the worker has not done yet. */
  let preparing: number | null = null;

  const failed = (cause: string): DeciderError => {
    const fault: Fault = {
      operation: 'ask the decider',
      cause,
      hint: 'The gate starts the store again by itself; look at the disk and the journal if this repeats.',
      healsItself: true,
    };
    return new DeciderError(`${fault.operation}: ${cause}. ${fault.hint}`, 'DECIDER_GONE', fault);
  };
  const receive = (reply: WorkerReply): void => {
    if ('notice' in reply) {
      notice(reply.notice, reply.detail);
      return;
    }
    // The answer itself is of use: it wakes this thread's end of the way as well.
    if (reply.id === preparing) preparing = null;
    const call = waiting.get(reply.id);
    waiting.delete(reply.id);
    if (reply.ok) call?.resolve(reply.value);
    else call?.reject(new DeciderError(reply.error.message, reply.error.code, reply.error.fault));
  };
  const gone = (which: Worker, cause: string): void => {
    if (worker !== which) return;
    worker = null;
    preparing = null;
    for (const call of waiting.values()) call.reject(failed(cause));
    waiting.clear();
    notice('ledger', cause);
  };
  const store: StoreIdentity = { path: options.path, gate: options.gate, verifyKeys: options.verifyKeys, release: options.release ?? null };
  let spare = options.thread ?? null;
  const start = (): Worker => {
    const started = spare?.take(receive) ?? startWorker(workerUrl);
    spare = null;
    started.on('message', receive);
    // The error's text could hold anything: its name is enough.
    started.on('error', (error) => {
      gone(started, `the decider's worker failed (${(error as Error | null)?.name ?? 'unknown'})`);
    });
    started.on('exit', (code) => {
      gone(started, `the decider's worker ended with ${code}`);
    });
    return started;
  };
  const post = (to: Worker, call: WorkerCall): number => {
    const request: WorkerRequest = {
      id: ++lastId,
      call,
      sentUs: monotonicUs(),
      stamp: timestampNow(clock),
    };
    to.postMessage(request);
    return request.id;
  };
  const call = <T>(what: WorkerCall, sent: (id: number) => void = () => {}): Promise<T> =>
    new Promise((resolve, reject) => {
      if (worker === null) {
        if (what.name === 'close') {
          resolve(undefined as T);
          return;
        }
        worker = start();
        // After a worker that died, the store must be opened before it can answer anything.
        if (what.name !== 'open') waiting.set(post(worker, { name: 'open', store }), { resolve: () => {}, reject: () => {} });
      }
      if (waiting.size >= MAX_WAITING_CALLS) {
        reject(failed(`${MAX_WAITING_CALLS} calls wait already: the disk has stalled`));
        return;
      }
      const id = post(worker, what);
      waiting.set(id, { resolve: resolve as (value: unknown) => void, reject });
      sent(id);
    });

  const decideWith = (presentation: Presentation, answer?: 'may_ask' | readonly CloudTicket[]): Promise<Decision | LookupNeeded> =>
    call({ name: 'decide', presentation, answer }, (id) => {
      deciding.set(presentation, id);
      if (abandoned.has(presentation) && worker !== null) post(worker, { name: 'abandon', decision: id });
    });

  const remember = async (answer: LookupAnswer['tickets']): Promise<void> => {
    // Without a worker nothing is open, and nobody waits for it.
    if (worker !== null && answer.length > 0) await call<void>({ name: 'remember', answers: parseCloudAnswer(answer) }).catch(() => undefined);
  };

  return {
    open: () => call<DeciderStatus>({ name: 'open', store }),
    async close() {
      const closing = worker;
      if (closing === null) return;
      const ended = new Promise<void>((resolve) => {
        closing.once('exit', () => resolve());
      });
      try {
        await call<void>({ name: 'close' });
      } catch {
        // It died meanwhile: there is nothing left to close.
      }
      worker = null;
      await ended;
    },
    async decide(presentation) {
      if (lookup === undefined || !presentation.online) return (await decideWith(presentation)) as Decision;
      const first = await decideWith(presentation, 'may_ask');
      if (!('ask' in first)) return first;
      const asked = lookup(first.ask);
      const answer = await within(asked, lookupBudgetMs);
      if (answer === null)
        asked.then(
          (late) => {
            if (late !== null) void remember(late);
          },
          () => undefined,
        );
      return (await decideWith(presentation, answer === null ? [] : parseCloudAnswer(answer))) as Decision;
    },
    prepare() {
      // Where it has something to do already it is awake, and nobody shall wait for a rehearsal.
      if (worker !== null && preparing === null && waiting.size === 0) preparing = post(worker, { name: 'prepare' });
    },
    abandon(presentation) {
      abandoned.add(presentation);
      const id = deciding.get(presentation);
      if (id !== undefined && worker !== null) post(worker, { name: 'abandon', decision: id });
    },
    remember,
    record: (note) => call({ name: 'record', note }),
    setFireLatch: (latched) => call({ name: 'setFireLatch', latched }),
    rememberTransaction: (transaction, expiresAtMs) => call({ name: 'rememberTransaction', transaction, expiresAtMs }),
    nextBatch: (after) => call({ name: 'nextBatch', after }),
    question: () => call({ name: 'question' }),
    rows: (after, limit) => call({ name: 'rows', after, limit }),
    acknowledge: (ack) => call({ name: 'acknowledge', ack }),
    resend: (from) => call({ name: 'resend', from }),
    applyPeer: ({ ledger, payload }) => call({ name: 'applyPeer', ledger, payload }),
    vector: () => call({ name: 'vector' }),
    caughtUp: () => call({ name: 'caughtUp' }),
    installManifest: (file, wanted) => call({ name: 'installManifest', file, wanted }),
    applyOverlay: (payload) => call({ name: 'applyOverlay', payload }),
    want: (payload) => call({ name: 'want', payload }),
    status: () => call({ name: 'status' }),
  };
}

/** Returns the answer, or null when it fails or takes longer. */
const within = <T>(answer: Promise<T | null>, budgetMs: number): Promise<T | null> =>
  withTimeout(
    answer.catch(() => null),
    budgetMs,
    null,
  );
