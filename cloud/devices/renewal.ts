/** Serves `POST /enroll/renew`: a gate exchanges its certificate for a new one, by its token and its old key. */
import { createHash, verify, X509Certificate } from 'node:crypto';
import { RenewRequest } from '../../contract/http.ts';
import { RENEWABLE_AFTER_END_MS, renewalDueMs } from '../../rules/renewal.ts';
import type { Database, DatabaseClient } from '../db/database.ts';
import { type App, deviceOf, HttpProblem } from '../http/server.ts';
import { recordCertificate } from './certificate-records.ts';
import { type Authority, WeakRequestError } from './certificates.ts';

/** Renewals of one gate within a day; more are refused: an answer may get lost, and no gate needs more. */
const MAX_A_DAY = 3;

export interface RenewalOptions {
  readonly database: Database;
  /** null: this installation signs no certificates. */
  readonly authority: Authority | null;
}

export function registerRenewal(app: App, { database, authority }: RenewalOptions): void {
  app.post(
    '/enroll/renew',
    {
      config: { who: 'device' },
      schema: { tags: ['gates'], summary: "Exchanges a gate's certificate for a new one; `proof`: `csr`, signed by the old key", body: RenewRequest },
    },
    async (request, reply) => {
      if (authority === null) throw new HttpProblem(503, 'NO_AUTHORITY', 'this service signs no certificates: set STILE_CA_CERT and STILE_CA_KEY');
      const { tenantId, device } = deviceOf(request);
      const { csr, certificate, proof } = request.body;
      const old = readOld(certificate);
      if (old === null || !proves(old, csr, proof))
        throw new HttpProblem(403, 'NOT_YOUR_CERTIFICATE', "proof: it is not csr signed by the key of the certificate; renew with the gate's own files");
      const signed = await authority.sign(csr, device).catch((error: unknown) => {
        throw error instanceof WeakRequestError ? new HttpProblem(400, 'BAD_REQUEST', `csr: ${error.message}`) : error;
      });
      if (signed === null) throw new HttpProblem(400, 'BAD_REQUEST', 'csr: not a PKCS #10 signing request in PEM that is signed by its own key');
      await database.withTenant(tenantId, async (client) => {
        await refuseUntimely(client, device, old);
        await recordCertificate(client, tenantId, device, signed);
        await client.query('UPDATE devices SET let_back_until = NULL WHERE name = $1', [device]);
      });
      return reply
        .header('cache-control', 'no-store')
        .send({ success: true, gate: device, certificate: signed.certificate, ca: authority.ca, not_after: signed.notAfter.toISOString() });
    },
  );
}

function readOld(pem: string): X509Certificate | null {
  try {
    return new X509Certificate(pem);
  } catch {
    return null;
  }
}

function proves(old: X509Certificate, csr: string, proof: string): boolean {
  const key = old.publicKey;
  try {
    return verify(key.asymmetricKeyType === 'ed25519' ? null : 'sha256', Buffer.from(csr, 'utf8'), key, Buffer.from(proof, 'base64'));
  } catch {
    return false;
  }
}

interface Standing {
  readonly revoked: boolean;
  readonly not_after: Date;
  readonly let_back: boolean;
  readonly today: number;
  readonly at_event: string | null;
  readonly now: Date;
}

/** Throws the refusal. The gate's row is locked: a revocation at the same moment waits, or is waited for. */
async function refuseUntimely(client: DatabaseClient, device: string, old: X509Certificate): Promise<void> {
  await client.query('SELECT 1 FROM devices WHERE name = $1 FOR UPDATE', [device]);
  const { rows } = await client.query<Standing>(
    `SELECT c.revoked_at IS NOT NULL OR d.revoked_at IS NOT NULL AS revoked, c.not_after, coalesce(d.let_back_until > now(), false) AS let_back, now() AS now,
       (SELECT count(*)::integer FROM gate_certificates t WHERE t.device = d.name AND t.issued_at > now() - interval '1 day') AS today,
       (SELECT min(e.event_id) FROM gate_assignments a JOIN events e ON e.tenant_id = a.tenant_id AND e.event_id = a.event_id WHERE a.gate = d.name
         AND now() BETWEEN coalesce(e.starts_at, e.ends_at) - interval '6 hours' AND coalesce(e.ends_at, e.starts_at + interval '12 hours') + interval '2 hours') AS at_event
     FROM devices d JOIN gate_certificates c ON c.tenant_id = d.tenant_id AND c.device = d.name AND c.certificate_sha256 = $2 WHERE d.name = $1`,
    [device, createHash('sha256').update(old.raw).digest()],
  );
  const standing = rows[0];
  if (standing === undefined) throw new HttpProblem(403, 'NOT_YOUR_CERTIFICATE', `this installation has given ${device} no such certificate: enrol it again`);
  if (standing.revoked)
    throw new HttpProblem(403, 'REVOKED', `this certificate of ${device} is revoked: enrol the gate again (stile-cloud gate replace ${device})`);
  const nowMs = standing.now.getTime();
  const endsMs = standing.not_after.getTime();
  if (endsMs < nowMs - RENEWABLE_AFTER_END_MS)
    throw new HttpProblem(
      403,
      'ENDED_LONG_AGO',
      `the certificate of ${device} ended more than 400 days ago: enrol the gate again (stile-cloud gate replace ${device})`,
    );
  // A gate that comes back from store does not wait: it is out of service until it has a certificate.
  if (endsMs < nowMs) {
    if (!standing.let_back)
      throw new HttpProblem(403, 'LET_BACK_FIRST', `the certificate of ${device} has ended: stile-cloud gate let-back ${device}, then it renews by itself`);
  } else {
    const dueMs = renewalDueMs({ gate: device, beginsMs: Date.parse(old.validFrom), endsMs });
    if (nowMs < dueMs) throw new HttpProblem(409, 'TOO_EARLY', `the certificate of ${device} is due on ${new Date(dueMs).toISOString()}`);
    if (standing.at_event !== null)
      throw new HttpProblem(409, 'EVENT_RUNS', `${device} is in use for ${standing.at_event}: it renews from 2 h after its end on`);
  }
  if (standing.today >= MAX_A_DAY) throw new HttpProblem(409, 'TOO_EARLY', `${device} was given ${standing.today} certificates today: try again tomorrow`);
}
