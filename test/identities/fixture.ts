/**
 * One cloud with everybody who may stand before it: two tenants, two sites of the first, gates and scanners, operators, and those whom nobody
 * should hear. What each may do stands in lines.ts; this file only makes them.
 */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type CloudConfig, readConfig } from '../../cloud/config.ts';
import { connectOwner, type OwnerConnection } from '../../cloud/db/database.ts';
import { ENROLMENT_TOKEN_PREFIX, newToken, OPERATOR_TOKEN_PREFIX, renewToken, revokeDevice } from '../../cloud/devices/assignment.ts';
import { reconcile } from '../../cloud/reconcile/reconcile.ts';
import { createTestCa, type TestCa } from '../../deploy/mosquitto/test-ca.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type Venue } from '../../testkit/database.ts';
import { testLedger } from '../../testkit/ledgers.ts';

/** Of our tenant at arena (EV1) and stadium (EV2); of theirs at club, with an EV1 of its own. */
export const DEVICES = {
  gate: 'arena/north',
  sibling: 'arena/south',
  unassigned: 'arena/idle',
  scanner: 'arena/scan-1',
  elsewhere: 'stadium/north',
  'scanner elsewhere': 'stadium/scan-1',
  stranger: 'club/north',
  "strangers' scanner": 'club/scan-1',
} as const;
export type Device = keyof typeof DEVICES;
export const OPERATORS = ['operator', 'service', "strangers' operator"] as const;
export type Operator = (typeof OPERATORS)[number];
/** Each of them opens nothing, anywhere. */
export const NOBODIES = [
  'nobody',
  'made-up device',
  'made-up operator',
  'revoked gate',
  'replaced token',
  'expired operator',
  'revoked operator',
  'enrolment token',
  'hash for token',
  'Basic for Bearer',
  'two tokens',
  'name in a header',
] as const;
export type Nobody = (typeof NOBODIES)[number];
export type Who = Device | Operator | Nobody;
export const EVERYBODY: readonly Who[] = [...(Object.keys(DEVICES) as Device[]), ...OPERATORS, ...NOBODIES];
export const nameOf = (who: Who): string => DEVICES[who as Device] ?? 'arena/north';

export interface Fixture {
  readonly fresh: FreshDatabase;
  readonly owner: OwnerConnection;
  readonly ours: Venue;
  readonly theirs: Venue;
  readonly ca: TestCa;
  /** What each shows, as headers. */
  readonly shows: Readonly<Record<Who, Readonly<Record<string, string>>>>;
  /** A one-use token for this gate. */
  enrolmentToken(gate: string, validHours?: number): Promise<string>;
  config(mqttUrl: string, extra?: Readonly<Record<string, string>>): CloudConfig;
  /** Everything that our tenant has, as one text a table: whoever changed something has changed this. */
  state(): Promise<Readonly<Record<string, string>>>;
  /** Ids and texts that no stranger may read. */
  readonly secrets: readonly string[];
  drop(): Promise<void>;
}

export async function openFixture(): Promise<Fixture> {
  const [fresh, ca] = await Promise.all([freshDatabase(), createTestCa()]);
  const owner = await connectOwner(fresh.url);
  const folder = mkdtempSync(join(tmpdir(), 'stile-identities-'));
  const gate = (name: string) => name.split('/')[1] as string;
  const ours = await makeVenue(fresh.url, { site: 'arena', event: 'EV1', tickets: 30, gates: ['north', 'south', 'idle', 'scan-1', 'gone'] });
  const theirs = await makeVenue(fresh.url, { site: 'club', event: 'EV1', tickets: 30, gates: ['north', 'scan-1'] });
  await fresh.database.withTenant(ours.tenantId, async (client) => {
    const { tenantId } = ours;
    await client.query("INSERT INTO sites (tenant_id, site_id, name) VALUES ($1, 'stadium', 'stadium')", [tenantId]);
    for (const name of [DEVICES.elsewhere, DEVICES['scanner elsewhere']])
      await client.query("INSERT INTO devices (tenant_id, name, site_id, gate_id, enrolled_at) VALUES ($1, $2, 'stadium', $3, now())", [
        tenantId,
        name,
        gate(name),
      ]);
    await client.query("INSERT INTO events (tenant_id, event_id, site_id, name, salt) VALUES ($1, 'EV2', 'stadium', 'EV2', $2)", [tenantId, randomBytes(32)]);
    await client.query("INSERT INTO gate_assignments (tenant_id, gate, event_id) SELECT $1, g, 'EV2' FROM unnest($2::text[]) AS g", [
      tenantId,
      [DEVICES.elsewhere, DEVICES['scanner elsewhere']],
    ]);
    await client.query('DELETE FROM gate_assignments WHERE gate = $1', [DEVICES.unassigned]);
    await client.query("UPDATE devices SET kind = 'scanner' WHERE gate_id = 'scan-1'");
    await client.query(
      "INSERT INTO device_alerts (tenant_id, device, alert_id, by_cloud, alert) SELECT $1, $2, a, true, '{}' FROM unnest(ARRAY['clone', 'ledger']) AS a",
      [tenantId, DEVICES.gate],
    );
    const ledger = testLedger(ours, 0);
    for (const ticket of ours.tickets.slice(0, 3))
      ledger.passage(ledger.grant(ticket, ledger.entries.length * 1000), ledger.entries.length * 1000 + 500, 'unknown');
    await reconcile(client, ledger.rows());
    await client.query("INSERT INTO outbox (tenant_id, kind, key, build) SELECT $1, 'event', e, true FROM unnest(ARRAY['EV1', 'EV2']) AS e", [tenantId]);
  });
  await fresh.database.withTenant(theirs.tenantId, async (client) => {
    await client.query("UPDATE devices SET kind = 'scanner' WHERE gate_id = 'scan-1'");
    await client.query("INSERT INTO outbox (tenant_id, kind, key, build) VALUES ($1, 'event', 'EV1', true)", [theirs.tenantId]);
  });

  const tenantOf = (name: string) => (name.startsWith('club/') ? theirs : ours).tenantId;
  const deviceToken = async (name: string) => (await fresh.database.withTenant(tenantOf(name), (client) => renewToken(client, name))) as string;
  const operatorToken = async (venue: Venue, name: string, actor: string | null, column = 'expires_at', at: string | null = null) => {
    const { token, sha256 } = newToken(OPERATOR_TOKEN_PREFIX);
    await fresh.database.withTenant(venue.tenantId, (client) =>
      client.query(`INSERT INTO operator_tokens (tenant_id, token_sha256, name, actor, ${column}) VALUES ($1, $2, $3, $4, $5)`, [
        venue.tenantId,
        sha256,
        name,
        actor,
        at,
      ]),
    );
    return token;
  };
  const enrolmentToken = async (name: string, validHours = 1) => {
    const { token, sha256 } = newToken(ENROLMENT_TOKEN_PREFIX);
    await fresh.database.withTenant(tenantOf(name), (client) =>
      client.query('INSERT INTO enrolment_tokens (tenant_id, token_sha256, device, expires_at) VALUES ($1, $2, $3, now() + make_interval(hours => $4))', [
        tenantOf(name),
        sha256,
        name,
        validHours,
      ]),
    );
    return token;
  };
  const bearer = (token: string) => ({ authorization: `Bearer ${token}` });
  const replaced = await deviceToken(DEVICES.gate);
  const gone = await deviceToken('arena/gone');
  await fresh.database.withTenant(ours.tenantId, (client) => revokeDevice(client, 'arena/gone'));
  const tokens = {} as Record<Device, string>;
  for (const [who, name] of Object.entries(DEVICES) as [Device, string][]) tokens[who] = await deviceToken(name);
  const operator = await operatorToken(ours, 'anna', 'anna');
  const past = new Date(Date.now() - 60_000).toISOString();
  const shows: Record<Who, Record<string, string>> = {
    ...(Object.fromEntries(Object.entries(tokens).map(([who, token]) => [who, bearer(token)])) as unknown as Record<Device, Record<string, string>>),
    operator: bearer(operator),
    service: bearer(await operatorToken(ours, 'shop', null)),
    "strangers' operator": bearer(await operatorToken(theirs, 'bert', 'bert')),
    nobody: {},
    'made-up device': bearer(newToken('stile-device-').token),
    'made-up operator': bearer(newToken(OPERATOR_TOKEN_PREFIX).token),
    'revoked gate': bearer(gone),
    'replaced token': bearer(replaced),
    'expired operator': bearer(await operatorToken(ours, 'late', 'late', 'expires_at', past)),
    'revoked operator': bearer(await operatorToken(ours, 'left', 'left', 'revoked_at', past)),
    'enrolment token': bearer(await enrolmentToken(DEVICES.gate)),
    'hash for token': bearer(
      `stile-device-${(await owner.query<{ hash: string }>("SELECT encode(token_sha256, 'hex') AS hash FROM devices WHERE name = 'arena/north'")).rows[0]?.hash}`,
    ),
    'Basic for Bearer': { authorization: `Basic ${Buffer.from(`arena/north:${tokens.gate}`).toString('base64')}` },
    'two tokens': { authorization: `Bearer ${tokens.gate} ${operator}` },
    'name in a header': {
      'x-stile-device': 'arena/north',
      'x-client-cn': 'arena/north',
      'x-ssl-client-s-dn-cn': 'arena/north',
      'x-forwarded-client-cert': 'CN=arena/north',
    },
  };

  return {
    fresh,
    owner,
    ours,
    theirs,
    ca,
    shows,
    enrolmentToken,
    config(mqttUrl, extra = {}) {
      const files = { cert: join(folder, 'ca.crt'), key: join(folder, 'ca.key') };
      writeFileSync(files.cert, ca.ca);
      writeFileSync(files.key, ca.caKey, { mode: 0o600 });
      const read = readConfig(
        {
          DATABASE_URL: fresh.servingUrl,
          STILE_MQTT_URL: mqttUrl,
          STILE_SIGNING_KEY_FILE: join(folder, 'signing.pem'),
          STILE_CA_CERT: files.cert,
          STILE_CA_KEY: files.key,
          STILE_HTTP_PORT: '0',
          STILE_HOST: 'identities',
          STILE_HTTP_RATE: '100000',
          ...extra,
        },
        { mqtt: true },
      );
      if (!read.ok) throw new Error(read.errors.join('\n'));
      return read.config;
    },
    async state() {
      const { rows } = await owner.query<{ name: string }>(
        "SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace ORDER BY 1",
      );
      const found: Record<string, string> = {};
      for (const { name } of rows) {
        const { rows: all } = await owner.query<{ text: string | null }>(
          `SELECT string_agg(t::text, E'\\n' ORDER BY t::text) AS text FROM ${name} AS t WHERE tenant_id = $1`,
          [ours.tenantId],
        );
        found[name] = all[0]?.text ?? '';
      }
      return found;
    },
    secrets: ['arena', 'stadium', 'EV2', ...ours.tickets.flatMap(({ ticketRef, code }) => [ticketRef, code])],
    async drop() {
      await owner.close();
      await fresh.drop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
