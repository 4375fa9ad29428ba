/** Connects to the broker for one command: `request`. */
import { TOPIC_ROOT } from '../../contract/topics.ts';
import { createGateRequests, type GateRequests } from '../devices/requests.ts';
import { createBroker } from '../mqtt/client.ts';
import { CliError, EXIT, type Session } from './context.ts';

/** Longest wait for the broker, in milliseconds; then the command fails. */
const BROKER_WAIT_MS = 5_000;

/** Opens a connection to the broker for one command. */
export async function withRequests<T>(session: Session, work: (requests: GateRequests) => Promise<T>): Promise<T> {
  const { mqtt } = session.config;
  if (mqtt === null) throw new CliError(EXIT.badConfig, 'STILE_MQTT_URL: missing; say which broker to use, such as mqtt://127.0.0.1:1883');
  let requests: GateRequests | null = null;
  let reason = '';
  const broker = createBroker({
    settings: mqtt,
    host: null,
    subscriptions: [`${TOPIC_ROOT}/+/+/response/+`],
    onMessage: (message) => {
      message.acknowledge();
      requests?.receive(message.topic, message.payload);
    },
    onConnection: (_connected, why) => {
      reason = why;
    },
  });
  requests = createGateRequests({ publish: (topic, payload, delivery) => broker.publish(topic, payload, delivery) });
  try {
    if (!(await broker.open(BROKER_WAIT_MS)))
      throw new CliError(EXIT.unreachable, `the broker ${mqtt.url} can't be reached: ${reason || 'no answer'}; check STILE_MQTT_URL`);
    return await work(requests);
  } finally {
    await broker.close();
  }
}
