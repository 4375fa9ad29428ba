/**
 * Commands from the cloud to a gate, and their answers. Never retained. A gate refuses a request that
 * is retained, late, already seen or malformed, and says so in its response.
 */
import { z } from 'zod';
import { ActorId, Direction, Epoch, LedgerName, Seq, Timestamp } from './ids.ts';
import { MODES } from './ledger.ts';
import { MAX_MISSING_RANGES, MAX_TEXT_CHARS, MAX_UNITS, SCHEMA_VERSION } from './limits.ts';

export const COMMANDS = [
  'open',
  'mode',
  'reset-emergency',
  'evacuate',
  'stop-entry',
  'resume-entry',
  'sensor',
  'refresh',
  'selftest',
  'resend',
  'handback',
  'restart',
  'diagnostics',
] as const;
export const Command = z.enum(COMMANDS);
export type Command = z.infer<typeof Command>;

/** Life of a request, in milliseconds; a gate refuses it afterwards. */
export const REQUEST_EXPIRY_MS: Readonly<Record<Command, number>> = {
  open: 5_000,
  mode: 30_000,
  'reset-emergency': 30_000,
  evacuate: 30_000,
  'stop-entry': 30_000,
  'resume-entry': 30_000,
  sensor: 30_000,
  refresh: 30_000,
  selftest: 30_000,
  resend: 30_000,
  handback: 30_000,
  restart: 30_000,
  diagnostics: 30_000,
};

const Args = {
  open: z.strictObject({ direction: Direction.default('in'), units: z.int().min(1).max(MAX_UNITS).default(1) }),
  /**
   * Sets the mode. Only the fire input enters emergency. Without `direction`: both; `locked` and `out_of_service` close in only. Closing out takes
   * `direction: out` and `confirm_exit_closed: true`, and ends by itself.
   */
  mode: z.strictObject({
    mode: z.enum(MODES).exclude(['emergency']),
    direction: Direction.optional(),
    until: Timestamp.optional(),
    confirm_exit_closed: z.literal(true).optional(),
  }),
  'reset-emergency': z.strictObject({}),
  /** Opens both ways, latched like fire, until reset-emergency. */
  evacuate: z.strictObject({}),
  /** Closes in; out stays free, tickets stay as they are. */
  'stop-entry': z.strictObject({}),
  /** Ends stop-entry. Ends no emergency. */
  'resume-entry': z.strictObject({}),
  /** Answers "do the arms turn?" where the passage sensor has a fault. */
  sensor: z.strictObject({ turns: z.boolean() }),
  refresh: z.strictObject({}),
  selftest: z.strictObject({}),
  /** Publishes stored rows again, from this row on; without numbers, the rows that the latest acknowledgement leaves out. */
  resend: z
    .strictObject({ epoch: z.int().min(1).optional(), from_seq: z.int().min(1).optional() })
    .refine(({ epoch, from_seq }) => (epoch === undefined) === (from_seq === undefined), 'give epoch and from_seq together, or neither'),
  /** Publishes on the topic `handback`, as they were published, the messages that hold these rows of a ledger of the site. */
  handback: z.strictObject({
    ledger: LedgerName,
    epoch: Epoch,
    ranges: z
      .array(z.tuple([Seq, Seq]).refine(([from, to]) => from <= to, 'a range ends where it begins or later'))
      .min(1)
      .max(MAX_MISSING_RANGES),
  }),
  restart: z.strictObject({}),
  diagnostics: z.strictObject({}),
} as const satisfies Record<Command, z.ZodType>;
export const CommandArgs = Args;
export type CommandArgs = { [C in Command]: z.infer<(typeof Args)[C]> };

const envelope = {
  schema: z.literal(SCHEMA_VERSION),
  /** Chosen by the sender, unique; remembered durably by the gate until `expires_at`. */
  transaction: z.string().regex(/^[A-Za-z0-9-]{8,64}$/, 'a transaction has 8 to 64 letters, digits or -'),
  actor: ActorId,
  reason: z.string().min(1).max(MAX_TEXT_CHARS),
  issued_at: Timestamp,
  expires_at: Timestamp,
  /** The nonce of the gate's `state`: a gate whose clock is not trusted takes commands towards open with it. */
  nonce: z.string().min(16).max(64).optional(),
};
/** The envelope alone: enough to answer a request whose args are wrong. */
export const RequestEnvelope = z.looseObject(envelope);
export type RequestEnvelope = z.infer<typeof RequestEnvelope>;
/** Returns the whole request of one command; the command is named by the topic. */
export function requestSchema<C extends Command>(command: C) {
  return z.looseObject({ ...envelope, args: Args[command] });
}
export type Request<C extends Command = Command> = RequestEnvelope & { args: CommandArgs[C] };

/** Causes of a refused or failed request. */
export const REQUEST_ERRORS = ['retained', 'late', 'replayed', 'malformed', 'clock_untrusted', 'refused', 'failed', 'unknown_command'] as const;
export const RequestError = z.enum(REQUEST_ERRORS);
export type RequestError = z.infer<typeof RequestError>;

/** `response/<command>`. `transaction` is null where the request's could not be read. */
export const ResponseMessage = z
  .looseObject({
    schema: z.literal(SCHEMA_VERSION),
    transaction: z.string().max(64).nullable(),
    status: z.enum(['ok', 'error']),
    data: z.record(z.string(), z.unknown()).optional(),
    error: z.looseObject({ code: RequestError, message: z.string().max(MAX_TEXT_CHARS) }).optional(),
    duration_ms: z.number().min(0),
  })
  .refine((response) => (response.status === 'ok') === (response.error === undefined), 'error is given exactly when status is error');
export type ResponseMessage = z.infer<typeof ResponseMessage>;
