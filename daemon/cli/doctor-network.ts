/** Checks broker and cloud for doctor, as the gate connects. Connects never beside a running gate: the broker would end the gate's connection. */
import { readFileSync } from 'node:fs';
import { connect as connectTls } from 'node:tls';
import { SCHEMA_VERSION } from '../../contract/limits.ts';
import { topicOf } from '../../contract/topics.ts';
import { createKeyring } from '../../signing/keyring.ts';
import type { Config } from '../config/load.ts';
import type { GateStatus } from '../control/protocol.ts';
import { createCloudClient, problemOf } from '../link/cloud-client.ts';
import { openSession, type ProtocolVersion, type SessionEnd } from '../link/mqtt-session.ts';
import { linkFault } from '../link/reconnect-policy.ts';
import { type Check, fail, ok, warn } from './check-result.ts';

/** Longest wait for broker and cloud, in ms; then the check fails. */
const NETWORK_WAIT_MS = 10_000;
/** Largest answer, in bytes, whose signature is checked; a larger one fails. */
const MAX_ANSWER_BYTES = 8 * 1024 * 1024;
const GOES_ON = 'Admissions go on, and rows wait on this gate.';
/** Hint for every fault that a wrong clock causes. */
export const SET_CLOCK = 'let a time server be reached (NTP, UDP port 123), or set the time: timedatectl set-time';
const NOT_YET_VALID = /not yet valid|NOT_YET_VALID/i;

type Mqtt = NonNullable<Config['mqtt']>;

/** Checks the broker. `occupied`: a gate runs that this user may not ask. */
export async function brokerCheck({ mqtt, gate }: Config, running: GateStatus | null, occupied: boolean): Promise<Check> {
  if (mqtt === null) return warn('broker', 'none is configured: rows stay on this gate', 'give mqtt.url');
  if (running?.uplink.online === true) return ok('broker', `online at ${mqtt.url}`);
  if (running !== null || occupied) {
    const alert = running?.alerts.find(({ id }) => id === 'uplink');
    if (alert !== undefined) return clockFault(alert.message) ?? fail('broker', alert.message, `${GOES_ON} The gate tries again by itself`);
    // The gate has raised no alert yet: try TLS without its name.
    const cause = mqtt.url.startsWith('mqtts:') ? await shakeHands(mqtt) : null;
    return cause === null
      ? warn(
          'broker',
          `the gate is not known to be online at ${mqtt.url}`,
          occupied ? 'run this with sudo, so that the gate can be asked' : "wait some seconds; then see the gate's journal",
        )
      : explained(mqtt.url, { kind: 'unreachable', cause, code: null });
  }
  let end = await tryBroker(mqtt, gate, 5);
  if (end !== null && (end.kind === 'protocol' || end.kind === 'silent')) end = await tryBroker(mqtt, gate, 4);
  return end === null ? ok('broker', `${mqtt.url} lets ${gate} in`) : explained(mqtt.url, end);
}

function explained(url: string, end: SessionEnd): Check {
  const { operation, cause, hint } = linkFault(url, end);
  return clockFault(cause) ?? fail('broker', `${operation}: ${cause}`, `${hint} ${GOES_ON}`);
}

const clockFault = (cause: string): Check | null =>
  NOT_YET_VALID.test(cause)
    ? fail('clock', `a certificate is not yet valid, by this machine's clock (${new Date().toISOString()}): ${cause}`, SET_CLOCK)
    : null;

/** Connects under the gate's own name and disconnects cleanly. Returns null when the broker accepts. */
function tryBroker(mqtt: Mqtt, gate: string, protocol: ProtocolVersion): Promise<SessionEnd | null> {
  const password = mqtt.passwordFile === null ? undefined : readFileSync(mqtt.passwordFile, 'utf8').trim();
  return new Promise((resolve) => {
    let letIn = false;
    openSession(
      { url: mqtt.url, protocol, clientId: gate, username: mqtt.username ?? gate, password, ...identityOf(mqtt), will: willOf(gate) },
      {
        connected: (session) => {
          letIn = true;
          void session.end(1_000);
        },
        message: () => undefined,
        ended: (end) => resolve(letIn ? null : end),
      },
    );
  });
}

/** Returns a will. The broker publishes it only if the connection is lost meanwhile; it is true then, since the gate does not run. */
const willOf = (gate: string) => ({
  topic: topicOf({ kind: 'state', gate }),
  payload: Buffer.from(JSON.stringify({ schema: SCHEMA_VERSION, state: 'offline', session: 'doctor', since: new Date().toISOString(), reason: 'lost' })),
});

const file = (path: string | null): Buffer | undefined => (path === null ? undefined : readFileSync(path));
const identityOf = ({ ca, cert, key }: Mqtt) => ({ ca: file(ca), cert: file(cert), key: file(key) });

/** Tries TLS alone. Returns null on success, else the cause. */
function shakeHands(mqtt: Mqtt): Promise<string | null> {
  const { hostname, port } = new URL(mqtt.url);
  return new Promise((resolve) => {
    const host = hostname.replace(/^\[|\]$/g, '');
    const socket = connectTls({ host, port: port === '' ? 8883 : Number(port), servername: /^[\d.]+$|:/.test(host) ? undefined : host, ...identityOf(mqtt) });
    const done = (cause: string | null) => {
      socket.destroy();
      resolve(cause);
    };
    socket.setTimeout(NETWORK_WAIT_MS, () => done(`no answer within ${NETWORK_WAIT_MS / 1000} s`));
    socket.once('secureConnect', () => done(null));
    socket.on('error', (error: NodeJS.ErrnoException) => done(error.message === '' ? (error.code ?? 'unknown') : error.message));
  });
}

/** Checks that the cloud answers, accepts the token, and signs with a pinned key. Stops at the first failure. */
export async function cloudChecks(config: Config, running: GateStatus | null): Promise<Check[]> {
  const { cloud, mqtt, gate, site } = config;
  if (cloud === null) return [warn('cloud', 'none is configured: no tickets can be fetched', 'give cloud.url')];
  const token = cloud.tokenFile === null ? undefined : readFileSync(cloud.tokenFile, 'utf8').trim();
  const client = createCloudClient({ url: cloud.url, token, ca: file(cloud.ca), cert: file(mqtt?.cert ?? null), key: file(mqtt?.key ?? null) });
  const get = (path: string) => client.get(path, { accept: 'application/json', signal: AbortSignal.timeout(NETWORK_WAIT_MS) });
  try {
    const health = await get('/healthz');
    health.body.destroy();
    if (health.status !== 200) return [fail('cloud', `${cloud.url} answers with ${health.status}`, "see the cloud's own log; is that address the cloud's?")];
    const known = running?.ledger;
    const after = encodeURIComponent(JSON.stringify(known === undefined ? {} : { [gate]: [known.epoch, known.last_seq] }));
    const ledger = await get(`/sites/${site}/ledger?after=${after}&device_id=${encodeURIComponent(gate)}`);
    if (ledger.status !== 200) {
      const problem = await problemOf(ledger);
      const who = token === undefined ? 'no token is configured (cloud.token_file)' : 'the token is not taken';
      return ledger.status === 401 || ledger.status === 403
        ? [fail('cloud', `${cloud.url} answers, but ${who}: ${problem.text}`, 'enrol the gate again: stile-gate enroll')]
        : [fail('cloud', `${cloud.url} answers the gate with ${problem.text}`, "see the cloud's own log")];
    }
    ledger.body.destroy();
    return [ok('cloud', `${cloud.url} answers and takes the token`), await keysCheck(config, running, get)];
  } catch (error) {
    const cause = causeOf(error);
    return [clockFault(cause) ?? fail('cloud', `${cloud.url} is not reached: ${cause}`, `${networkHint(cause)}; known tickets are admitted all the same`)];
  }
}

async function keysCheck(
  config: Config,
  running: GateStatus | null,
  get: (path: string) => ReturnType<ReturnType<typeof createCloudClient>['get']>,
): Promise<Check> {
  if (config.keys.length === 0) return fail('keys', 'none is pinned: no tickets will be taken', 'give cloud.keys; enrolment writes it (stile-gate enroll)');
  const event = running?.manifests[0];
  const pinned = `${config.keys.map(({ key_id }) => key_id).join(', ')} pinned`;
  if (event === undefined) return ok('keys', `${pinned}; compared with the cloud's while the gate runs and has an event`);
  const answer = await get(
    `/offline/manifest/${encodeURIComponent(event.event_id)}?device_id=${encodeURIComponent(config.gate)}&since=${event.overlay_version}`,
  );
  if (answer.status !== 200) {
    const problem = await problemOf(answer);
    return warn(
      'keys',
      `${pinned}; the cloud gave nothing to compare for ${event.event_id}: ${problem.text}`,
      'is this gate still assigned to the event? stile-cloud gates',
    );
  }
  const { manifest: payload } = JSON.parse(await textOf(answer.body)) as { manifest: Record<string, unknown> };
  const verdict = createKeyring(config.keys).verifyPayload(payload, [], null);
  if (verdict === 'ok') return ok('keys', `the cloud signs with ${String(payload.keyId)}, which is pinned`);
  return fail(
    'keys',
    verdict === 'unknown_key'
      ? `the cloud signs with ${String(payload.keyId)}; ${pinned}`
      : `the cloud's signature does not fit the pinned key ${String(payload.keyId)}`,
    'is cloud.url the cloud that this gate was enrolled at? If its key was changed on purpose, enrol the gate again',
  );
}

async function textOf(body: AsyncIterable<Uint8Array> & { destroy(): void }): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of body) {
    chunks.push(chunk);
    bytes += chunk.length;
    if (bytes > MAX_ANSWER_BYTES) throw new Error(`its answer is larger than ${MAX_ANSWER_BYTES} bytes`);
  }
  return Buffer.concat(chunks).toString('utf8');
}

export function causeOf(error: unknown): string {
  const { name, message, code, errors } = error as NodeJS.ErrnoException & { errors?: readonly Error[] };
  if (name === 'TimeoutError' || name === 'AbortError') return `no answer within ${NETWORK_WAIT_MS / 1000} s`;
  return message !== '' ? message : (errors?.[0]?.message ?? code ?? name);
}

/** Returns a hint for a connection that failed with this cause. */
export function networkHint(cause: string): string {
  if (/expired/i.test(cause)) return 'its certificate has expired: renew it, or check that the clock is not ahead';
  if (/self.signed|unable to (verify|get)|UNABLE_TO|SELF_SIGNED/i.test(cause))
    return "its certificate is of an authority that is not known here: give the authority's certificate (cloud.ca)";
  if (/altnames|ALTNAME/i.test(cause)) return 'the name in the address is not in its certificate: use a name that it carries';
  if (/ENOTFOUND|EAI_AGAIN/i.test(cause)) return 'the name cannot be resolved: check DNS and the spelling';
  if (/wrong version number|EPROTO/i.test(cause)) return 'it does not speak TLS on this port: check https:// and the port';
  return 'check cable, address, port and firewall';
}
