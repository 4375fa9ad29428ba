/**
 * Ingests the devices' messages: ledgers for reconciliation, device status onto the devices' rows, lookups and time requests answered. Stateless:
 * any number of these may run on one shared subscription, and any may be killed at any time.
 */

import { isCloudLedger } from '../../contract/ids.ts';
import type { AckMessage } from '../../contract/ledger.ts';
import { MAX_PAYLOAD_BYTES, SCHEMA_VERSION } from '../../contract/limits.ts';
import { type LookupAnswer, LookupQuestion } from '../../contract/manifest.ts';
import { TimeQuestion } from '../../contract/messages.ts';
import { parsePayload } from '../../contract/parse.ts';
import { DELIVERY, parseTopic, topicOf } from '../../contract/topics.ts';
import type { Database } from '../db/database.ts';
import type { Log } from '../log.ts';
import type { CloudBroker, IncomingMessage } from '../mqtt/client.ts';
import { checkLife, presentLife, publishAllAcks, renewLife } from './database-life.ts';
import { createLedgerIntake, type IntakeReconciler, type LedgerIntakeStats } from './ledger-intake.ts';
import { createCloudRows, type MaintenanceReconciler } from './maintenance.ts';
import { createQuarantine } from './quarantine.ts';
import { createSenders } from './sender-cache.ts';
import { createTelemetry } from './telemetry.ts';

/** Lookups in flight; further ones stay unanswered: the gate decides alone after its timeout. */
const MAX_LOOKUPS = 64;
export interface IngestOptions<Row> {
  readonly database: Database;
  readonly broker: CloudBroker;
  /** The functions of reconcile/. */
  readonly reconciler: IntakeReconciler<Row> & MaintenanceReconciler;
  /** Returns facts about the tickets of a lookup; never a grant. Without it lookups stay unanswered. */
  readonly lookup?: (tenantId: string, gate: string, question: LookupQuestion) => Promise<LookupAnswer['tickets']>;
  /** Receives gates' responses to commands. Called in every process. */
  readonly onResponse?: (topic: string, payload: Uint8Array) => void;
  readonly log: Log;
}

export interface IngestStats {
  readonly ledgers: LedgerIntakeStats;
  readonly telemetry: { readonly received: number; readonly written: number; readonly refused: number; readonly waiting: number };
  readonly lookups: number;
  readonly lookups_refused: number;
  readonly times: number;
  readonly times_refused: number;
  readonly foreign: number;
}

export interface Ingest {
  /** Receives the broker's messages (`onMessage`). Never throws, never waits. */
  receive(message: IncomingMessage): void;
  /**
   * Compares what the broker retains of earlier acknowledgements with the database, before anything is acknowledged: a database that went back in time
   * begins a new life. Call it before the broker's subscriptions open. Returns whether a new life began.
   */
  checkLife(retained: ReadonlyMap<string, AckMessage>): Promise<boolean>;
  /** Starts to publish the cloud's own rows, and publishes every gate's acknowledgement once. Messages are ingested from the beginning. */
  open(): void;
  /** Resolves when every received message is committed (tests). */
  idle(): Promise<void>;
  /** Ends after the running transaction. Waiting messages stay unacknowledged and are delivered again. Close before the broker. */
  close(): Promise<void>;
  stats(): IngestStats;
}

export function createIngest<Row>(options: IngestOptions<Row>): Ingest {
  const { database, broker, reconciler, log } = options;
  const senders = createSenders(database);
  const quarantine = createQuarantine(database);
  const ledgers = createLedgerIntake({ database, broker, senders, quarantine, reconciler, onAhead: beginNewLife, log });
  const telemetry = createTelemetry({ database, senders, quarantine, log, onOnline: (tenantId, gate) => void acknowledgeAnew(tenantId, gate) });
  const cloudRows = createCloudRows({ database, broker, reconciler, log });
  const counts = { lookups: 0, lookups_refused: 0, times: 0, times_refused: 0, foreign: 0 };
  let lookups = 0;

  /** A broker that lost its retained messages gives a gate no ack, so every gate gets one when it connects. */
  async function acknowledgeAnew(tenantId: string, gate: string): Promise<void> {
    try {
      const ack = (await database.withTenant(tenantId, (client) => reconciler.acksFor(client, [gate]))).get(gate);
      if (ack !== undefined && ack.epochs.length > 0) await broker.publish(topicOf({ kind: 'ack', gate }), JSON.stringify(ack), DELIVERY.ack);
    } catch (error) {
      log.warn({ gate, error: (error as Error).message }, 'publishing an acknowledgement again failed');
    }
  }

  let renewing = false;
  /** A gate holds rows that this database wrote and does not hold any more. */
  function beginNewLife(gate: string): void {
    if (renewing) return;
    renewing = true;
    presentLife(database)
      .then((present) => renewLife(database, present, `${gate} holds later rows of a ledger that the cloud writes`))
      .then((life) => {
        log.error({ gate, life, alert: 'ledger' }, 'the database went back in time: it begins a new life, and gates send what it lacks');
        acknowledgeAll();
      })
      .catch((error: Error) => log.warn({ error: error.message }, 'beginning a new life of the database failed; retrying with the next question of a gate'))
      .finally(() => {
        renewing = false;
      });
  }

  function acknowledgeAll(): void {
    if (!broker.connected()) return;
    publishAllAcks({ database, broker, acksFor: reconciler.acksFor }).catch((error: Error) =>
      log.warn({ error: error.message }, 'publishing every acknowledgement failed; each gate gets its own with its next message'),
    );
  }

  function answerTime(gate: string, message: IncomingMessage): void {
    const received = performance.timeOrigin + performance.now();
    const question = parsePayload(TimeQuestion, message.payload);
    if (!question.ok) {
      counts.times_refused += 1;
      return;
    }
    counts.times += 1;
    const { n, boot_id, sent_boottime_ms } = question.value;
    const { qos, retain, expiry_s } = DELIVERY.time_answer;
    broker
      .publish(
        topicOf({ kind: 'time_answer', gate, n }),
        JSON.stringify({
          schema: SCHEMA_VERSION,
          n,
          boot_id,
          sent_boottime_ms,
          received_unix_ms: received,
          answered_unix_ms: performance.timeOrigin + performance.now(),
        }),
        { qos, retain, expirySeconds: expiry_s as number },
      )
      // A gate without an answer asks again.
      .catch(() => {});
  }

  async function answerLookup(gate: string, message: IncomingMessage): Promise<void> {
    const question = parsePayload(LookupQuestion, message.payload);
    if (!question.ok || options.lookup === undefined || lookups >= MAX_LOOKUPS) {
      counts.lookups_refused += 1;
      return;
    }
    lookups += 1;
    try {
      const sender = await senders.resolve(gate);
      if (sender.kind !== 'device') {
        counts.lookups_refused += 1;
        return;
      }
      const tickets = await options.lookup(sender.tenantId, gate, question.value);
      const payload = JSON.stringify({ schema: SCHEMA_VERSION, n: question.value.n, tickets } satisfies LookupAnswer);
      if (Buffer.byteLength(payload) > MAX_PAYLOAD_BYTES) throw new Error('the answer is larger than a message may be');
      const { qos, retain, expiry_s } = DELIVERY.lookup_answer;
      await broker.publish(topicOf({ kind: 'lookup_answer', gate, n: question.value.n }), payload, { qos, retain, expirySeconds: expiry_s as number });
      counts.lookups += 1;
    } catch (error) {
      counts.lookups_refused += 1;
      log.warn({ gate, error: (error as Error).message }, 'lookup failed');
    } finally {
      lookups -= 1;
    }
  }

  return {
    receive(message) {
      const topic = parseTopic(message.topic);
      if (topic?.kind === 'ledger') {
        // The cloud's own rows come back by the subscription.
        if (isCloudLedger(topic.gate)) return message.acknowledge();
        return ledgers.take(topic.gate, message);
      }
      switch (topic?.kind) {
        case 'lookup':
          return void answerLookup(topic.gate, message).finally(() => message.acknowledge());
        case 'alert':
          return telemetry.take(topic, message);
        case 'state':
        case 'info':
        case 'health':
          return telemetry.take({ kind: topic.kind, gate: topic.gate }, message);
      }
      message.acknowledge();
      switch (topic?.kind) {
        case 'time':
          return answerTime(topic.gate, message);
        case 'response':
          return options.onResponse?.(message.topic, message.payload);
        default:
          counts.foreign += 1;
      }
    },
    checkLife: (retained) => checkLife({ database, senders, acksFor: reconciler.acksFor, retained, log }),
    open() {
      cloudRows.open();
      acknowledgeAll();
    },
    async idle() {
      await ledgers.idle();
      await telemetry.flush();
    },
    async close() {
      await cloudRows.close();
      await ledgers.close();
      await telemetry.close();
    },
    stats: () => ({ ledgers: ledgers.stats(), telemetry: telemetry.stats(), ...counts }),
  };
}
