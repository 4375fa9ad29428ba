/**
 * Stores the latest status of every device: state, info, health, alerts. Only the newest of each kind is kept, in memory until it is written (twice
 * a second, for all devices of a tenant together), then on the device's row.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { MAX_TEXT_CHARS, SCHEMA_VERSION } from '../../contract/limits.ts';
import { AlertMessage, HealthMessage, InfoMessage, StateMessage } from '../../contract/messages.ts';
import { parsePayload } from '../../contract/parse.ts';
import { plainData } from '../../contract/text.ts';
import { topicOf } from '../../contract/topics.ts';
import { type Database, isTransient } from '../db/database.ts';
import type { Log } from '../log.ts';
import type { IncomingMessage } from '../mqtt/client.ts';
import type { Quarantine } from './quarantine.ts';
import type { Senders } from './sender-cache.ts';

const WRITE_EVERY_MS = 500;
/** Largest status, in bytes; a larger one is quarantined. A gate's own have some thousand. */
const MAX_STATUS_BYTES = 32 * 1024;
/** Devices times kinds that wait for the write; beyond it the oldest is evicted (its device sends it again). */
const MAX_WAITING = 50_000;
/** Characters of their texts together; beyond it the oldest is evicted likewise. */
const MAX_WAITING_CHARS = 6 * 1024 * 1024;
/**
 * Bytes of unreadable payloads on their way to quarantine. The broker's connection applies backpressure before that (backpressure.ts), for some
 * seconds; a further one is only counted.
 */
const MAX_REFUSING_BYTES = 4 * 1024 * 1024;

export type TelemetryTopic =
  | { readonly kind: 'state' | 'info' | 'health'; readonly gate: string }
  | { readonly kind: 'alert'; readonly gate: string; readonly alert: string };

export interface Telemetry {
  /** Accepts a status and acknowledges it; an unreadable one when it is in quarantine. Never waits. */
  take(topic: TelemetryTopic, message: IncomingMessage): void;
  /** Writes the waiting statuses now. */
  flush(): Promise<void>;
  /** Writes the waiting statuses, then ends. */
  close(): Promise<void>;
  stats(): { readonly received: number; readonly written: number; readonly refused: number; readonly waiting: number };
}

export interface TelemetryOptions {
  readonly database: Database;
  readonly senders: Senders;
  readonly quarantine: Quarantine;
  readonly log: Log;
  /** Runs when a gate reports that it is online (again). */
  readonly onOnline?: (tenantId: string, gate: string) => void;
}

const SCHEMAS = { state: StateMessage, info: InfoMessage, health: HealthMessage, alert: AlertMessage } as const;
interface Status {
  readonly topic: TelemetryTopic;
  readonly text: string | null;
  readonly session: string | null;
  readonly online: boolean;
}

export function createTelemetry(options: TelemetryOptions): Telemetry {
  const { database, senders, quarantine, log } = options;
  let waiting = new Map<string, Status>();
  let waitingChars = 0;
  let refusingBytes = 0;
  const counts = { received: 0, written: 0, refused: 0 };
  let loop: Promise<void> | null = null;
  const stop = new AbortController();
  let writing: Promise<void> = Promise.resolve();

  /** Holds the message until quarantine has it: faster messages must wait at the broker. */
  async function refuse(topic: TelemetryTopic, message: IncomingMessage, reason: 'oversized' | 'wrong_version' | 'unreadable', detail: string): Promise<void> {
    counts.refused += 1;
    const { byteLength } = message.payload;
    if (refusingBytes >= MAX_REFUSING_BYTES) return message.acknowledge();
    refusingBytes += byteLength;
    try {
      const sender = await senders.resolve(topic.gate);
      await quarantine.put(sender.kind === 'unknown' ? null : sender.tenantId, {
        topic: message.topic,
        reason: sender.kind === 'unknown' ? 'unknown_device' : reason,
        detail,
        payload: message.payload,
      });
    } catch (error) {
      log.warn({ error: (error as Error).message }, 'quarantine failed');
    } finally {
      refusingBytes -= byteLength;
      message.acknowledge();
    }
  }

  function evict(key: string): void {
    waitingChars -= waiting.get(key)?.text?.length ?? 0;
    waiting.delete(key);
  }

  /** Keeps the newest status of its kind, as the last of those that wait. */
  function remember(key: string, status: Status): void {
    evict(key);
    waiting.set(key, status);
    waitingChars += status.text?.length ?? 0;
    while (waiting.size > MAX_WAITING || waitingChars > MAX_WAITING_CHARS) evict(waiting.keys().next().value as string);
  }

  /** Writes all at once; where PostgreSQL refuses, splits in halves until the refused status is alone and goes to quarantine. */
  async function record(tenantId: string, statuses: readonly Status[]): Promise<void> {
    try {
      await database.withTenant(tenantId, (client) =>
        client.query('SELECT record_device_status($1::jsonb)', [
          JSON.stringify(
            statuses.map(({ topic, text, session, online }) => ({
              device: topic.gate,
              kind: topic.kind,
              alert_id: topic.kind === 'alert' ? topic.alert : null,
              word: text,
              session,
              online,
            })),
          ),
        ]),
      );
      counts.written += statuses.length;
      for (const { topic, online } of statuses) if (topic.kind === 'state' && online) options.onOnline?.(tenantId, topic.gate);
    } catch (error) {
      const [first] = statuses;
      if (isTransient(error) || first === undefined) throw error;
      if (statuses.length > 1) {
        const middle = Math.ceil(statuses.length / 2);
        await record(tenantId, statuses.slice(0, middle));
        return record(tenantId, statuses.slice(middle));
      }
      counts.refused += 1;
      log.error({ gate: first.topic.gate, kind: first.topic.kind, error: (error as Error).message }, 'writing a device status failed');
      await quarantine.put(tenantId, {
        topic: topicOf(first.topic),
        reason: 'failed',
        detail: (error as Error).message,
        payload: Buffer.from(first.text ?? ''),
      });
    }
  }

  async function write(): Promise<void> {
    if (waiting.size === 0) return;
    const statuses = waiting;
    waiting = new Map();
    waitingChars = 0;
    const byTenant = new Map<string, Status[]>();
    try {
      for (const status of statuses.values()) {
        const sender = await senders.resolve(status.topic.gate);
        // The status of an unknown or revoked device is not stored; its ledgers are quarantined.
        if (sender.kind !== 'device') {
          counts.refused += 1;
          continue;
        }
        byTenant.set(sender.tenantId, [...(byTenant.get(sender.tenantId) ?? []), status]);
      }
      for (const [tenantId, theirs] of byTenant) {
        theirs.sort((a, b) => (a.topic.gate < b.topic.gate ? -1 : a.topic.gate > b.topic.gate ? 1 : 0));
        await record(tenantId, theirs);
      }
    } catch (error) {
      log.warn({ error: (error as Error).message }, 'writing device statuses failed; retrying');
      if (!isTransient(error)) return;
      // Retried in the next round, unless something newer arrived meanwhile.
      for (const [key, status] of statuses) if (!waiting.has(key)) remember(key, status);
    }
  }

  function accept(topic: TelemetryTopic, value: Readonly<Record<string, unknown>> | null): void {
    remember(topic.kind === 'alert' ? `${topic.gate}/alert/${topic.alert}` : `${topic.gate}/${topic.kind}`, {
      topic,
      text: value === null ? null : storable(value),
      session: typeof value?.['session'] === 'string' ? value['session'] : null,
      online: value?.['state'] === 'online',
    });
  }

  const flush = () => {
    writing = writing.then(write);
    return writing;
  };

  async function writeRegularly(): Promise<void> {
    while (!stop.signal.aborted) {
      // The loop checks for the stop.
      await sleep(WRITE_EVERY_MS, undefined, { signal: stop.signal }).catch(() => {});
      await flush();
    }
  }

  return {
    take(topic, message) {
      counts.received += 1;
      loop ??= writeRegularly();
      const cleared = topic.kind === 'alert' && message.payload.byteLength === 0;
      const parsed = cleared ? null : parsePayload(SCHEMAS[topic.kind], message.payload, MAX_STATUS_BYTES);
      if (parsed !== null && !parsed.ok) {
        const reason = parsed.error === 'oversized' || parsed.error === 'wrong_version' ? parsed.error : 'unreadable';
        // Its readable fields are stored; the whole is in quarantine.
        const rest = parsed.error === 'malformed' ? readableFields(topic.kind, message.payload) : null;
        void refuse(topic, message, reason, parsed.message);
        if (rest !== null) accept(topic, rest);
        return;
      }
      message.acknowledge();
      accept(topic, parsed === null ? null : (parsed.value as Record<string, unknown>));
    },
    flush,
    async close() {
      stop.abort();
      await loop;
      await flush();
    },
    stats: () => ({ ...counts, waiting: waiting.size }),
  };
}

/**
 * Returns the valid fields of a malformed status: a health without one figure still has the others, and an alert with an unknown severity is an
 * alert. Returns null where nothing is left.
 */
function readableFields(kind: TelemetryTopic['kind'], payload: Uint8Array): Record<string, unknown> | null {
  const value = plainData(jsonOf(payload), MAX_TEXT_CHARS);
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return null;
  const fields = value as Record<string, unknown>;
  for (const { path } of SCHEMAS[kind].safeParse(fields).error?.issues ?? []) delete fields[String(path[0])];
  if (fields['schema'] !== SCHEMA_VERSION) return null;
  if (kind === 'alert') return { since: new Date().toISOString(), severity: 'warning', message: 'an alert that cannot be read: see quarantine', ...fields };
  if (kind === 'state') return fields['state'] === undefined || fields['session'] === undefined ? null : fields;
  return Object.keys(fields).length > 1 ? fields : null;
}

function jsonOf(payload: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(payload).toString('utf8'));
  } catch {
    return null;
  }
}

/** Returns JSON that jsonb can hold: without NUL and lone surrogates, in keys too. */
function storable(value: unknown): string {
  const clean = (text: string) => text.toWellFormed().replaceAll('\u0000', '');
  return JSON.stringify(value, (_key, inner: unknown) => {
    if (typeof inner === 'string') return clean(inner);
    if (typeof inner !== 'object' || inner === null || Array.isArray(inner)) return inner;
    return Object.fromEntries(Object.entries(inner).map(([key, item]) => [clean(key), item]));
  });
}
