/**
 * Handles requests: validates each, stores its transaction, passes it to the gate, and answers exactly once, with the duration.
 */
import { MAX_PAYLOAD_BYTES, SCHEMA_VERSION } from '../../contract/limits.ts';
import type { RequestError, ResponseMessage } from '../../contract/requests.ts';
import { cutText } from '../../contract/text.ts';
import { TOPIC_ROOT } from '../../contract/topics.ts';
import type { Log } from '../log/log.ts';
import type { Clock, UplinkEvent } from '../ports.ts';
import type { Incoming } from './mqtt-session.ts';
import { validateRequest } from './request-validation.ts';

/** Most requests in flight; a further one is refused. */
export const MAX_REQUESTS_IN_FLIGHT = 32;
/** Longest wait for the gate's answer, in ms; then the request fails. */
export const ANSWER_WAIT_MS = 120_000;
const MAX_MESSAGE_CHARS = 512;

type Answer = Pick<ResponseMessage, 'status' | 'data' | 'error'>;

export interface RequestHandler {
  received(command: string, message: Incoming): void;
  /** Drops pending requests without an answer. */
  close(): void;
}

export function createRequestHandler(options: {
  readonly gate: string;
  readonly clock: Clock;
  readonly log: Log;
  readonly remember: (transaction: string, untilMs: number) => Promise<boolean>;
  readonly deliver: (event: UplinkEvent) => void;
  /** Returns the nonce of the state now, and replaces it; a command is taken by it once. */
  readonly nonce: () => string | null;
  readonly renewNonce: () => void;
  readonly answer: (topic: string, payload: string, correlationData: Uint8Array | null) => void;
}): RequestHandler {
  const { clock, gate } = options;
  const pending = new Set<NodeJS.Timeout>();
  const prefix = `${TOPIC_ROOT}/${gate}/response/`;
  /** Returns the best estimate of the cloud's time, since the cloud set `expires_at`; null: not trusted. */
  const nowMs = () => {
    if (!clock.trusted()) return null;
    const offset = clock.offset();
    return offset === null ? clock.wallMs() : clock.boottimeMs() + offset.offsetMs;
  };

  const received = async (requested: string, message: Incoming) => {
    const startedMs = clock.boottimeMs();
    const topic = message.responseTopic?.startsWith(prefix) ? message.responseTopic : prefix + requested;
    const answer = (transaction: string | null, body: Answer) => {
      const whole: ResponseMessage = { schema: SCHEMA_VERSION, transaction, ...body, duration_ms: Math.max(0, clock.boottimeMs() - startedMs) };
      const text = JSON.stringify(whole);
      options.answer(
        topic,
        Buffer.byteLength(text) <= MAX_PAYLOAD_BYTES
          ? text
          : JSON.stringify({ ...whole, status: 'error', data: undefined, error: { code: 'failed', message: 'done, but the answer is too large to send' } }),
        message.correlationData,
      );
    };
    const refuse = (transaction: string | null, code: RequestError, why: string) => {
      options.log.warn(`request ${requested} refused: ${code}`, { transaction, why });
      answer(transaction, { status: 'error', error: { code, message: cutText(why, MAX_MESSAGE_CHARS) } });
    };

    // A request to the whole site names no nonce of this gate.
    const isOwn = message.topic.startsWith(`${TOPIC_ROOT}/${gate}/`);
    const judgement = validateRequest({
      command: requested,
      payload: message.payload,
      retained: message.retained,
      nowMs: nowMs(),
      nonce: isOwn ? options.nonce() : null,
    });
    if (!judgement.accept) return refuse(judgement.transaction, judgement.code, judgement.message);
    const { request, command, byNonce } = judgement;
    if (byNonce === true) options.renewNonce();
    const { transaction } = request;
    if (pending.size >= MAX_REQUESTS_IN_FLIGHT) return refuse(transaction, 'refused', `${MAX_REQUESTS_IN_FLIGHT} requests are in flight; try again`);

    let open = true;
    const respond = (given: object) => {
      const body = given as Answer;
      if (!open) return;
      open = false;
      clearTimeout(timer);
      pending.delete(timer);
      if (body.status === 'error') refuse(transaction, body.error?.code ?? 'failed', body.error?.message ?? 'failed');
      else answer(transaction, body);
    };
    const timer = setTimeout(
      () => respond({ status: 'error', error: { code: 'failed', message: `the gate did not answer within ${ANSWER_WAIT_MS / 1000} s` } }),
      ANSWER_WAIT_MS,
    );
    timer.unref();
    pending.add(timer);
    try {
      // Stored before the gate acts, so that a replay after a power cut is recognised.
      const isNew = await options.remember(transaction, judgement.expiresAtMs);
      const afterwards = nowMs();
      if (!isNew) return respond({ status: 'error', error: { code: 'replayed', message: 'this transaction was already received' } });
      if (byNonce !== true && (afterwards === null || afterwards >= judgement.expiresAtMs))
        return respond({ status: 'error', error: { code: 'late', message: 'expired while the gate stored the transaction' } });
    } catch (error) {
      return respond({ status: 'error', error: { code: 'failed', message: `storing the transaction failed: ${(error as Error).message}` } });
    }
    options.deliver({ kind: 'request', request, command, respond });
  };
  return {
    received(command, message) {
      void received(command, message);
    },
    close() {
      for (const timer of pending) clearTimeout(timer);
      pending.clear();
    },
  };
}
