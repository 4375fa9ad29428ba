/**
 * Composes the cloud: `serve` (HTTP, and what gates receive), `ingest` (what gates publish), or both in one process. Opens part after part, and
 * releases them in reverse.
 */
import type { AddressInfo } from 'node:net';
import { TOPIC_ROOT } from '../contract/topics.ts';
import { stileVersion } from '../runtime/build-info.ts';
import { withTimeout } from '../runtime/timeout.ts';
import { createVerify } from '../signing/verify.ts';
import type { CloudConfig } from './config.ts';
import { registerConsole } from './console/routes.ts';
import { createDatabase, type Database } from './db/database.ts';
import { listenTo } from './db/listen.ts';
import { schemaHashes } from './db/migrate.ts';
import { createBrokerRightsWatch } from './devices/broker-rights-watch.ts';
import { openAuthority } from './devices/certificates.ts';
import { registerEnrolment } from './devices/enrolment.ts';
import { createIdentify } from './devices/identity.ts';
import { registerRenewal } from './devices/renewal.ts';
import { createGateRequests, type GateRequests } from './devices/requests.ts';
import { registerDeviceRoutes } from './devices/routes.ts';
import { openMetricsPort } from './http/metrics-port.ts';
import { type App, createHttp } from './http/server.ts';
import { createIngest, type Ingest } from './ingest/ingest.ts';
import { ingestGroup, ingestSubscriptions } from './ingest/shared-subscription.ts';
import type { Log } from './log.ts';
import { createOutbox, type Outbox } from './manifest/change-publisher.ts';
import { eventRights, ticketRight } from './manifest/current-rights.ts';
import { lookUp } from './manifest/lookup.ts';
import { registerManifestRoutes } from './manifest/routes.ts';
import { openRegisteredSigner, type RegisteredSigner } from './manifest/signing-key-registry.ts';
import { createMetrics, type Metrics } from './metrics.ts';
import { type CloudBroker, createBroker, type IncomingMessage } from './mqtt/client.ts';
import { readRetainedAcks } from './mqtt/retained-acks.ts';
import { acksFor, declareGone, takeHeads } from './reconcile/acks.ts';
import { markPublished, unpublishedCloudRows } from './reconcile/cloud-ledger.ts';
import { publishConflicts } from './reconcile/conflict-publisher.ts';
import { reconcile, reconcileEach } from './reconcile/reconcile.ts';
import { registerReconcileRoutes } from './reconcile/routes.ts';
import { readRow } from './reconcile/row.ts';
import { manifestUsage, ticketUsage } from './reconcile/usage.ts';
import { registerScanRoutes } from './scan/routes.ts';
import { createHousekeeping } from './tickets/housekeeping.ts';
import { registerNotificationRoutes } from './tickets/notification-routes.ts';
import { registerTicketRoutes } from './tickets/routes.ts';

/** Time, in milliseconds, that readiness waits for the database; later it is not ready. */
const READINESS_TIMEOUT_MS = 2_000;
/** Time, in milliseconds, that a start waits for the broker; then it goes on, and connects when it can. */
const BROKER_WAIT_MS = 5_000;
/** Shared capacity: HTTP answers, publishes and ingest at once. */
const MAX_CONNECTIONS = 20;

export interface CloudParts {
  readonly serve: boolean;
  readonly ingest: boolean;
}

export interface RunningCloud {
  /** Address of HTTP; null without `serve`. */
  readonly url: string | null;
  /** Address of /metrics; null where STILE_METRICS_PORT is not set. */
  readonly metricsUrl: string | null;
  /** Returns true while database and broker are reachable. */
  ready(): Promise<boolean>;
  /** Stops in reverse order; a second call returns the same promise. */
  stop(): Promise<void>;
}

/** The database is not of this version; the message names the command to run. */
export class NotMigratedError extends Error {
  override name = 'NotMigratedError';
}

/**
 * Starts the parts. Throws the cause of a failure (SigningKeyError, NotMigratedError, PostgreSQL's and the port's errors), with everything
 * released.
 */
export async function startCloud(config: CloudConfig, parts: CloudParts, log: Log): Promise<RunningCloud> {
  const releases: { readonly what: string; readonly release: () => Promise<void> }[] = [];
  const held = (what: string, release: () => Promise<void>) => {
    releases.push({ what, release });
  };
  let stopping: Promise<void> | null = null;
  const stop = () => (stopping ??= releaseAll(releases, log));
  try {
    const opened = await open(config, parts, log, held);
    const ready = async () => Object.values(await opened.readiness()).every((problem) => problem === null);
    return { url: opened.listening, metricsUrl: opened.metricsUrl, ready, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function open(config: CloudConfig, parts: CloudParts, log: Log, held: (what: string, release: () => Promise<void>) => void) {
  if (config.mqtt === null) throw new TypeError('serve and ingest need a broker: readConfig with { mqtt: true }');
  const metrics = createMetrics();
  const database = createDatabase({
    url: config.databaseUrl,
    name: 'stile-cloud',
    maxConnections: MAX_CONNECTIONS,
    onError: (error) => log.warn({ error: error.message }, 'an idle database connection failed'),
  });
  held('database', () => database.close());
  await checkMigrated(database);
  const signing = parts.serve ? await openSigning(database, config, log) : null;

  const shared = config.mqtt.shared ?? !parts.serve;
  let ingest: Ingest | null = null;
  let requests: GateRequests | null = null;
  let outbox: Outbox | null = null;
  const onMessage = (message: IncomingMessage) => {
    if (ingest !== null) return ingest.receive(message);
    message.acknowledge();
    requests?.receive(message.topic, message.payload);
  };
  const broker = createBroker({
    settings: config.mqtt,
    host: config.host,
    onMessage,
    subscriptions: parts.ingest ? ingestSubscriptions(shared ? await ingestGroup(database) : null) : [`${TOPIC_ROOT}/+/+/response/+`],
    onConnection: (connected, reason) => {
      log[connected ? 'info' : 'warn']({ reason }, connected ? 'connected to the broker' : 'not connected to the broker');
      // A broker that restarted may have lost its retained messages.
      if (connected) void outbox?.republishAll().catch((error: Error) => log.warn({ error: error.message }, 'publishing rights again failed'));
    },
  });
  held('broker', () => broker.close());
  if (parts.serve) requests = createGateRequests({ publish: (topic, payload, delivery) => broker.publish(topic, payload, delivery) });
  if (parts.ingest) {
    ingest = createIngest({
      database,
      broker,
      log,
      reconciler: { readRow, reconcile, reconcileEach, acksFor, declareGone, takeHeads, unpublishedCloudRows, markPublished, publishConflicts },
      lookup: (tenantId, gate, question) => database.withTenant(tenantId, (client) => lookUp(client, gate, question, ticketUsage)),
      onResponse: (topic, payload) => requests?.receive(topic, payload),
    });
    held('ingest', () => (ingest as Ingest).close());
  }
  addMetrics(metrics, database, broker, ingest);

  const readiness = sayingWhy(async () => ({ database: await databaseProblem(database), broker: broker.connected() ? null : 'not connected' }), log);
  const metricsPort = config.metrics === null ? null : await openMetricsPort(config.metrics, metrics);
  if (metricsPort !== null) held('metrics', () => metricsPort.close());
  let listening: string | null = null;
  if (signing !== null) {
    const app = await openHttp(config, { database, requests, signing, metrics, readiness, log });
    held('http', () => app.close());
    // The port opens before the broker connection: where the port is taken, another process runs, and its state at the broker must stay.
    await app.listen({ host: config.http.host, port: config.http.port });
    const { port } = app.server.address() as AddressInfo;
    listening = `http://${config.http.host.includes(':') ? `[${config.http.host}]` : config.http.host}:${port}`;
  }
  if (ingest !== null) {
    const retained = await readRetainedAcks(config.mqtt, BROKER_WAIT_MS);
    if (retained !== null) await ingest.checkLife(retained);
  }
  if (!(await broker.open(BROKER_WAIT_MS))) log.warn({ url: config.mqtt.url }, 'connecting to the broker failed; retrying');
  ingest?.open();
  if (signing !== null && listening !== null) {
    outbox = createOutbox({
      database,
      log,
      readUsage: manifestUsage,
      keys: signing.keys,
      signer: signing.signer,
      ttlHours: config.manifestTtlHours,
      publicUrl: config.http.publicUrl ?? listening,
      publish: (topic, payload, delivery) => broker.publish(topic, payload, delivery),
      canPublish: () => broker.connected(),
      listen: (onNotice) => listenTo(config.databaseUrl, 'stile_outbox', log, onNotice),
    });
    await outbox.open();
    held('outbox', () => (outbox as Outbox).close());
    await outbox.republishAll();
    const housekeeping = createHousekeeping({ database, log });
    housekeeping.open();
    held('housekeeping', () => housekeeping.close());
    const brokerRights = createBrokerRightsWatch({ database, log, file: config.brokerRightsFile });
    await brokerRights.open();
    held('broker rights', () => brokerRights.close());
  }
  return { listening, metricsUrl: metricsPort?.url ?? null, readiness };
}

/** Returns the same as `readiness`, and logs each change with its cause: callers from outside get no addresses. */
function sayingWhy(readiness: () => Promise<Readonly<Record<string, string | null>>>, log: Log): typeof readiness {
  let reported = '';
  return async () => {
    const parts = await readiness();
    const why = Object.entries(parts)
      .filter(([, problem]) => problem !== null)
      .map(([part, problem]) => `${part}: ${problem}`)
      .join('; ');
    if (why !== reported && why !== '') log.warn({ why }, 'not ready');
    reported = why;
    return parts;
  };
}

interface HttpParts {
  readonly database: Database;
  readonly requests: GateRequests | null;
  readonly signing: RegisteredSigner;
  readonly metrics: Metrics;
  readonly readiness: () => Promise<Readonly<Record<string, string | null>>>;
  readonly log: Log;
}

async function openHttp(config: CloudConfig, parts: HttpParts): Promise<App> {
  const { database, signing } = parts;
  const app = await createHttp({
    log: parts.log,
    metrics: parts.metrics,
    version: stileVersion().version,
    identify: createIdentify(database),
    readiness: parts.readiness,
    deviceNameHeader: config.http.deviceNameHeader,
    trustedProxies: config.http.trustedProxies,
    ratePerMinute: config.http.ratePerMinute,
  });
  registerManifestRoutes(app, { database, signer: signing.signer, keys: signing.keys, readUsage: manifestUsage, ttlHours: config.manifestTtlHours });
  registerDeviceRoutes(app, { database, requests: parts.requests });
  const authority = config.ca === null ? null : await openAuthority(config.ca);
  registerEnrolment(app, { database, authority, keys: signing.keys, broker: config.gateBrokerUrl });
  registerRenewal(app, { database, authority });
  registerTicketRoutes(app, { database });
  registerNotificationRoutes(app, { database });
  registerReconcileRoutes(app, { database });
  registerConsole(app);
  registerScanRoutes(app, { database, rights: { event: eventRights, ticket: ticketRight }, verify: createVerify() });
  return app;
}

async function openSigning(database: Database, config: CloudConfig, log: Log): Promise<RegisteredSigner> {
  const signing = await openRegisteredSigner(database, config.signingKeyFile);
  if (signing.created)
    log.warn(
      { file: config.signingKeyFile, key_id: signing.signer.keyId },
      'MADE A NEW SIGNING KEY: keep a copy in a safe place; gates trust manifests by it alone (stile-cloud keys prints its public half)',
    );
  if (signing.unknownBefore)
    log.warn(
      { file: config.signingKeyFile, key_id: signing.signer.keyId },
      'the signing key is another one than before: gates that pinned the old one alone refuse what it signs',
    );
  return signing;
}

/** Refuses a database that lacks a migration, or whose functions are not this program's. One with newer migrations is a newer program's, and is served. */
async function checkMigrated(database: Database): Promise<void> {
  const applied = await database.withoutTenant(async (client) => {
    const { rows } = await client.query<{ there: boolean }>("SELECT to_regclass('schema_objects') IS NOT NULL AS there");
    if (rows[0]?.there !== true) return new Map<string, string>();
    const objects = await client.query<{ path: string; sha256: string }>('SELECT path, sha256 FROM schema_objects');
    return new Map(objects.rows.map(({ path, sha256 }) => [path, sha256]));
  });
  const ours = schemaHashes();
  const isNewer = [...applied.keys()].some((path) => path.startsWith('migrations/') && !ours.has(path));
  const missing = [...ours].filter(([path, sha256]) => (path.startsWith('migrations/') ? !applied.has(path) : !isNewer && applied.get(path) !== sha256));
  if (missing.length > 0)
    throw new NotMigratedError(
      `the database lacks ${missing.length === 1 ? (missing[0] as readonly [string, string])[0] : `${missing.length} migrations and functions`}: run stile-cloud migrate first, with the owner's login in STILE_MIGRATE_URL, or give this service that setting (it migrates before it starts, and keeps no connection)`,
    );
}

/** Returns why the database does not answer; null where it does. */
async function databaseProblem(database: Database): Promise<string | null> {
  const problem = database
    .withoutTenant((client) => client.query('SELECT 1'))
    .then(
      () => null,
      (error: Error) => error.message || 'not reachable',
    );
  return withTimeout(problem, READINESS_TIMEOUT_MS, `no answer within ${READINESS_TIMEOUT_MS} ms`);
}

function addMetrics(metrics: Metrics, database: Database, broker: CloudBroker, ingest: Ingest | null): void {
  metrics.gauge('stile_broker_connected', '1 while the broker is connected', () => (broker.connected() ? 1 : 0));
  metrics.gauge('stile_database_connections', 'Connections to the database', () => database.stats().total);
  metrics.gauge('stile_database_waiting', 'Callers that wait for a connection', () => database.stats().waiting);
  if (ingest === null) return;
  metrics.gauge(
    'stile_ingest_refused',
    'Messages that were neither ledgers nor of use: lookups, time questions, states, what is no topic; since the start',
    () => {
      const { telemetry, lookups_refused, times_refused, foreign } = ingest.stats();
      return telemetry.refused + lookups_refused + times_refused + foreign;
    },
  );
  for (const [name, help] of [
    ['rows', 'Ledger rows stored'],
    ['duplicates', 'Ledger rows that were there already'],
    ['batches', 'Transactions'],
    ['quarantined', 'Messages put away'],
    ['waiting', 'Messages that wait'],
    ['retries', 'Transactions tried again'],
    ['forked', 'Rows that do not follow what is stored'],
  ] as const) {
    metrics.gauge(`stile_ingest_${name}`, `${help}, since the start`, () => ingest.stats().ledgers[name]);
  }
}

async function releaseAll(releases: { readonly what: string; readonly release: () => Promise<void> }[], log: Log): Promise<void> {
  for (const { what, release } of releases.splice(0).reverse()) {
    await release().catch((error: Error) => log.warn({ what, error: error.message }, 'release failed'));
  }
}
