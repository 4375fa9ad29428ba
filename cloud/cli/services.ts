/** `migrate`, `serve`, `ingest`, `all`, and the broker for `request`. */

import { TOPIC_ROOT } from '../../contract/topics.ts';
import { createBroker } from '../broker.ts';
import { AuthorityError } from '../devices/certificates.ts';
import { createGateRequests, type GateRequests } from '../devices/requests.ts';
import { createLog } from '../log.ts';
import { type CloudParts, NotMigratedError, startCloud } from '../main.ts';
import { SigningKeyError } from '../manifest/signing.ts';
import { MigrationError, migrate } from '../migrate.ts';
import { createServiceNotifier } from '../systemd.ts';
import { CliError, configOf, EXIT, type Session, type Terminal } from './session.ts';

/** How long `request` waits for the broker. */
const BROKER_WAIT_MS = 10_000;
/** A stop that takes longer is cut short, in milliseconds. */
const STOP_TIMEOUT_MS = 20_000;

export async function migrateCommand(terminal: Terminal): Promise<void> {
  const config = configOf(terminal, { mqtt: false });
  try {
    await migrate(config.databaseUrl, { onProgress: (line) => terminal.err(`${line}\n`) });
  } catch (error) {
    if (error instanceof MigrationError) throw new CliError(EXIT.badConfig, error.message);
    throw error;
  }
}

/** Runs until SIGINT or SIGTERM. */
export async function runCommand(terminal: Terminal, parts: CloudParts): Promise<void> {
  const config = configOf(terminal, { mqtt: true });
  const log = createLog({ level: config.logLevel, name: 'stile-cloud' });
  const stopAsked = new Promise<string>((done) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => done(signal));
  });
  const service = createServiceNotifier(terminal.env);
  const running = await startCloud(config, parts, log).catch((error: unknown) => {
    if (error instanceof SigningKeyError || error instanceof NotMigratedError || error instanceof AuthorityError)
      throw new CliError(EXIT.badConfig, error.message);
    const code = (error as { code?: unknown })?.code;
    if (code === 'EADDRINUSE' || code === 'EACCES' || code === 'EADDRNOTAVAIL')
      throw new CliError(EXIT.badConfig, `cannot listen on ${config.http.host}:${config.http.port} (${String(code)}): set STILE_HTTP_HOST and STILE_HTTP_PORT`);
    throw error;
  });
  log.info({ ...parts, url: running.url }, 'started');
  if (running.url !== null) terminal.out(`${running.url}\n`);
  service.ready(() => running.ready());
  const signal = await stopAsked;
  log.info({ signal }, 'stopping');
  service.stopping();
  const cut = setTimeout(() => {
    log.error({}, 'the stop took too long and is cut short');
    process.exit(EXIT.failed);
  }, STOP_TIMEOUT_MS);
  await running.stop();
  clearTimeout(cut);
  log.info({}, 'stopped');
}

/** A connection to the broker for one command. */
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
