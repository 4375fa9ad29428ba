/** Sends commands to a gate and awaits their answers, over MQTT: published once, never retained, answered within their life or not at all. */

import { randomUUID } from 'node:crypto';
import { SCHEMA_VERSION } from '../../contract/limits.ts';
import { parsePayload } from '../../contract/parse.ts';
import { type Command, CommandArgs, REQUEST_EXPIRY_MS, ResponseMessage } from '../../contract/requests.ts';
import { describeIssue } from '../../contract/schema-errors.ts';
import { DELIVERY, parseTopic, topicOf } from '../../contract/topics.ts';

/** Time after a request's life, in milliseconds, for its answer to arrive. */
const ANSWER_GRACE_MS = 2_000;
/** Requests that wait for their answer at once; further ones are refused. */
const MAX_PENDING = 1_000;

export type SendMessage = (
  topic: string,
  payload: string,
  delivery: { readonly qos: 0 | 1; readonly retain: boolean; readonly expirySeconds?: number },
) => Promise<void>;

export type RequestOutcome =
  | { readonly kind: 'answered'; readonly transaction: string; readonly response: ResponseMessage }
  | { readonly kind: 'malformed'; readonly message: string }
  /** The broker accepted it and no answer came in time: the gate is disconnected, or did not get it. */
  | { readonly kind: 'unanswered'; readonly transaction: string; readonly waitedMs: number }
  | { readonly kind: 'unsent'; readonly message: string };

export interface GateRequests {
  /** Never throws. */
  send(gate: string, command: Command, request: { readonly actor: string; readonly reason: string; readonly args: unknown }): Promise<RequestOutcome>;
  /** Receives every message of a `response/+` topic. */
  receive(topic: string, payload: Uint8Array): void;
}

export function createGateRequests(options: { readonly publish: SendMessage; readonly now?: () => number }): GateRequests {
  const now = options.now ?? Date.now;
  const pending = new Map<string, { readonly gate: string; readonly command: Command; readonly answer: (response: ResponseMessage) => void }>();

  return {
    async send(gate, command, { actor, reason, args }) {
      const checked = CommandArgs[command].safeParse(args ?? {});
      if (!checked.success)
        return {
          kind: 'malformed',
          message: checked.error.issues.map((issue) => `args.${issue.path.map(String).join('.') || '(whole)'}: ${describeIssue(issue)}`).join('; '),
        };
      if (pending.size >= MAX_PENDING) return { kind: 'unsent', message: `${MAX_PENDING} requests wait for their answer: try again` };
      const transaction = randomUUID();
      const life = REQUEST_EXPIRY_MS[command];
      const issued = now();
      const waitMs = life + ANSWER_GRACE_MS;
      const payload = {
        schema: SCHEMA_VERSION,
        transaction,
        actor,
        reason,
        issued_at: new Date(issued).toISOString(),
        expires_at: new Date(issued + life).toISOString(),
        args: checked.data,
      };
      return new Promise<RequestOutcome>((done) => {
        const timer = setTimeout(() => {
          pending.delete(transaction);
          done({ kind: 'unanswered', transaction, waitedMs: waitMs });
        }, waitMs);
        const finish = (outcome: RequestOutcome) => {
          clearTimeout(timer);
          pending.delete(transaction);
          done(outcome);
        };
        pending.set(transaction, { gate, command, answer: (response) => finish({ kind: 'answered', transaction, response }) });
        options
          .publish(topicOf({ kind: 'request', gate, command }), JSON.stringify(payload), {
            qos: DELIVERY.request.qos,
            retain: false,
            expirySeconds: Math.ceil(life / 1000),
          })
          .catch((error: Error) => finish({ kind: 'unsent', message: error.message }));
      });
    },
    receive(topic, payload) {
      const parsed = parseTopic(topic);
      if (parsed?.kind !== 'response') return;
      const message = parsePayload(ResponseMessage, payload);
      if (!message.ok || message.value.transaction === null) return;
      const waiting = pending.get(message.value.transaction);
      // Only the requested gate may answer.
      if (waiting !== undefined && waiting.gate === parsed.gate && waiting.command === parsed.command) waiting.answer(message.value);
    },
  };
}
