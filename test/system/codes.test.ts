/** Signed codes at a real gate: sold after its last sync and settled later; a key and a code taken back; scanners and gates on one ticket. */
import { createPrivateKey, sign } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { encodeSigned } from '../../rules/stile-code.ts';
import type { GateProcess } from '../../testkit/gate-process.ts';
import { EVENT, enter, eventually, openVenue, SITE, show, type Venue } from './environment.ts';

const PHONE = `${SITE}/phone`;
let venue: Venue;
let gate: GateProcess;

beforeAll(async () => {
  venue = await openVenue({ gates: ['north'] });
  gate = venue.gates[0] as GateProcess;
  for (const key of ['k1', 'k2']) await changed(() => venue.stack.cloud('codes', 'keys', 'add', EVENT, '--key', key, '--key-file', keyFile(key)));
});
afterAll(() => venue?.close());

const keyFile = (key: string) => join(venue.dir, `${key}.pem`);
/** Issues the code that the box office prints while it cannot reach the cloud. */
function issue(ticketId: string, keyId: string): string {
  const { bytes, assemble } = encodeSigned({ keyId, eventId: EVENT, ticketId, tier: 'standard', zone: null, validFromMs: null, validUntilMs: null });
  return assemble(sign(null, bytes, createPrivateKey(readFileSync(keyFile(keyId)))));
}
/** Does something, and waits until the gate has what the cloud then has. */
async function changed(work: () => Promise<unknown>): Promise<void> {
  await work();
  const [event] = await venue.ask<{ version: string }>('SELECT version FROM events');
  await eventually(
    'the gate to have the change',
    async () => (await gate.fresh()).manifests.some(({ overlay_version }) => overlay_version >= Number(event?.version)),
    90_000,
  );
}
const rowsOf = async (ticketId: string) => (await venue.settled()).filter(({ entry }) => entry['ticket_id'] === ticketId).map(({ entry }) => entry);

const lastRefusal = async () => (await venue.settled()).filter(({ kind }) => kind === 'refusal').at(-1)?.entry;

test('a signed ticket sold after the last sync is admitted and flagged, once, and settled when the ticket appears', async () => {
  const code = issue('sold-later', 'k1');
  expect((await enter(gate, { ticketId: 'sold-later', code })).kind).toBe('granted');
  expect((await show(gate, code)).words).toContain('already used');
  const [grant] = await rowsOf('sold-later');
  expect(grant).toMatchObject({ kind: 'grant', medium: 'signed', flags: ['signature_only'] });
  expect(await venue.ask('SELECT known, entries FROM ticket_usage WHERE ticket_id = $1', ['sold-later'])).toEqual([{ known: false, entries: 1 }]);

  const csv = join(venue.dir, 'later.csv');
  writeFileSync(csv, `ticket_id,code,tier\nsold-later,${code},standard\n`);
  await changed(() => venue.stack.cloud('import', EVENT, csv));
  expect(await venue.ask('SELECT known, entries FROM ticket_usage WHERE ticket_id = $1', ['sold-later'])).toEqual([{ known: true, entries: 1 }]);
  expect(await venue.ask('SELECT status::text, scan_count FROM tickets WHERE ticket_id = $1', ['sold-later'])).toEqual([
    { status: 'checked_in', scan_count: 1 },
  ]);
  expect(await venue.ask('SELECT verdict, gate FROM admissions WHERE ticket_id = $1', ['sold-later'])).toEqual([{ verdict: 'winner', gate: gate.gate }]);
  // The bare id is no code, now that the gate knows the ticket.
  expect((await show(gate, 'sold-later')).kind).toBe('refused');
});

test('a scanner and the gate share one account: who is in by the one is refused by the other', async () => {
  const tokenFile = join(venue.dir, 'phone.token');
  await venue.stack.cloud('gate', 'add', PHONE, '--scanner', '--token-file', tokenFile);
  await venue.stack.cloud('assign', PHONE, EVENT, '--no-wait');
  expect(JSON.parse(await venue.stack.cloud('gates', '--json'))).toHaveLength(1);
  const scan = async (code: string, scan_id: string) => {
    const response = await fetch(`${venue.stack.cloudUrl}/scan`, {
      method: 'POST',
      headers: { authorization: `Bearer ${readFileSync(tokenFile, 'utf8').trim()}`, 'content-type': 'application/json' },
      body: JSON.stringify({ device_id: PHONE, event_id: EVENT, scan_id, code }),
    });
    return (await response.json()) as Record<string, unknown>;
  };
  const [first, second] = [venue.ticket(), venue.ticket()];
  expect(await scan(first.code, 's-1')).toMatchObject({ result: 'ALLOW', type: 'first_entry' });
  await eventually('the gate to hear of it', async () => {
    const [row] = await venue.ask<{ published_seq: string; upto_seq: string }>('SELECT published_seq, upto_seq FROM ledger_epochs WHERE gate = $1', [
      `${SITE}/@phone`,
    ]);
    return row !== undefined && Number(row.published_seq) === Number(row.upto_seq);
  });
  expect((await show(gate, first.code)).words).toMatch(/already used at \d\d:\d\d/);
  await enter(gate, second);
  await venue.settled();
  expect(await scan(second.code, 's-2')).toMatchObject({ result: 'DENY', reason: 'already_redeemed', explanation: expect.stringMatching(/gate north$/) });
});

test('a code that was taken back, and every code of a lost key, are refused; the other key goes on', async () => {
  await changed(() => venue.stack.cloud('codes', 'revoke', EVENT, 'given-back', '--actor', 's-17', '--reason', 'refunded at the desk'));
  expect((await show(gate, issue('given-back', 'k1'))).kind).toBe('refused');
  expect(await lastRefusal()).toMatchObject({ reason: 'revoked' });
  await changed(() => venue.stack.cloud('codes', 'keys', 'revoke', EVENT, 'k1', '--actor', 's-17', '--reason', 'laptop stolen'));
  expect((await show(gate, issue('stolen', 'k1'))).kind).toBe('refused');
  expect(await lastRefusal()).toMatchObject({ reason: 'invalid' });
  expect((await enter(gate, { ticketId: 'honest', code: issue('honest', 'k2') })).kind).toBe('granted');
});
