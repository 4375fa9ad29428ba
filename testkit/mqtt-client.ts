/** A plain MQTT client for tests: plays the cloud, another gate, an imposter. Keeps every message it receives. */
import mqtt, { type IClientOptions, type IClientPublishOptions, type IPublishPacket } from 'mqtt';

export interface ReceivedMessage {
  readonly topic: string;
  readonly payload: Buffer;
  readonly packet: IPublishPacket;
}

export interface Peer {
  readonly received: ReceivedMessage[];
  /** Resolves with the reason code of the broker's answer: 0 taken, 135 not authorized (only MQTT 5 says so). */
  publish(topic: string, payload: string | Uint8Array | object, options?: IClientPublishOptions): Promise<number>;
  subscribe(filter: string, qos?: 0 | 1): Promise<void>;
  /** The first message, received already or still to come, that `wanted` accepts. */
  wait(wanted: (received: ReceivedMessage) => boolean, timeoutMs?: number): Promise<ReceivedMessage>;
  /** Ends in order; `abrupt`: drops the connection, so that a will is published. */
  end(abrupt?: boolean): Promise<void>;
}

const WAIT_MS = 60_000;

export async function connectPeer(url: string, options: IClientOptions = {}): Promise<Peer> {
  const client = await mqtt.connectAsync(url, { protocolVersion: 5, reconnectPeriod: 0, ...options }, false);
  const received: ReceivedMessage[] = [];
  const waiting = new Set<(message: ReceivedMessage) => void>();
  client.on('error', () => {});
  client.on('message', (topic, payload, packet) => {
    const message = { topic, payload, packet };
    received.push(message);
    for (const check of waiting) check(message);
  });
  return {
    received,
    publish(topic, payload, how = { qos: 1 }) {
      const bytes = typeof payload === 'string' || payload instanceof Uint8Array ? (payload as string) : JSON.stringify(payload);
      return new Promise((resolve, reject) => {
        client.publish(topic, bytes, how, (error) => {
          const code = (error as { code?: unknown } | undefined)?.code;
          if (!error) resolve(0);
          else if (typeof code === 'number') resolve(code);
          else reject(error);
        });
      });
    },
    async subscribe(filter, qos = 1) {
      await client.subscribeAsync(filter, { qos });
    },
    wait(wanted, timeoutMs = WAIT_MS) {
      const already = received.find(wanted);
      if (already !== undefined) return Promise.resolve(already);
      return new Promise((resolve, reject) => {
        const check = (message: ReceivedMessage) => {
          if (wanted(message)) done(() => resolve(message));
        };
        const timer = setTimeout(
          () =>
            done(() =>
              reject(
                new Error(
                  `waited ${timeoutMs} ms in vain; received: ${received
                    .slice(-10)
                    .map(({ topic }) => topic)
                    .join(', ')}`,
                ),
              ),
            ),
          timeoutMs,
        );
        const done = (settle: () => void) => {
          clearTimeout(timer);
          waiting.delete(check);
          settle();
        };
        waiting.add(check);
      });
    },
    async end(abrupt = false) {
      if (abrupt) client.stream.destroy();
      await client.endAsync(true);
    },
  };
}
