/** Reads the acknowledgements that the broker retains: what a cloud has said before, perhaps out of a database that is newer than the present one. */
import { randomUUID } from 'node:crypto';
import { AckMessage } from '../../contract/ledger.ts';
import { parsePayload } from '../../contract/parse.ts';
import { parseTopic, TOPIC_ROOT, topicOf } from '../../contract/topics.ts';
import { type BrokerOptions, createBroker } from './client.ts';

/** Longest wait, in milliseconds, for the broker's retained messages; what has arrived by then is used. */
const READ_TIMEOUT_MS = 10_000;

/** The gates' retained acknowledgements by gate; null: the broker did not answer. Unreadable ones are left out. */
export async function readRetainedAcks(settings: BrokerOptions['settings'], timeoutMs = READ_TIMEOUT_MS): Promise<Map<string, AckMessage> | null> {
  const acks = new Map<string, AckMessage>();
  // The broker gives what it retains before what is published after the subscription.
  const fence = topicOf({ kind: 'ack', gate: `_cloud/${randomUUID()}` });
  let fenced: (() => void) | undefined;
  const done = new Promise<void>((resolve) => {
    fenced = resolve;
  });
  const broker = createBroker({
    settings,
    host: null,
    subscriptions: [`${TOPIC_ROOT}/+/+/ack`],
    onMessage(message) {
      message.acknowledge();
      if (message.topic === fence) return fenced?.();
      const topic = parseTopic(message.topic);
      const ack = topic?.kind === 'ack' ? parsePayload(AckMessage, message.payload) : null;
      if (topic?.kind === 'ack' && ack?.ok === true) acks.set(topic.gate, ack.value);
    },
  });
  let limit: NodeJS.Timeout | undefined;
  try {
    if (!(await broker.open(timeoutMs))) return null;
    await broker.publish(fence, '', { qos: 1, retain: false });
    await Promise.race([
      done,
      new Promise<void>((resolve) => {
        limit = setTimeout(resolve, timeoutMs);
      }),
    ]);
    return acks;
  } finally {
    clearTimeout(limit);
    await broker.close();
  }
}
