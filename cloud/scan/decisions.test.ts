/**
 * The shared vectors of decisions, on the cloud's side: what can be said in rows of the database is written there, scanned, and must
 * give the verdict and the words that the gate's rules give. What only a gate can meet (its clock, its list's age, its lane) is
 * judged from its facts by the same function.
 */
import { generateKeyPairSync, randomBytes, sign } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { entryHash, firstPredecessor } from '../../contract/hash-chain.ts';
import type { PlaceFacts, Recognised, TicketFacts, Verdict } from '../../rules/facts.ts';
import { encodeSigned } from '../../rules/stile-code.ts';
import { createVerify } from '../../signing/verify.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type Venue } from '../../testkit/database.ts';
import { KEY_ENDS } from '../../testkit/key-ends.ts';
import { sha256 } from '../../testkit/sha256.ts';
import type { DatabaseClient } from '../db/database.ts';
import { addCodeKey } from '../manifest/code-keys.ts';
import { eventRights, ticketRight } from '../manifest/current-rights.ts';
import { refusals } from '../reconcile/queries.ts';
import { reconcile } from '../reconcile/reconcile.ts';
import { type LedgerRow, readRow } from '../reconcile/row.ts';
import { judge, refOf, type ScanEvent, scanFacts } from './facts.ts';
import { scanOnline } from './online.ts';

interface Vector {
  readonly about: string;
  readonly facts: Recognised;
  readonly policy: { readonly gates?: Readonly<Record<string, unknown>> };
  readonly place: PlaceFacts;
  readonly expected: Verdict;
}
type TicketVector = Vector & { readonly facts: Extract<Recognised, { kind: 'ticket' }> };

const folder = new URL('../../contract/examples/decisions/', import.meta.url);
const vectors = readdirSync(folder)
  .filter((name) => name.endsWith('.json'))
  .map((name) => [name, JSON.parse(readFileSync(new URL(name, folder), 'utf8')) as Vector] as const);

/** Tells whether only a gate can be in this case: the cloud knows everything now, and has no lane. */
const gateAlone = ({ facts, place }: Vector): boolean =>
  place.mode !== 'controlled' ||
  !place.clockTrusted ||
  !place.usageComplete ||
  facts.kind === 'no_manifest' ||
  facts.kind === 'ambiguous' ||
  (facts.kind === 'ticket' && place.nowMs > facts.event.manifestExpiresAtMs);

let fresh: FreshDatabase;
beforeAll(async () => {
  fresh = await freshDatabase();
});
afterAll(() => fresh.drop());

test('most vectors can be said in rows', () => {
  expect(vectors.filter(([, vector]) => !gateAlone(vector)).length).toBeGreaterThan(35);
});

for (const [name, vector] of vectors) {
  test(`${name}: ${vector.about}`, async () => {
    expect(judge({ facts: vector.facts, policies: vector.policy, place: vector.place })).toEqual(vector.expected);
    if (gateAlone(vector)) return;
    const venue = await makeVenue(fresh.url, { tickets: 0, gates: ['north-03', 'south-01'] });
    const verdicts = await fresh.database.withTenant(venue.tenantId, (client) => scanned(client, venue, vector));
    // Sites are unique in an installation, so each vector's has another name.
    const expected = JSON.parse(JSON.stringify(vector.expected).replaceAll('arena/', `${venue.site}/`)) as Verdict;
    expect(verdicts.verdict).toEqual(expected);
    expect(verdicts.answer).toMatchObject(
      expected.kind === 'grant'
        ? { result: 'ALLOW', type: expected.type, units: expected.units }
        : { result: 'DENY', reason: expected.reason, explanation: expected.explanation },
    );
    // What operators are told (GET /refusals) is what the guest was told.
    expect(verdicts.refusals).toEqual(
      expected.kind === 'grant' ? [] : [expect.objectContaining({ reason: expected.reason, explanation: expected.explanation })],
    );
  });
}

test.each(KEY_ENDS.filter(({ clockTrusted }) => clockTrusted))('M3: at the cloud, $about: opens $opens', async ({ endsInMs, opens }) => {
  const nowMs = Date.parse('2027-05-01T17:00:00.000Z');
  const venue = await makeVenue(fresh.url, { tickets: 0, policies: { event: { signed_unknown: 'admit' } } });
  const pair = generateKeyPairSync('ed25519');
  const spki = pair.publicKey.export({ type: 'spki', format: 'der' }).toString('base64');
  const notAfter = endsInMs === null ? null : new Date(nowMs + endsInMs);
  const about = { ticketId: 'signed-1', tier: 'standard', zone: null, validFromMs: null, validUntilMs: null };
  const { bytes, assemble } = encodeSigned({ keyId: 'k1', eventId: venue.eventId, ...about });
  const verdict = await fresh.database.withTenant(venue.tenantId, async (client) => {
    await addCodeKey(client, venue.tenantId, venue.eventId, { keyId: 'k1', use: 'code', spki, notAfter });
    const event = (await eventRights(client, venue.eventId)) as ScanEvent;
    const sources = { rights: { event: eventRights, ticket: ticketRight }, verify: createVerify() };
    const seen = { code: assemble(sign(null, bytes, pair.privateKey)) };
    return judge(await scanFacts(client, sources, event, { device: venue.gates[0] as string, seen, direction: 'in', nowMs }));
  });
  expect(verdict.kind).toBe(opens ? 'grant' : 'refusal');
});

/** The vector's world in rows, then the real way of a scan: its facts judged, and its answer. */
async function scanned(client: DatabaseClient, venue: Venue, vector: Vector) {
  const { facts, place } = vector;
  const policies = JSON.parse(JSON.stringify(vector.policy).replaceAll('"arena/', `"${venue.site}/`)) as unknown;
  const device = place.gate.replace('arena/', `${venue.site}/`);
  await client.query('UPDATE events SET policies = $1', [JSON.stringify(policies)]);
  const code = randomBytes(16).toString('hex');
  let shown = code;
  if (facts.kind === 'ticket') shown = await placeTicket(client, venue, vector as TicketVector, code);
  if (facts.kind === 'unknown' && facts.removed !== null)
    await client.query(
      "INSERT INTO ticket_tombstones (tenant_id, event_id, ticket_ref, reason, changed_version) VALUES (current_tenant_id(), $1, decode($2, 'hex'), $3, 2)",
      [venue.eventId, refOf(Buffer.from(venue.salt, 'hex'), code), facts.removed],
    );
  if (facts.kind === 'unreadable') shown = 'a\u0007b';
  const event = (await eventRights(client, venue.eventId)) as ScanEvent;
  const sources = { rights: { event: eventRights, ticket: ticketRight }, verify: createVerify() };
  const scan = { device, seen: { code: shown }, direction: place.direction };
  const verdict = judge(await scanFacts(client, sources, event, { ...scan, nowMs: place.nowMs }));
  const result = await scanOnline(client, sources, event, { ...scan, scanId: 'vector' }, { nowMs: () => place.nowMs, elapsedMs: () => 1 });
  if (!result.ok) throw new Error(result.code);
  return { verdict, answer: result.answer, refusals: await refusals(client, null, new Date(0)) };
}

const STATES: Readonly<Record<TicketFacts['status'], { readonly status: string; readonly blocked?: boolean; readonly approved?: boolean }>> = {
  valid: { status: 'sold' },
  unpaid: { status: 'reserved' },
  unapproved: { status: 'sold', approved: false },
  blocked: { status: 'sold', blocked: true },
  revoked: { status: 'revoked' },
  canceled: { status: 'cancelled' },
  expired: { status: 'expired' },
};

/** Event, ticket, and its entries as rows of ledgers. Answers what the guest shows. */
async function placeTicket(client: DatabaseClient, venue: Venue, { facts, expected }: TicketVector, code: string): Promise<string> {
  const { ticket, event, entries } = facts;
  const time = (ms: number | null) => (ms === null ? null : new Date(ms).toISOString());
  await client.query('UPDATE events SET starts_at = $1, ends_at = $2, time_zone = $3', [time(event.startsAtMs), time(event.endsAtMs), event.timeZone]);
  const ref = refOf(Buffer.from(venue.salt, 'hex'), code);
  let shown = code;
  if (ticket.source === 'signature') {
    const pair = generateKeyPairSync('ed25519');
    const spki = pair.publicKey.export({ type: 'spki', format: 'der' }).toString('base64');
    await addCodeKey(client, venue.tenantId, venue.eventId, { keyId: 'k1', use: 'code', spki, notAfter: null });
    const { ticketId, tier, zone, validFromMs, validUntilMs } = ticket;
    const { bytes, assemble } = encodeSigned({ keyId: 'k1', eventId: venue.eventId, ticketId, tier, zone, validFromMs, validUntilMs });
    shown = assemble(sign(null, bytes, pair.privateKey));
  } else {
    const state = STATES[ticket.status];
    await client.query('INSERT INTO ticket_types (tenant_id, event_id, tier) VALUES (current_tenant_id(), $1, $2) ON CONFLICT DO NOTHING', [
      venue.eventId,
      ticket.tier,
    ]);
    await client.query(
      `INSERT INTO tickets (tenant_id, event_id, ticket_id, ticket_ref, tier, zone, status, blocked, approved, max_scans, units, valid_from, valid_until, vip, note)
       VALUES (current_tenant_id(), $1, $2, decode($3, 'hex'), $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`,
      [
        venue.eventId,
        ticket.ticketId,
        ref,
        ticket.tier,
        ticket.zone,
        state.status,
        state.blocked ?? false,
        state.approved ?? true,
        ticket.maxScans,
        ticket.units,
        time(ticket.validFromMs),
        time(ticket.validUntilMs),
        ticket.vip,
        ticket.note,
      ],
    );
  }
  await reconcile(
    client,
    [...Map.groupBy(entries, ({ gate }) => gate)].flatMap(([gate, list]) =>
      ledgerOf(gate.replace('arena/', `${venue.site}/`), venue.eventId, ticket.ticketId, ref, list),
    ),
  );
  // A crowd of others, as sums.
  if (event.inside !== null) {
    expect(expected.kind).toBe('refusal');
    await client.query('INSERT INTO ledgers (tenant_id, gate, site_id) VALUES (current_tenant_id(), $1, $2) ON CONFLICT DO NOTHING', [
      `${venue.site}/crowd`,
      venue.site,
    ]);
    await client.query('INSERT INTO gate_counts (tenant_id, gate, event_id, entered) VALUES (current_tenant_id(), $1, $2, $3)', [
      `${venue.site}/crowd`,
      venue.eventId,
      event.inside,
    ]);
  }
  return shown;
}

/** A gate's rows for these entries: a grant each, and its outcome where there is one. */
function ledgerOf(gate: string, eventId: string, ticketId: string, ticketRef: string, entries: TicketVector['facts']['entries']): LedgerRow[] {
  let previous = firstPredecessor(sha256, gate, 1);
  const rows: LedgerRow[] = [];
  const add = (atMs: number, fields: Record<string, unknown>): number => {
    const seq = rows.length + 1;
    const row = { seq, ts: new Date(atMs).toISOString(), boot_id: 'b1', boottime_ms: atMs, clock_offset_ms: 0, clock_bound_ms: 0, ...fields };
    previous = entryHash(sha256, previous, row);
    rows.push(readRow(gate, 1, { ...row, hash: previous }) as LedgerRow);
    return seq;
  };
  const about = { event_id: eventId, ticket_id: ticketId, ticket_ref: ticketRef };
  for (const { atMs, direction, units, outcome } of entries) {
    const type = direction === 'out' ? 'exit' : 'first_entry';
    const seq = add(atMs, { kind: 'grant', ...about, direction, type, units, medium: 'opaque', manifest_version: 1, online: true, latency_us: 1, seen: {} });
    if (outcome !== 'open') add(atMs, { kind: 'passage', of: [1, seq], ...about, direction, outcome });
  }
  return rows;
}
