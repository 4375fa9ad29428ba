/**
 * Validates one request, given the time. Pure. The decider recognises replays durably; all other checks are here.
 */
import { parsePayload } from '../../contract/parse.ts';
import { Command, REQUEST_EXPIRY_MS, type Request, RequestEnvelope, type RequestError, requestSchema } from '../../contract/requests.ts';
import { TOPIC_ROOT } from '../../contract/topics.ts';

/** Most that `issued_at` may lie ahead of the gate's time, in ms; beyond, the request is malformed. */
export const ISSUED_AHEAD_MS = 5_000;

/** Last part of a topic that can also stand in the answer's topic. */
const COMMAND_PART = /^[a-z][a-z0-9-]{0,31}$/;

/** Returns the command of a topic in the inbox of this gate or its site; null: not a request. */
export function commandOfTopic(topic: string, gate: string): string | null {
  const site = gate.slice(0, gate.indexOf('/'));
  for (const prefix of [`${TOPIC_ROOT}/${gate}/request/`, `${TOPIC_ROOT}/${site}/_all/request/`]) {
    if (topic.startsWith(prefix)) {
      const command = topic.slice(prefix.length);
      return COMMAND_PART.test(command) ? command : null;
    }
  }
  return null;
}

/** Returns whether a command may be taken without a trusted clock: it opens, or closes in for everybody's safety. */
function isTowardsOpen(command: Command, args: object): boolean {
  if (command === 'mode') return 'mode' in args && args.mode === 'free';
  return ['evacuate', 'stop-entry', 'resume-entry', 'open', 'reset-emergency'].includes(command);
}

export type Judgement =
  | {
      readonly accept: true;
      readonly command: Command;
      readonly request: Request /** When it ends to be valid: remembered until then. Unix ms. */;
      readonly expiresAtMs: number;
      /** Taken by its nonce, without a trusted clock. */
      readonly byNonce?: true;
    }
  | { readonly accept: false; readonly transaction: string | null; readonly code: RequestError; readonly message: string };

/**
 * Validates any bytes and any command. `nowMs`: estimate of the cloud's time, Unix ms; null: the clock is not trusted, and every
 * request is refused. A request lives until `expires_at`, but no longer than its command allows after `issued_at`.
 */
export function validateRequest(input: {
  readonly command: string;
  readonly payload: Uint8Array;
  readonly retained: boolean;
  readonly nowMs: number | null;
  /** The nonce that the gate's state names now; null or absent: none, or the request came on the site's topic. */
  readonly nonce?: string | null;
}): Judgement {
  const envelope = parsePayload(RequestEnvelope, input.payload);
  const transaction = envelope.ok ? envelope.value.transaction : null;
  const refuse = (code: RequestError, message: string): Judgement => ({ accept: false, transaction, code, message });

  if (input.retained) return refuse('retained', 'requests are never retained: publish it again without the retain flag, and clear the topic');
  const command = Command.safeParse(input.command);
  if (!command.success) return refuse('unknown_command', `this gate supports ${Command.options.join(', ')}`);
  if (!envelope.ok) return refuse('malformed', envelope.error === 'malformed' ? envelope.message : `${envelope.error}: ${envelope.message}`);
  const whole = parsePayload(requestSchema(command.data), input.payload);
  if (!whole.ok) return refuse('malformed', whole.message);

  if (input.nowMs === null && envelope.value.nonce !== undefined && envelope.value.nonce === input.nonce && isTowardsOpen(command.data, whole.value.args))
    return { accept: true, command: command.data, request: whole.value as Request, expiresAtMs: Date.parse(envelope.value.expires_at), byNonce: true };
  if (input.nowMs === null)
    return refuse(
      'clock_untrusted',
      "the gate's clock is not trusted yet, so the gate cannot check whether this request is late; try again when health says clock_trusted 1",
    );
  const issuedMs = Date.parse(envelope.value.issued_at);
  const expiresAtMs = Math.min(Date.parse(envelope.value.expires_at), issuedMs + REQUEST_EXPIRY_MS[command.data]);
  if (issuedMs > input.nowMs + ISSUED_AHEAD_MS) return refuse('malformed', `issued_at is ${Math.round(issuedMs - input.nowMs)} ms ahead of the gate's time`);
  if (expiresAtMs <= input.nowMs) return refuse('late', `expired ${Math.round(input.nowMs - expiresAtMs)} ms ago, at ${new Date(expiresAtMs).toISOString()}`);
  return { accept: true, command: command.data, request: whole.value as Request, expiresAtMs };
}
