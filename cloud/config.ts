/**
 * Reads the cloud's settings from the environment into one frozen value, and reports all errors at once. Nothing else in cloud/ reads the
 * environment.
 */
import { existsSync } from 'node:fs';
import { hostname } from 'node:os';
import { placeholderIn } from '../contract/placeholder.ts';
import { PRINTED_PASSWORDS } from './db/logins.ts';
import { isNetwork, LOOPBACK } from './http/addresses.ts';
import { LOG_LEVELS, type LogLevel } from './log.ts';

export interface MqttSettings {
  readonly url: string;
  /** PEM files; all three, or only `ca`, or none. */
  readonly ca: string | null;
  readonly cert: string | null;
  readonly key: string | null;
  /** Joins a shared subscription, so that several ingesters divide the work; null: `ingest` does, `all` does not. */
  readonly shared: boolean | null;
}

export interface CloudConfig {
  /** The serving login: a member of stile_service that owns nothing. */
  readonly databaseUrl: string;
  /** The owner's login, for migrations; null: not given. Dropped after the migration (`withoutOwner`). */
  readonly migrateUrl: string | null;
  /** null: no broker is set; only commands that need none can run. */
  readonly mqtt: MqttSettings | null;
  readonly http: {
    readonly host: string;
    /** 0: any free port. */
    readonly port: number;
    /** The URL by which gates reach this service; null: from host and port. No slash at the end. */
    readonly publicUrl: string | null;
    /** Header in which a trusted proxy passes the client certificate's common name; null: not used. */
    readonly deviceNameHeader: string | null;
    /** Addresses and networks of proxies: their X-Forwarded-For and the header above are trusted, nobody else's. */
    readonly trustedProxies: readonly string[];
    /** Requests a minute of one caller, and failures of one address; beyond it 429. */
    readonly ratePerMinute: number;
  };
  /** Address of the Prometheus endpoint; null: none. Port 0: any free port. */
  readonly metrics: { readonly host: string; readonly port: number } | null;
  readonly signingKeyFile: string;
  /** Default tenant of commands. */
  readonly tenant: string;
  readonly logLevel: LogLevel;
  readonly manifestTtlHours: number;
  /** PEM files of the authority that signs gates' certificates; null: no enrolment over HTTP. */
  readonly ca: { readonly cert: string; readonly key: string } | null;
  /** The broker's address as gates call it; null: not known, and enrolment does not say it. */
  readonly gateBrokerUrl: string | null;
  /** Changes when who may speak at the broker does; systemd watches it. Its folder is missing: nobody does. */
  readonly brokerRightsFile: string;
  /** Names this machine in `_cloud/<host>/state`. */
  readonly host: string;
}

/** Purpose, default and form of each setting: shown by `stile-cloud --help` and in errors. */
export const SETTINGS: readonly { readonly name: string; readonly what: string; readonly fallback: string }[] = [
  { name: 'DATABASE_URL', what: 'PostgreSQL with the login that serves, such as postgres://stile:secret@db.example/stile', fallback: 'required' },
  {
    name: 'STILE_MIGRATE_URL',
    what: 'the same database with its owner, such as postgres://stile_owner:secret@db.example/stile: migrate, and serve, ingest and all before they start',
    fallback: 'migrate: DATABASE_URL; others do not migrate',
  },
  {
    name: 'STILE_MQTT_URL',
    what: 'broker, such as mqtts://broker.example:8883 or mqtt://127.0.0.1:1883',
    fallback: 'required by serve, ingest, all and request',
  },
  { name: 'STILE_MQTT_CA', what: "PEM file of the authority that the broker's certificate is checked by", fallback: "the system's" },
  { name: 'STILE_MQTT_CERT', what: "PEM file of this service's own certificate (with STILE_MQTT_KEY)", fallback: 'none' },
  { name: 'STILE_MQTT_KEY', what: 'PEM file of its key', fallback: 'none' },
  {
    name: 'STILE_MQTT_SHARED',
    what: 'yes: several ingesters divide the work by a shared subscription (not every broker can)',
    fallback: 'yes for ingest, no for all',
  },
  { name: 'STILE_HTTP_HOST', what: 'address to listen on', fallback: '127.0.0.1' },
  { name: 'STILE_HTTP_PORT', what: 'port to listen on, 0 for any free one', fallback: '8080' },
  { name: 'STILE_PUBLIC_URL', what: 'how gates reach this service, such as https://cloud.example', fallback: 'http://<host>:<port>' },
  {
    name: 'STILE_TRUSTED_PROXIES',
    what: 'addresses or networks of proxies in front, with commas between, or none: who calls is read from their X-Forwarded-For',
    fallback: 'this machine (127.0.0.0/8, ::1)',
  },
  { name: 'STILE_DEVICE_NAME_HEADER', what: "header in which a trusted proxy hands on the client certificate's common name", fallback: 'not used' },
  { name: 'STILE_HTTP_RATE', what: 'requests a minute of one caller, and failures of one address', fallback: '1200' },
  { name: 'STILE_METRICS_PORT', what: "port for Prometheus' numbers, /metrics, 0 for any free one", fallback: 'not served' },
  { name: 'STILE_METRICS_HOST', what: 'address for it', fallback: '127.0.0.1' },
  {
    name: 'STILE_SIGNING_KEY_FILE',
    what: 'Ed25519 key (PKCS8 PEM) that signs manifests; made on first start',
    fallback: '/var/lib/stile-cloud/signing-key.pem',
  },
  { name: 'STILE_TENANT', what: 'tenant that commands act for', fallback: 'default' },
  { name: 'STILE_MANIFEST_TTL_HOURS', what: 'how long a manifest holds without news', fallback: '24' },
  { name: 'STILE_CA_CERT', what: "PEM file of the authority that signs gates' certificates (with STILE_CA_KEY)", fallback: 'no enrolment' },
  { name: 'STILE_CA_KEY', what: 'PEM file of its key', fallback: 'no enrolment' },
  { name: 'STILE_HOST', what: 'name of this machine in _cloud/<host>/state', fallback: 'the host name' },
  {
    name: 'STILE_GATE_BROKER_URL',
    what: 'the broker as gates call it; enrolment tells them, such as mqtts://venue.example:8883',
    fallback: 'the host of STILE_PUBLIC_URL, port 8883',
  },
  {
    name: 'STILE_BROKER_RIGHTS_FILE',
    what: 'changes when who may speak at the broker does; stile-broker.path watches it',
    fallback: '/run/stile-cloud/broker-rights, where that folder is',
  },
  { name: 'STILE_LOG_LEVEL', what: LOG_LEVELS.join(', '), fallback: 'info' },
];

export interface ConfigNeeds {
  readonly mqtt: boolean;
  /** Only the owner's login is needed: DATABASE_URL may be missing beside STILE_MIGRATE_URL. */
  readonly migrate?: boolean;
}

export type ConfigResult = { readonly ok: true; readonly config: CloudConfig } | { readonly ok: false; readonly errors: readonly string[] };

const TENANT = /^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$/;
const HEADER = /^[a-z0-9-]{1,64}$/;

/** Reads the environment. Never throws; names every error with its hint. Files are only looked for, not read. */
export function readConfig(env: Readonly<Record<string, string | undefined>>, needs: ConfigNeeds): ConfigResult {
  const errors: string[] = [];
  const text = (name: string): string | null => {
    const value = env[name]?.trim();
    return value === undefined || value === '' ? null : value;
  };
  const file = (name: string): string | null => {
    const path = text(name);
    if (path !== null && !existsSync(path)) errors.push(`${name}: there is no file ${path}; give the path of a PEM file`);
    return path;
  };
  const number = (name: string, fallback: number, min: number, max: number): number => {
    const raw = text(name);
    if (raw === null) return fallback;
    const value = Number(raw);
    if (Number.isInteger(value) && value >= min && value <= max) return value;
    errors.push(`${name}: ${JSON.stringify(raw)} is not a whole number from ${min} to ${max}`);
    return fallback;
  };
  const url = (name: string, schemes: readonly string[], hint: string): string | null => {
    const raw = text(name);
    if (raw === null) return null;
    if (URL.canParse(raw) && schemes.includes(new URL(raw).protocol)) return raw;
    errors.push(`${name}: not a URL that begins with ${schemes.map((scheme) => `${scheme}//`).join(' or ')}; ${hint}`);
    return null;
  };

  const migrateUrl = url('STILE_MIGRATE_URL', ['postgres:', 'postgresql:'], 'such as postgres://stile_owner@127.0.0.1:5432/stile');
  const servingUrl = url('DATABASE_URL', ['postgres:', 'postgresql:'], 'such as postgres://stile@127.0.0.1:5432/stile');
  const databaseUrl = servingUrl ?? (needs.migrate === true ? migrateUrl : null);
  if (databaseUrl === null && text('DATABASE_URL') === null)
    errors.push('DATABASE_URL: missing; say which PostgreSQL to use, such as postgres://stile@127.0.0.1:5432/stile');
  for (const [name, value] of [
    ['DATABASE_URL', servingUrl],
    ['STILE_MIGRATE_URL', migrateUrl],
  ] as const)
    if (value !== null && (PRINTED_PASSWORDS as readonly string[]).includes(new URL(value).password))
      errors.push(`${name}: has the password that the documents print; give the role one of your own: ALTER ROLE ${new URL(value).username} PASSWORD '…'`);
  const mqttUrl = url('STILE_MQTT_URL', ['mqtt:', 'mqtts:'], 'such as mqtt://127.0.0.1:1883');
  if (needs.mqtt && text('STILE_MQTT_URL') === null) errors.push('STILE_MQTT_URL: missing; say which broker to use, such as mqtt://127.0.0.1:1883');
  const mqttFiles = { ca: file('STILE_MQTT_CA'), cert: file('STILE_MQTT_CERT'), key: file('STILE_MQTT_KEY') };
  if ((mqttFiles.cert === null) !== (mqttFiles.key === null)) errors.push('STILE_MQTT_CERT and STILE_MQTT_KEY: give both or neither');
  const sharedSetting = text('STILE_MQTT_SHARED')?.toLowerCase() ?? null;
  if (sharedSetting !== null && sharedSetting !== 'yes' && sharedSetting !== 'no') errors.push('STILE_MQTT_SHARED: write yes or no');
  const publicUrl = url('STILE_PUBLIC_URL', ['http:', 'https:'], 'such as https://cloud.example')?.replace(/\/+$/, '') ?? null;
  const gateBroker = url('STILE_GATE_BROKER_URL', ['mqtt:', 'mqtts:'], 'such as mqtts://venue.example:8883') ?? brokerBeside(publicUrl);
  const caCert = file('STILE_CA_CERT');
  const caKey = file('STILE_CA_KEY');
  if ((caCert === null) !== (caKey === null)) errors.push('STILE_CA_CERT and STILE_CA_KEY: give both or neither');
  const level = text('STILE_LOG_LEVEL') ?? 'info';
  const logLevel = LOG_LEVELS.find((known) => known === level);
  if (logLevel === undefined) errors.push(`STILE_LOG_LEVEL: ${JSON.stringify(level)} is not one of ${LOG_LEVELS.join(', ')}`);
  const tenant = text('STILE_TENANT') ?? 'default';
  if (!TENANT.test(tenant)) errors.push('STILE_TENANT: 1 to 64 letters, digits, spaces or . _ -, beginning with a letter or digit');
  const header = text('STILE_DEVICE_NAME_HEADER')?.toLowerCase() ?? null;
  if (header !== null && !HEADER.test(header)) errors.push('STILE_DEVICE_NAME_HEADER: not the name of a header, such as x-client-cn');
  const trustedProxies = proxies(text('STILE_TRUSTED_PROXIES'), errors);
  const metricsPort = text('STILE_METRICS_PORT') === null ? null : number('STILE_METRICS_PORT', 0, 0, 65_535);
  const port = number('STILE_HTTP_PORT', 8080, 0, 65_535);
  const ratePerMinute = number('STILE_HTTP_RATE', 1_200, 1, 10_000_000);
  const manifestTtlHours = number('STILE_MANIFEST_TTL_HOURS', 24, 1, 24 * 31);
  const host =
    (text('STILE_HOST') ?? hostname())
      .replace(/[^A-Za-z0-9.-]/g, '-')
      .replace(/^[.-]+/, '')
      .slice(0, 64) || 'cloud';

  for (const { name } of SETTINGS) {
    const left = placeholderIn(text(name) ?? '');
    if (left !== null) errors.push(`${name}: ${left} is the example's, not yours; write what is true of this installation`);
  }

  if (errors.length > 0 || databaseUrl === null || logLevel === undefined) return { ok: false, errors };
  return {
    ok: true,
    config: Object.freeze({
      databaseUrl,
      migrateUrl,
      mqtt: mqttUrl === null ? null : Object.freeze({ url: mqttUrl, ...mqttFiles, shared: sharedSetting === null ? null : sharedSetting === 'yes' }),
      http: Object.freeze({ host: text('STILE_HTTP_HOST') ?? '127.0.0.1', port, publicUrl, deviceNameHeader: header, trustedProxies, ratePerMinute }),
      metrics: metricsPort === null ? null : Object.freeze({ host: text('STILE_METRICS_HOST') ?? '127.0.0.1', port: metricsPort }),
      signingKeyFile: text('STILE_SIGNING_KEY_FILE') ?? '/var/lib/stile-cloud/signing-key.pem',
      tenant,
      logLevel,
      manifestTtlHours,
      ca: caCert === null || caKey === null ? null : Object.freeze({ cert: caCert, key: caKey }),
      gateBrokerUrl: gateBroker,
      brokerRightsFile: text('STILE_BROKER_RIGHTS_FILE') ?? '/run/stile-cloud/broker-rights',
      host,
    }),
  };
}

/** Returns the broker on the machine of the public address, as Stile's own installation has it; null where there is no HTTPS address. */
const brokerBeside = (publicUrl: string | null): string | null =>
  publicUrl?.startsWith('https:') === true ? `mqtts://${new URL(publicUrl).hostname}:8883` : null;

/** Returns null where nothing was set. */
function proxies(text: string | null, errors: string[]): readonly string[] {
  if (text === null) return LOOPBACK;
  if (text.toLowerCase() === 'none') return [];
  const all = text.split(/[\s,]+/).filter((part) => part !== '');
  for (const part of all)
    if (!isNetwork(part))
      errors.push(`STILE_TRUSTED_PROXIES: ${JSON.stringify(part)} is neither an address nor a network; such as 10.0.0.5, 10.0.0.0/8 or fd00::/8, or none`);
  return all;
}

/** Returns the same settings without the owner's login, for a serving process. */
export function withoutOwner(config: CloudConfig): CloudConfig {
  return Object.freeze({ ...config, migrateUrl: null });
}
