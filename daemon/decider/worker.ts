/**
 * The decider's worker: owns the store, so that a stalled disk delays one decision and never the loop.
 *
 * Calls are answered in the order in which they came; only the installation of a manifest runs beside them, in slices. What can wait
 * (usage, checks, pruning, checkpoints) is done between calls, and what syncs only when nobody is at the lane.
 */
import { isMainThread, type MessagePort, parentPort, workerData } from 'node:worker_threads';
import type { Stamp } from '../store/ledger.ts';
import { StoreError, storeError } from '../store/sqlite.ts';
import { openDeciderEngine } from './decider.ts';
import type { DeciderEngine } from './engine.ts';
import { monotonicUs, type StoreIdentity, type WorkerData, type WorkerReply, type WorkerRequest } from './protocol.ts';

/** After the last call, before the first thing that can wait, in milliseconds. */
const IDLE_AFTER_MS = 5;
/** Nobody was at the lane for so long, in milliseconds: then a checkpoint may sync. */
const QUIET_AFTER_MS = 500;
/** Between two tries of an idle step that failed, in milliseconds. */
const IDLE_RETRY_MS = 10_000;
/** Between two tries to open a store that could not be recovered, in milliseconds. */
const REOPEN_AFTER_MS = 2_000;

/** Serves calls on a port until `close`. Nothing is opened before `open` says whose store it is. */
export function startWorker(port: MessagePort): void {
  let store: StoreIdentity | null = null;
  let core: DeciderEngine | null = null;
  let recovering = false;
  let closed = false;
  const waiting: WorkerRequest[] = [];
  let installs: Promise<unknown> = Promise.resolve();
  let lastStamp: Stamp | null = null;
  let laneUsedUs = 0;
  let idleTimer: NodeJS.Timeout | null = null;

  const reply = (message: WorkerReply): void => {
    port.postMessage(message);
  };
  const notice = (what: string, detail: string): void => {
    reply({ notice: what, detail });
  };

  const refuse = (request: WorkerRequest, error: unknown): void => {
    const known = faultOf(request.call.name, error);
    reply({ id: request.id, ok: false, error: { message: known.message, code: known.code, fault: known.fault } });
    if (known.damaged) void recover(known, request.stamp);
  };

  const recover = async (error: StoreError, stamp: Stamp): Promise<void> => {
    if (core === null || recovering) return;
    recovering = true;
    try {
      await core.recover(error, stamp);
    } catch (failed) {
      notice('ledger', faultOf('recover', failed).message);
      try {
        core.close();
      } catch {
        // What is broken cannot be closed cleanly; it is opened anew.
      }
      core = null;
      setTimeout(() => void reopen(stamp), REOPEN_AFTER_MS);
    }
    goOn();
  };
  /** Opens the store again after a recovery that failed (no room for the new ledger, say): until then every call is refused. */
  const reopen = async (stamp: Stamp): Promise<void> => {
    if (core !== null || recovering || closed || store === null) return;
    recovering = true;
    try {
      core = await openDeciderEngine({ ...store, notice }, lastStamp ?? stamp);
    } catch (failed) {
      notice('ledger', faultOf('open', failed).message);
      setTimeout(() => void reopen(stamp), REOPEN_AFTER_MS);
    }
    goOn();
  };
  const goOn = (): void => {
    recovering = false;
    for (const next of waiting.splice(0)) take(next);
  };

  const take = (request: WorkerRequest): void => {
    if (recovering) {
      waiting.push(request);
      return;
    }
    lastStamp = request.stamp;
    const { call, id } = request;
    try {
      if (call.name === 'open') {
        store = call.store;
        void open(request, store);
        return;
      }
      if (call.name === 'close') {
        close(id);
        return;
      }
      if (core === null)
        throw new StoreError(
          { operation: call.name, cause: 'the store is not open', hint: 'Wait until open has answered.', healsItself: true },
          'STORE_CLOSED',
          false,
        );
      if (call.name === 'installManifest') {
        const opened = core;
        installs = installs
          .then(() => opened.installManifest(call.file, call.wanted, request.stamp))
          .then(
            (value) => reply({ id, ok: true, value }),
            (error: unknown) => refuse(request, error),
          );
        return;
      }
      if (call.name === 'decide' || call.name === 'record') laneUsedUs = monotonicUs();
      const value = serve(core, request);
      reply({ id, ok: true, value });
    } catch (error) {
      refuse(request, error);
    }
    idleSoon(IDLE_AFTER_MS);
  };

  /** Whatever closing meets, the worker ends. */
  const close = (id: number): void => {
    const closing = core;
    core = null;
    closed = true;
    if (idleTimer !== null) clearTimeout(idleTimer);
    try {
      closing?.close();
    } catch (error) {
      notice('disk', faultOf('close', error).message);
    }
    reply({ id, ok: true, value: undefined });
    port.close();
  };

  const open = async (request: WorkerRequest, whose: StoreIdentity): Promise<void> => {
    recovering = true;
    try {
      core ??= await openDeciderEngine({ ...whose, notice }, request.stamp);
      reply({ id: request.id, ok: true, value: core.status(request.stamp) });
    } catch (error) {
      refuse(request, error);
    }
    goOn();
    idleSoon(IDLE_AFTER_MS);
  };

  const idleSoon = (afterMs: number): void => {
    if (idleTimer !== null) clearTimeout(idleTimer);
    idleTimer = setTimeout(idle, afterMs);
  };
  const idle = (): void => {
    idleTimer = null;
    if (core === null || recovering || lastStamp === null) return;
    const quietMs = (monotonicUs() - laneUsedUs) / 1_000;
    try {
      if (core.idle(lastStamp, quietMs >= QUIET_AFTER_MS) || (quietMs >= QUIET_AFTER_MS && core.preallocateWal())) idleSoon(0);
      else if (quietMs < QUIET_AFTER_MS) idleSoon(QUIET_AFTER_MS - quietMs + 1);
    } catch (error) {
      const known = faultOf('tidy up', error);
      if (known.damaged) {
        notice('ledger', known.message);
        void recover(known, lastStamp);
      } else notice('disk', known.message);
      idleSoon(IDLE_RETRY_MS);
    }
  };

  port.on('message', take);
}

/** Errors of ours keep their fault; of any other nothing but its name is told, because a text could hold a guest's code. */
function faultOf(operation: string, error: unknown): StoreError {
  if (error instanceof StoreError) return error;
  const code = (error as { code?: unknown } | null)?.code;
  if (typeof code === 'string') return storeError(operation, error);
  return new StoreError(
    {
      operation,
      cause: `a programming error in the gate (${error instanceof Error ? error.name : typeof error})`,
      hint: "Keep the gate's journal and report it.",
      healsItself: false,
    },
    'DECIDER_FAILED',
    false,
  );
}

function serve(core: DeciderEngine, { id, stamp, sentUs, call }: WorkerRequest): unknown {
  switch (call.name) {
    case 'decide': {
      try {
        return core.decide(id, call.presentation, stamp, () => monotonicUs() - sentUs, call.answer);
      } finally {
        // This copy is ours alone: the code does not outlive its decision.
        call.presentation.bytes.fill(0);
      }
    }
    case 'prepare':
      return core.prepare(stamp);
    case 'abandon':
      return core.abandon(call.decision, stamp);
    case 'remember':
      return core.remember(call.answers, stamp);
    case 'record':
      return core.record(call.note, stamp);
    case 'setFireLatch':
      return core.setFireLatch(call.latched);
    case 'rememberTransaction':
      return core.rememberTransaction(call.transaction, call.expiresAtMs, stamp);
    case 'nextBatch':
      return core.nextBatch(call.after);
    case 'question':
      return core.question();
    case 'rows':
      return core.rows(call.after, call.limit);
    case 'acknowledge':
      return core.acknowledge(call.ack, stamp);
    case 'resend':
      return core.resend(call.from);
    case 'applyPeer':
      return core.applyPeer({ ledger: call.ledger, payload: call.payload });
    case 'applyOverlay':
      return core.applyOverlay(call.payload, stamp);
    case 'want':
      return core.want(call.payload, stamp);
    case 'vector':
      return core.vector();
    case 'caughtUp':
      return core.caughtUp();
    case 'status':
      return core.status(stamp);
    default:
      throw new Error(`no such call: ${call.name}`);
  }
}

if (!isMainThread && parentPort !== null && (workerData as Partial<WorkerData> | null)?.role === 'decider') startWorker(parentPort);
