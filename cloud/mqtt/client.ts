/**
 * Connects the cloud to the broker: the only file of the cloud that imports mqtt.
 *
 * It uses MQTT 5, or 3.1.1 where the broker refuses 5. A QoS 1 message is acknowledged when its receiver calls `acknowledge` (after its commit):
 * mqtt.js acknowledges when `handleMessage` calls back without an error, and takes the next packet only then, which would allow one message in
 * flight. So handleMessage calls back with an error (nothing is sent, the next packet comes), and the PUBACK is sent later by hand. Two bounds
 * apply backpressure: receiveMaximum (unacknowledged messages), and the bytes held (backpressure.ts; also for QoS 0 and MQTT 3.1.1): a thousand
 * messages may be a quarter of a gigabyte.
 */
import '../../runtime/mqtt-lengths.ts';
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import mqtt, { type IClientOptions, type MqttClient } from 'mqtt';
import { MAX_PAYLOAD_BYTES, SCHEMA_VERSION } from '../../contract/limits.ts';
import { topicOf } from '../../contract/topics.ts';
import { createBackpressure } from './backpressure.ts';

/** Unacknowledged messages in flight to this process; the broker keeps further ones. */
const RECEIVE_MAXIMUM = 1_000;
/** Payloads that are held unacknowledged, in bytes; beyond it the broker keeps further ones. Some fifty full ledger messages. */
const MAX_BYTES_HELD = 3 * 1024 * 1024;
/** Longest hold, in milliseconds: own publishes (PUBLISH_TIMEOUT_MS) and keepalives wait behind it. Afterwards messages are read all the same. */
const MAX_HOLD_MS = 5_000;
/** Largest packet: the broker refuses larger ones (MQTT 5). Topic and properties come on top of the payload. */
const MAXIMUM_PACKET_BYTES = MAX_PAYLOAD_BYTES + 16 * 1024;
const KEEPALIVE_S = 30;
const CONNECT_TIMEOUT_MS = 10_000;
/** Reconnect backoff: 0.5 s, doubling, at most 15 s, each with a random half more or less. */
const BACKOFF_MIN_MS = 500;
const BACKOFF_MAX_MS = 15_000;
/** Time for the broker to accept a publish; a later one is rejected. */
const PUBLISH_TIMEOUT_MS = 10_000;
/** Packets are read for this long in one turn of the event loop; then other work runs. */
const MAX_TURN_MS = 10;
/** Publishes that wait for the broker; further ones are rejected at once. */
const MAX_PENDING_PUBLISHES = 10_000;

export interface IncomingMessage {
  readonly topic: string;
  readonly payload: Uint8Array;
  readonly qos: 0 | 1 | 2;
  readonly retain: boolean;
  /** Acknowledges: releases the held bytes, and sends the PUBACK (QoS 1, on the connection that delivered it). A second call does nothing. */
  acknowledge(): void;
}

export interface Delivery {
  readonly qos: 0 | 1;
  readonly retain: boolean;
  readonly expirySeconds?: number;
}

export interface BrokerOptions {
  /** mqtt:// or mqtts://; PEM files (or null). */
  readonly settings: { readonly url: string; readonly ca: string | null; readonly cert: string | null; readonly key: string | null };
  /** Names this machine in `_cloud/<host>/state`, retained, with a will. null: no presence. */
  readonly host: string | null;
  /** Subscribed at every connection, all with QoS 1. */
  readonly subscriptions?: readonly string[];
  /** Receives every message of a subscription. Must not throw. Must acknowledge each in the end, QoS 0 as well: its bytes are held until then. */
  readonly onMessage?: (message: IncomingMessage) => void;
  /** Runs once for each change: connected and subscribed (again); or lost, with the cause. */
  readonly onConnection?: (connected: boolean, reason: string) => void;
  /** Default: 5, and 3.1.1 once 5 was refused. */
  readonly protocol?: 4 | 5;
}

export interface CloudBroker {
  /** Connects and reconnects until closed; resolves with the first connection, or with false after `waitMs` without one. */
  open(waitMs?: number): Promise<boolean>;
  /** Resolves when the broker has the message (QoS 1), or it was written (QoS 0). Rejects without a connection: it queues nothing. */
  publish(topic: string, payload: string | Uint8Array, delivery: Delivery): Promise<void>;
  connected(): boolean;
  /** Publishes `offline`, disconnects and ends. */
  close(): Promise<void>;
}

export function createBroker(options: BrokerOptions): CloudBroker {
  const session = randomUUID();
  let client: MqttClient | null = null;
  let ready = false;
  let closed = false;
  let protocol: 4 | 5 = options.protocol ?? 5;
  let failures = 0;
  let timer: NodeJS.Timeout | undefined;
  let pending = 0;
  const waiting: (() => void)[] = [];
  let lastReason = '';
  const backpressure = createBackpressure({ maxBytes: MAX_BYTES_HELD, maxMs: MAX_HOLD_MS });

  let turnBeganMs: number | null = null;
  /** A burst of packets arrives in one read, and mqtt.js would process them all before any other work runs. */
  const turnIsOver = (): boolean => {
    const nowMs = performance.now();
    if (turnBeganMs === null) {
      turnBeganMs = nowMs;
      setImmediate(() => {
        turnBeganMs = null;
      });
    }
    return nowMs - turnBeganMs > MAX_TURN_MS;
  };

  const presence = (state: 'online' | 'offline', reason: string) =>
    JSON.stringify({ schema: SCHEMA_VERSION, state, session, since: new Date().toISOString(), reason });
  const presenceTopic = options.host === null ? null : topicOf({ kind: 'cloud_state', host: options.host });
  const report = (connected: boolean, reason: string) => {
    if (connected === ready && reason === lastReason) return;
    lastReason = reason;
    options.onConnection?.(connected, reason);
  };

  function connectOptions(): IClientOptions {
    const { ca, cert, key } = options.settings;
    return {
      clientId: `stile-cloud-${session.slice(0, 13)}`,
      clean: true,
      reconnectPeriod: 0,
      connectTimeout: CONNECT_TIMEOUT_MS,
      keepalive: KEEPALIVE_S,
      queueQoSZero: false,
      resubscribe: false,
      ...(ca === null ? {} : { ca: readFileSync(ca) }),
      ...(cert === null ? {} : { cert: readFileSync(cert) }),
      ...(key === null ? {} : { key: readFileSync(key) }),
      ...(protocol === 5
        ? { protocolVersion: 5, properties: { receiveMaximum: RECEIVE_MAXIMUM, maximumPacketSize: MAXIMUM_PACKET_BYTES, sessionExpiryInterval: 0 } }
        : { protocolVersion: 4 }),
      ...(presenceTopic === null ? {} : { will: { topic: presenceTopic, payload: Buffer.from(presence('offline', 'connection lost')), qos: 1, retain: true } }),
    };
  }

  function connect(): void {
    let attempt: MqttClient;
    try {
      attempt = mqtt.connect(options.settings.url, connectOptions());
    } catch (error) {
      return again(error as Error);
    }
    client = attempt;
    let reason = 'connection lost';
    let refused = false;
    attempt.handleMessage = (packet, done) => {
      receive(attempt, packet as unknown as IncomingPacket);
      // QoS 1 is acknowledged later, by hand: see the head of this file.
      const next = () => (packet.qos === 1 ? done(LATER) : done());
      const go = () => backpressure.gate(next);
      if (turnIsOver()) setImmediate(go);
      else go();
    };
    attempt.on(
      'connect',
      () =>
        void begin(attempt).catch((error: Error) => {
          reason = error.message;
          attempt.end(true);
        }),
    );
    attempt.on('error', (error) => {
      reason = error.message;
      const code = (error as { code?: unknown }).code;
      refused ||= code === 1 || code === 132;
    });
    attempt.on('close', () => {
      if (client !== attempt) return;
      client = null;
      const was = ready;
      ready = false;
      attempt.end(true);
      // Brokers without MQTT 5 answer with code 1 or 132, or close before CONNACK.
      if (options.protocol === undefined && !was && protocol === 5 && (refused || reason === 'connection lost')) protocol = 4;
      else if (options.protocol === undefined && !was && protocol === 4 && reason === 'connection lost') protocol = 5;
      again(new Error(reason));
    });
  }

  function again(error: Error): void {
    ready = false;
    report(false, error.message);
    if (closed) return;
    const wait = Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** failures) * (0.5 + Math.random());
    // Another protocol is tried at once.
    timer = setTimeout(connect, failures === 0 && protocol === 4 && options.protocol === undefined ? 20 : wait);
    failures = Math.min(failures + 1, 10);
  }

  async function begin(attempt: MqttClient): Promise<void> {
    if (options.subscriptions !== undefined && options.subscriptions.length > 0) {
      // One at a time, so that the error names the refused subscription (shared subscriptions where the broker has none).
      for (const subscription of options.subscriptions) {
        const granted = await attempt.subscribeAsync(subscription, { qos: 1 });
        const bad = granted.find(({ qos }) => qos >= 128);
        if (bad !== undefined) throw new Error(`the broker refused the subscription to ${subscription}`);
      }
    }
    if (presenceTopic !== null) await attempt.publishAsync(presenceTopic, presence('online', 'started'), { qos: 1, retain: true });
    if (client !== attempt || closed) return;
    failures = 0;
    ready = true;
    lastReason = '';
    options.onConnection?.(true, `MQTT ${protocol === 5 ? '5' : '3.1.1'}`);
    for (const done of waiting.splice(0)) done();
  }

  function receive(attempt: MqttClient, packet: IncomingPacket): void {
    let open = true;
    const topic = packet.topic.toString();
    const payload = typeof packet.payload === 'string' ? Buffer.from(packet.payload) : packet.payload;
    const give = backpressure.acquire(payload.byteLength);
    options.onMessage?.({
      topic,
      payload,
      qos: packet.qos,
      retain: packet.retain,
      acknowledge() {
        if (!open) return;
        open = false;
        give();
        // Only on the connection that delivered it: on another one the id belongs to another message.
        if (packet.qos === 1 && client === attempt && attempt.connected)
          (attempt as unknown as Acknowledging)._sendPacket({ cmd: 'puback', messageId: packet.messageId, reasonCode: 0 });
      },
    });
  }

  return {
    async open(waitMs = CONNECT_TIMEOUT_MS) {
      if (ready) return true;
      if (client === null && timer === undefined) connect();
      let limit: NodeJS.Timeout | undefined;
      await Promise.race([
        new Promise<void>((done) => waiting.push(done)),
        new Promise<void>((done) => {
          limit = setTimeout(done, waitMs);
        }),
      ]);
      clearTimeout(limit);
      return ready;
    },
    publish(topic, payload, delivery) {
      const now = client;
      if (now === null || !ready || !now.connected) return Promise.reject(new Error('not connected to the broker'));
      if (pending >= MAX_PENDING_PUBLISHES) return Promise.reject(new Error(`${MAX_PENDING_PUBLISHES} messages wait for the broker`));
      pending += 1;
      return new Promise<void>((done, failed) => {
        let limit: NodeJS.Timeout | undefined;
        let settled = false;
        const lost = () => settle(new Error('the connection to the broker was lost'));
        function settle(error: Error | null): void {
          if (settled) return;
          settled = true;
          pending -= 1;
          clearTimeout(limit);
          now?.off('close', lost);
          if (error === null) done();
          else failed(error);
        }
        limit = setTimeout(() => settle(new Error(`the broker did not take the message within ${PUBLISH_TIMEOUT_MS} ms`)), PUBLISH_TIMEOUT_MS);
        now.setMaxListeners(0);
        now.once('close', lost);
        const properties = protocol === 5 && delivery.expirySeconds !== undefined ? { properties: { messageExpiryInterval: delivery.expirySeconds } } : {};
        now.publish(topic, payload as string | Buffer, { qos: delivery.qos, retain: delivery.retain, ...properties }, (error) => settle(error ?? null));
      });
    },
    connected: () => ready,
    async close() {
      closed = true;
      clearTimeout(timer);
      backpressure.release();
      const last = client;
      for (const done of waiting.splice(0)) done();
      if (last === null) return;
      try {
        if (ready && presenceTopic !== null) await this.publish(presenceTopic, presence('offline', 'stopped'), { qos: 1, retain: true });
      } catch {
        // The will publishes it.
      }
      ready = false;
      client = null;
      await new Promise<void>((done) => last.end(!last.connected, {}, () => done()));
    },
  };
}

/**
 * Ends the connection that a client of this name has: connects under its name, which the broker answers by dropping the other, and leaves. Rejects
 * where the broker is not reached.
 */
export async function takeOver(
  name: string,
  { url, ca, cert, key }: { readonly url: string; readonly ca: Buffer; readonly cert: string; readonly key: string },
) {
  const client = await mqtt.connectAsync(
    url,
    { protocolVersion: 5, clientId: name, clean: true, reconnectPeriod: 0, connectTimeout: CONNECT_TIMEOUT_MS, ca, cert, key },
    false,
  );
  await client.endAsync();
}

const LATER = new Error('acknowledged later');
interface IncomingPacket {
  readonly topic: string | Buffer;
  readonly payload: string | Buffer;
  readonly qos: 0 | 1 | 2;
  readonly retain: boolean;
  readonly messageId?: number;
}
/** mqtt.js has no public way to acknowledge by hand; this one is what its own handler calls. client.test.ts fails when it is removed. */
interface Acknowledging {
  _sendPacket(packet: { cmd: 'puback'; messageId: number | undefined; reasonCode: number }): void;
}
