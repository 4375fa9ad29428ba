/** Serves `POST /enroll`: a one-use token and a signing request give a gate its certificate, its token, the authority and the keys. */
import { EnrollRequest } from '../../contract/http.ts';
import type { PublicKey } from '../../contract/manifest.ts';
import type { Database } from '../db/database.ts';
import { type App, HttpProblem } from '../http/server.ts';
import { renewToken, tokenHash } from './assignment.ts';
import { recordCertificate, revokeCertificates } from './certificate-records.ts';
import { type Authority, WeakRequestError } from './certificates.ts';

export interface EnrolmentOptions {
  readonly database: Database;
  /** null: this installation signs no certificates. */
  readonly authority: Authority | null;
  /** The keys that the gate pins. */
  readonly keys: readonly PublicKey[];
  /** The broker's address as gates call it; null: not known. */
  readonly broker: string | null;
}

const noAuthority = () => new HttpProblem(503, 'NO_AUTHORITY', 'this service signs no certificates: set STILE_CA_CERT and STILE_CA_KEY');

export function registerEnrolment(app: App, { database, authority, keys, broker }: EnrolmentOptions): void {
  const deviceOf = async (token: string) => {
    const { rows } = await database.withoutTenant((client) =>
      client.query<{ tenant_id: string; device: string }>('SELECT * FROM resolve_enrolment_token($1)', [tokenHash(token)]),
    );
    return rows[0] ?? null;
  };
  app.get(
    '/enroll/ca',
    {
      config: { who: 'open', unlimited: true },
      schema: { tags: ['gates'], summary: 'The authority that gates are enrolled by; a gate compares it with the fingerprint in its code' },
    },
    async (_request, reply) => {
      if (authority === null) throw new HttpProblem(404, 'NO_AUTHORITY', 'this service signs no certificates');
      return reply.send({ success: true, ca: authority.ca });
    },
  );
  app.post(
    '/enroll',
    {
      // The token in the body is the identity: 256 random bits, valid once.
      config: { who: 'open', opensWith: async (token) => (await deviceOf(token)) !== null },
      schema: { tags: ['gates'], summary: 'A one-use token and a signing request for a certificate, the CA, the keys and the assignment', body: EnrollRequest },
    },
    async (request, reply) => {
      if (authority === null) throw noAuthority();
      const hash = tokenHash(request.body.token);
      const found = await deviceOf(request.body.token);
      if (found === null)
        throw new HttpProblem(
          401,
          'UNAUTHENTICATED',
          'this token opens nothing: it was never given, is used, or is too old; ask for a new one (stile-cloud enroll <gate>)',
        );
      const signed = await authority.sign(request.body.csr, found.device).catch((error: unknown) => {
        throw error instanceof WeakRequestError ? new HttpProblem(400, 'BAD_REQUEST', `csr: ${error.message}`) : error;
      });
      // The token stays valid: a malformed request must not cost the technician a second trip.
      if (signed === null) throw new HttpProblem(400, 'BAD_REQUEST', 'csr: not a PKCS #10 signing request in PEM that is signed by its own key');
      const answer = await database.withTenant(found.tenant_id, async (client) => {
        // The gate first: a concurrent revocation or token waits, or is waited for.
        await client.query('SELECT 1 FROM devices WHERE name = $1 FOR UPDATE', [found.device]);
        const taken = await client.query(
          `UPDATE enrolment_tokens e SET used_at = now() WHERE token_sha256 = $1 AND used_at IS NULL
           AND NOT EXISTS (SELECT FROM devices d WHERE d.tenant_id = e.tenant_id AND d.name = e.device AND d.revoked_at >= e.created_at)`,
          [hash],
        );
        if (taken.rowCount === 0) throw new HttpProblem(401, 'UNAUTHENTICATED', 'this token has just been used or taken back');
        // Another unused token must not make a second gate of this name.
        await client.query('UPDATE enrolment_tokens SET used_at = now() WHERE device = $1 AND used_at IS NULL', [found.device]);
        const token = await renewToken(client, found.device);
        // Whoever holds an earlier certificate is no longer this gate: the broker refuses it from its next list on.
        await revokeCertificates(client, found.device, 'replaced');
        await recordCertificate(client, found.tenant_id, found.device, signed);
        const assigned = await client.query<{ event_id: string }>('SELECT event_id FROM gate_assignments WHERE gate = $1 ORDER BY event_id', [found.device]);
        return { token, event_ids: assigned.rows.map(({ event_id }) => event_id) };
      });
      return reply.header('cache-control', 'no-store').send({
        success: true,
        gate: found.device,
        certificate: signed.certificate,
        ca: authority.ca,
        not_after: signed.notAfter.toISOString(),
        token: answer.token,
        keys,
        ...(broker === null ? {} : { broker }),
        assignment: { event_ids: answer.event_ids },
      });
    },
  );
}
