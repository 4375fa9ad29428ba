/**
 * MQTT payloads other than the ledger, the manifests and the requests. Topics are in topics.ts.
 * Every payload carries `schema`; unknown fields are kept (additions are free).
 */
import { z } from 'zod';
import { GateName, Timestamp } from './ids.ts';
import { Mode } from './ledger.ts';
import { MAX_TEXT_CHARS, SCHEMA_VERSION } from './limits.ts';
import { REASONS, type Reason } from './reasons.ts';

const schema = z.literal(SCHEMA_VERSION);
const Text = z.string().max(MAX_TEXT_CHARS);
const Flag = z.union([z.literal(0), z.literal(1)]);
const Count = z.int().min(0);

/** `state`, retained, and the gate's last will (offline, reason `connection lost`). */
export const StateMessage = z.looseObject({
  schema,
  state: z.enum(['online', 'offline']),
  /** New with every connection, so that a gate's late will of an old session is recognised. */
  session: z.string().min(1).max(64),
  since: Timestamp,
  reason: Text,
  /**
   * Online gates alone: random, new at each connection and after each command taken. A gate whose clock is not trusted takes commands towards open
   * only with it.
   */
  nonce: z.string().min(16).max(64).optional(),
});
export type StateMessage = z.infer<typeof StateMessage>;

/** `stile/1/_cloud/<host>/state`, retained, with a will. */
export const CloudStateMessage = StateMessage;

export const InfoMessage = z.looseObject({
  schema,
  version: z.string().max(64),
  commit: z.string().max(64),
  runtime: z.string().max(64),
  kernel: z.string().max(128),
  image: z.string().max(64).nullable(),
  hardware_model: z.string().max(128).nullable(),
  hardware_serial: z.string().max(64).nullable(),
  boot_id: z.string().max(64),
  booted_at: Timestamp,
  config_sha256: z.string().max(64),
  readers: z.array(z.looseObject({ name: z.string().max(31), path: z.string().max(255), baud: z.int(), direction: z.enum(['in', 'out']) })).max(8),
  /** `by`: the driver of the lines, for people. */
  board: z.looseObject({ driver: z.string().max(31), by: z.string().max(255) }).optional(),
  cert_expires_at: Timestamp.nullable(),
});
export type InfoMessage = z.infer<typeof InfoMessage>;

/** Every 30 s; flat numbers, flags as 0/1, so that any chart can draw it. Unknown values are absent. */
export const HealthMessage = z.looseObject({
  schema,
  uptime_s: z.number().min(0),
  loop_lag_ms: z.number().min(0),
  rss_mb: z.number().min(0),
  cpu_temp_c: z.number().optional(),
  under_voltage: Flag.optional(),
  disk_free_mb: z.number().min(0),
  clock_offset_ms: z.number().optional(),
  clock_bound_ms: z.number().min(0).optional(),
  clock_trusted: Flag,
  backlog: Count,
  backlog_oldest_s: z.number().min(0),
  manifest_version: Count,
  manifest_age_s: z.number().min(0),
  reader_ok: Flag,
  /** Contacts of the fire input that were too short to count, since the start. */
  fire_kicks: Count.optional(),
  board_ok: Flag,
  /** The mode of direction `in`; `mode_out` is the other's where it differs. */
  mode: Mode,
  admissions_total: Count,
  refusals_total: Count,
  passages_total: Count,
});
export type HealthMessage = z.infer<typeof HealthMessage> & Partial<Record<`reader_${string}_${'bytes' | 'frames' | 'garbled' | 'unknown'}_total`, number>>;

/**
 * Codes that caused no decision, by cause: `busy` (somebody was passing, and the queue was full), `held` (the reader saw the current guest's code
 * again), `repeat` (the same refusal shown again), `open` (the lane stood open).
 */
export const NOT_TAKEN = ['busy', 'held', 'repeat', 'open'] as const;
export type NotTaken = (typeof NOT_TAKEN)[number];

/** Every 60 s, over the window; `refused_<reason>` for every reason that occurred, `not_taken_<why>` for codes that were not decided. */
export const StatsMessage = z
  .looseObject({
    schema,
    window_s: z.number().min(0),
    admissions: Count,
    refusals: Count,
    passages: Count,
    returned: Count,
    exits: Count,
    decision_p50_us: Count,
    decision_p99_us: Count,
  })
  .superRefine((stats, context) => {
    for (const key of Object.keys(stats)) {
      if (key.startsWith('refused_') && !(REASONS as readonly string[]).includes(key.slice('refused_'.length))) {
        context.addIssue({ code: 'custom', path: [key], message: 'no such reason' });
      }
      if (key.startsWith('not_taken_') && !(NOT_TAKEN as readonly string[]).includes(key.slice('not_taken_'.length))) {
        context.addIssue({ code: 'custom', path: [key], message: 'no such cause' });
      }
    }
  });
export type StatsMessage = z.infer<typeof StatsMessage> & Partial<Record<`refused_${Reason}` | `not_taken_${NotTaken}`, number>>;

export const SEVERITIES = ['info', 'warning', 'critical'] as const;
export const Severity = z.enum(SEVERITIES);
export type Severity = z.infer<typeof Severity>;

/** Live copy for tools. Never the ledger: it may be lost. `detail` is flat. */
export const EventMessage = z.looseObject({
  schema,
  type: z.string().min(1).max(32),
  severity: Severity,
  ts: Timestamp,
  detail: z.record(z.string().max(32), z.unknown()),
});
export type EventMessage = z.infer<typeof EventMessage>;

/** The alerts that a gate can raise; `reader-<name>` for each reader. An empty payload clears one. */
export const ALERT_IDS = [
  'board',
  'disk',
  'clock',
  'manifest',
  'uplink',
  'fire',
  'tamper',
  'forced',
  'stuck',
  'sensor',
  'evacuate',
  'usage-lost',
  'power',
  'key',
  'ledger',
  'clone',
  'exit-closed',
] as const;
export const AlertId = z.union([z.enum(ALERT_IDS), z.string().regex(/^reader-[a-z0-9][a-z0-9-]{0,30}$/)]);
export type AlertId = (typeof ALERT_IDS)[number] | `reader-${string}`;
export const AlertMessage = z.looseObject({ schema, since: Timestamp, severity: Severity, message: Text });
export type AlertMessage = z.infer<typeof AlertMessage>;

/** `time`: the gate asks. `sent_boottime_ms` comes back unchanged, so no state is kept. */
export const TimeQuestion = z.looseObject({ schema, n: z.int().min(0), boot_id: z.string().min(1).max(64), sent_boottime_ms: z.number().min(0) });
export type TimeQuestion = z.infer<typeof TimeQuestion>;
/** `time/<n>`: the cloud answers with its clock at arrival and at departure, in Unix milliseconds (fractions allowed). */
export const TimeAnswer = z.looseObject({
  schema,
  n: z.int().min(0),
  boot_id: z.string().min(1).max(64),
  sent_boottime_ms: z.number().min(0),
  received_unix_ms: z.number(),
  answered_unix_ms: z.number(),
});
export type TimeAnswer = z.infer<typeof TimeAnswer>;

/** The sender of a message, where the topic does not name it. */
export const Sender = GateName;
