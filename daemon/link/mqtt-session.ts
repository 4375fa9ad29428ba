/**
 * Runs one MQTT connection, from CONNECT to its end. The only file of the daemon that imports the libraries mqtt and mqtt-packet.
 *
 * Turns off the library's reconnect, resubscribe and offline queue: every connection is a new client with a new last will, so no
 * state of an old one survives in memory. The ledger holds all rows that must not be lost.
 */
import '../../runtime/mqtt-lengths.ts';
import mqtt, { type IClientOptions, type IPublishPacket, type MqttClient } from 'mqtt';
import { writeToStream } from 'mqtt-packet';
import { MAX_PAYLOAD_BYTES } from '../../contract/limits.ts';

export type ProtocolVersion = 4 | 5;

export interface TlsIdentity {
  readonly ca?: string | Uint8Array | undefined;
  readonly cert?: string | Uint8Array | undefined;
  readonly key?: string | Uint8Array | undefined;
}

export interface SessionOptions extends TlsIdentity {
  /** `mqtts://host:port` or `mqtt://host:port`. */
  readonly url: string;
  readonly protocol: ProtocolVersion;
  readonly clientId: string;
  readonly username: string;
  readonly password?: string | undefined;
  readonly will: { readonly topic: string; readonly payload: Uint8Array };
}

/** Cause of the end of a connection, or of a failed connect. */
export interface SessionEnd {
  /**
   * unreachable: no TCP or TLS connection. silent: connected, then closed or no answer before CONNACK. protocol: the broker does not
   * support this version. refused: CONNACK with another code. lost: after CONNACK. taken_over: another client connected under the
   * gate's name. ended: by the gate.
   */
  readonly kind: 'unreachable' | 'silent' | 'protocol' | 'refused' | 'lost' | 'taken_over' | 'ended';
  readonly cause: string;
  /** MQTT reason code, if any. */
  readonly code: number | null;
}

export interface Incoming {
  readonly topic: string;
  readonly payload: Uint8Array;
  readonly retained: boolean;
  readonly correlationData: Uint8Array | null;
  readonly responseTopic: string | null;
}

export interface PublishOptions {
  readonly qos: 0 | 1;
  readonly retain: boolean;
  readonly expiryS?: number | undefined;
  readonly correlationData?: Uint8Array | null;
}
/** sent: written (QoS 0) or acknowledged by the broker (QoS 1). dropped: a bound was reached. refused: by the broker. lost: the connection ended first. */
export type Published = { readonly result: 'sent' | 'dropped' | 'lost' } | { readonly result: 'refused'; readonly code: number };

export interface SubscribeRequest {
  readonly filter: string;
  readonly qos: 0 | 1 /** MQTT 5: not our own publishes. */;
  readonly noLocal: boolean /** MQTT 5: keep the retain flag of live publishes. */;
  readonly retainAsPublished: boolean;
}

export interface Session {
  readonly protocol: ProtocolVersion;
  publish(topic: string, payload: Uint8Array | string, options: PublishOptions): Promise<Published>;
  /** Subscribes. Returns the filters that the broker refused. Rejects when the connection ends first. */
  subscribe(requests: readonly SubscribeRequest[]): Promise<readonly string[]>;
  /** Disconnects cleanly (the broker publishes no will), after at most `boundMs` for messages in flight. */
  end(boundMs: number): Promise<void>;
  /** Drops the connection at once: the broker publishes the will. */
  abort(cause: string): void;
}

export interface SessionHandlers {
  readonly connected: (session: Session) => void;
  readonly message: (message: Incoming) => void;
  /** Ends the session: called exactly once, as the last call. */
  readonly ended: (end: SessionEnd) => void;
}

/** Longest wait for CONNACK, in ms; then the connect fails and the gate retries. */
export const CONNECT_TIMEOUT_MS = 10_000;
/** Keepalive, in s; the broker publishes the will after 1.5 times this without a packet. */
export const KEEPALIVE_S = 15;
/** Most QoS 1 messages in flight, unless the broker sets a smaller bound (Mosquitto: 20); further ones wait. */
export const MAX_PUBLISHES_IN_FLIGHT = 20;
/** Most QoS 1 messages that wait; further ones are dropped. */
export const MAX_WAITING_PUBLISHES = 64;
/** Most bytes in the socket's buffer; above, QoS 0 messages are dropped. */
export const MAX_UNSENT_BYTES = 4 * 1024 * 1024;
/** Allowance for topic and properties of a packet, in bytes. */
const PACKET_OVERHEAD_BYTES = 4096;

const UNSUPPORTED_PROTOCOL = new Set([0x01, 0x84]);
const TAKEN_OVER = 0x8e;

/** Starts to connect; calls the handlers with every event. `ended` is called once. */
export function openSession(options: SessionOptions, handlers: SessionHandlers): Session {
  // The library would cache a buffer for each of 65,536 packet numbers: 20 MB, on the first connect.
  writeToStream.cacheNumbers = false;
  const client = mqtt.connect(options.url, clientOptions(options));
  let phase: 'reaching' | 'greeting' | 'up' | 'over' = 'reaching';
  let ownEnd = false;
  let failure: { cause: string; code: number | null } | null = null;
  let untaken = 0;
  let waiting: { readonly go: () => void; readonly lost: () => void }[] = [];

  const over = (end: SessionEnd) => {
    if (phase === 'over') return;
    phase = 'over';
    clearTimeout(deadline);
    client.end(true);
    for (const { lost } of waiting) lost();
    waiting = [];
    handlers.ended(end);
  };
  const ended = () => {
    const code = failure?.code ?? null;
    const cause = failure?.cause ?? 'the connection was closed';
    if (ownEnd) return over({ kind: 'ended', cause: 'ended by the gate', code });
    if (phase === 'reaching') return over({ kind: 'unreachable', cause, code });
    if (phase === 'up') return over({ kind: code === TAKEN_OVER ? 'taken_over' : 'lost', cause, code });
    if (code === null) return over({ kind: 'silent', cause, code });
    return over({ kind: UNSUPPORTED_PROTOCOL.has(code) ? 'protocol' : 'refused', cause, code });
  };
  // The library's connect timer stops at a CONNACK that it cannot parse; this one does not.
  const deadline = setTimeout(() => {
    failure ??= { cause: `no answer within ${CONNECT_TIMEOUT_MS} ms`, code: null };
    ended();
  }, CONNECT_TIMEOUT_MS);

  const reached = () => {
    if (phase === 'reaching') phase = 'greeting';
  };
  client.stream.once(options.url.startsWith('mqtts:') ? 'secureConnect' : 'connect', reached);
  client.on('error', (error) => {
    const code = 'code' in error && typeof error.code === 'number' ? error.code : null;
    failure ??= { cause: error.message || String((error as NodeJS.ErrnoException).code ?? 'unknown error'), code };
  });
  client.on('disconnect', (packet) => {
    failure = { cause: `the broker ended the connection (reason code ${packet.reasonCode ?? 0})`, code: packet.reasonCode ?? null };
  });
  client.on('close', ended);
  client.on('message', (topic, payload, packet) => {
    if (phase === 'up') handlers.message(incoming(topic, payload, packet));
  });

  const transmit = (topic: string, payload: Uint8Array | string, how: PublishOptions): Promise<Published> => {
    if (how.qos === 1) untaken += 1;
    return new Promise((resolve) => {
      client.publish(topic, payload as Buffer, { qos: how.qos, retain: how.retain, ...propertiesOf(options.protocol, how) }, (error) => {
        if (how.qos === 1) {
          untaken -= 1;
          if (phase === 'up') waiting.shift()?.go();
        }
        if (error === undefined || error === null) return resolve({ result: 'sent' });
        const code = (error as { code?: unknown }).code;
        resolve(typeof code === 'number' ? { result: 'refused', code } : { result: 'lost' });
      });
    });
  };

  const session: Session = {
    protocol: options.protocol,
    publish(topic, payload, how) {
      if (phase !== 'up' || client.disconnecting) return Promise.resolve({ result: 'lost' });
      if (how.qos === 0) return client.stream.writableLength > MAX_UNSENT_BYTES ? Promise.resolve({ result: 'dropped' }) : transmit(topic, payload, how);
      if (untaken < Math.min(MAX_PUBLISHES_IN_FLIGHT, client.serverProperties?.receiveMaximum ?? MAX_PUBLISHES_IN_FLIGHT)) return transmit(topic, payload, how);
      if (waiting.length >= MAX_WAITING_PUBLISHES) return Promise.resolve({ result: 'dropped' });
      return new Promise((resolve) => {
        waiting.push({
          go: () => {
            void transmit(topic, payload, how).then(resolve);
          },
          lost: () => resolve({ result: 'lost' }),
        });
      });
    },
    subscribe: (requests) => subscribe(client, options.protocol, requests),
    end(boundMs) {
      if (phase === 'over') return Promise.resolve();
      ownEnd = true;
      return new Promise((resolve) => {
        const done = () => {
          clearTimeout(bound);
          ended();
          resolve();
        };
        const bound = setTimeout(done, boundMs);
        client.end(false, done);
      });
    },
    abort(cause) {
      failure ??= { cause, code: null };
      client.stream.destroy();
    },
  };
  client.on('connect', () => {
    if (phase === 'over') return;
    clearTimeout(deadline);
    phase = 'up';
    handlers.connected(session);
  });
  return session;
}

function clientOptions(options: SessionOptions): IClientOptions {
  return {
    protocolId: 'MQTT',
    protocolVersion: options.protocol,
    clientId: options.clientId,
    username: options.username,
    ...(options.password === undefined ? {} : { password: options.password }),
    ...(options.ca === undefined ? {} : { ca: options.ca as Buffer }),
    ...(options.cert === undefined ? {} : { cert: options.cert as Buffer }),
    ...(options.key === undefined ? {} : { key: options.key as Buffer }),
    rejectUnauthorized: true,
    clean: true,
    keepalive: KEEPALIVE_S,
    connectTimeout: CONNECT_TIMEOUT_MS,
    reconnectPeriod: 0,
    queueQoSZero: false,
    resubscribe: false,
    will: { topic: options.will.topic, payload: Buffer.from(options.will.payload), qos: 1, retain: true },
    ...(options.protocol === 5
      ? { properties: { sessionExpiryInterval: 0, maximumPacketSize: MAX_PAYLOAD_BYTES + PACKET_OVERHEAD_BYTES, requestProblemInformation: true } }
      : {}),
  };
}

function propertiesOf(protocol: ProtocolVersion, how: PublishOptions) {
  if (protocol !== 5 || (how.expiryS === undefined && !how.correlationData)) return {};
  return {
    properties: {
      ...(how.expiryS === undefined ? {} : { messageExpiryInterval: how.expiryS }),
      ...(how.correlationData ? { correlationData: Buffer.from(how.correlationData) } : {}),
    },
  };
}

function incoming(topic: string, payload: Buffer, packet: IPublishPacket): Incoming {
  return {
    topic,
    payload,
    retained: packet.retain,
    correlationData: packet.properties?.correlationData ?? null,
    responseTopic: packet.properties?.responseTopic ?? null,
  };
}

function subscribe(client: MqttClient, protocol: ProtocolVersion, requests: readonly SubscribeRequest[]): Promise<readonly string[]> {
  const map = Object.fromEntries(
    requests.map(({ filter, qos, noLocal, retainAsPublished }) => [filter, protocol === 5 ? { qos, nl: noLocal, rap: retainAsPublished, rh: 0 } : { qos }]),
  );
  return new Promise((resolve, reject) => {
    client.subscribe(map, (error, granted, packet) => {
      const codes = packet?.granted;
      if (codes !== undefined) return resolve(requests.filter((_request, i) => Number(codes[i]) >= 0x80).map(({ filter }) => filter));
      if (error) return reject(error);
      resolve((granted ?? []).filter(({ qos }) => qos >= 0x80).map(({ topic }) => topic));
    });
  });
}
