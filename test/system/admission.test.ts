/** A guest at the gate: from the code on the wire to a row in Postgres; the second gate; rights that change; what the wire shows. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { GateProcess } from '../../testkit/gate-process.ts';
import { connectPeer } from '../../testkit/mqtt-client.ts';
import { EVENT, enter, eventually, logOf, newCode, openVenue, openWires, ready, show, stileGate, type Venue } from './environment.ts';

/** What the second gate is given to hear of the first: the requirement, not a measure. */
const SECOND_GATE_MS = 1_000;
const OVERLAY_MS = 1_000;

let venue: Venue;
let north: GateProcess;
let south: GateProcess;

beforeAll(async () => {
  venue = await openVenue();
  [north, south] = venue.gates as [GateProcess, GateProcess];
});
afterAll(() => venue?.close());

test('a code written to the reader opens the lane once, and its rows stand in Postgres with their whole chain', async () => {
  const ticket = venue.ticket();
  const wires = await openWires(north);
  const answer = await enter(north, ticket);
  expect(answer.words).toContain('admitted');
  expect(answer.words).toContain(ticket.ticketId);
  expect(wires.releases()).toBe(1);
  wires.close();

  const rows = (await venue.settled()).filter(({ entry }) => entry['ticket_id'] === ticket.ticketId);
  expect(rows.map(({ gate, kind }) => [gate, kind])).toEqual([
    [north.gate, 'grant'],
    [north.gate, 'passage'],
  ]);
  expect(rows[0]?.entry).toMatchObject({ event_id: EVENT, direction: 'in', type: 'first_entry', units: 1, medium: 'opaque' });
  expect(rows[1]?.entry).toMatchObject({ of: [rows[0]?.epoch, rows[0]?.seq, rows[0]?.hash], outcome: 'passed', unit: 1 });
  expect(
    await venue.ask('SELECT status::text, scan_count, first_scanned_at IS NOT NULL AS scanned FROM tickets WHERE ticket_id = $1', [ticket.ticketId]),
  ).toEqual([{ status: 'checked_in', scan_count: 1, scanned: true }]);
  expect(await venue.ask('SELECT verdict, outcome, gate FROM admissions WHERE ticket_id = $1', [ticket.ticketId])).toEqual([
    { verdict: 'winner', outcome: 'passed', gate: north.gate },
  ]);
  const verified = await stileGate(north, 'ledger', 'verify', '--json');
  expect(JSON.parse(verified.stdout)).toMatchObject({ ok: true });
});

test('the same ticket at the second gate is refused within a second, and the words name when and where', async () => {
  const ticket = venue.ticket();
  await south.until(ready, 90_000);
  const first = await show(north, ticket.code);
  await sleep(SECOND_GATE_MS / 2);
  const answer = south.line(({ kind }) => kind === 'granted' || kind === 'refused', 90_000);
  south.show(ticket.code);
  const second = await answer;
  expect(first.kind).toBe('granted');
  expect(second.kind).toBe('refused');
  expect(Date.parse(second.at) - Date.parse(first.at)).toBeLessThan(SECOND_GATE_MS);
  expect(second.words).toMatch(/already used at \d\d:\d\d, gate north/);

  const [refusal] = (await venue.settled()).filter(({ gate, entry }) => gate === south.gate && entry['ticket_id'] === ticket.ticketId);
  expect(refusal).toMatchObject({ kind: 'refusal', entry: { reason: 'already_redeemed' } });
  expect(await venue.ask('SELECT count(*)::int AS n FROM conflicts')).toEqual([{ n: 0 }]);
});

test('a ticket that is revoked or refunded in the cloud is refused at both gates within a second', async () => {
  const [revoked, refunded] = [venue.ticket(), venue.ticket()];
  const tokenFile = join(venue.dir, 'operator.token');
  await venue.stack.cloud('operator', 'add', 'box-office', '--token-file', tokenFile);
  const act = async (ticketId: string, action: string) => {
    const response = await fetch(`${venue.stack.cloudUrl}/tickets/${ticketId}/${action}`, {
      method: 'POST',
      headers: { authorization: `Bearer ${readFileSync(tokenFile, 'utf8').trim()}`, 'content-type': 'application/json' },
      body: JSON.stringify({ reason: 'asked for at the box office' }),
    });
    expect(response.status, await response.clone().text()).toBe(200);
    return ((await response.json()) as { version: number }).version;
  };
  const reached = (version: number) =>
    Promise.all(
      venue.gates.map((gate) =>
        eventually(
          `overlay ${version} at ${gate.gate}`,
          async () => (await gate.fresh()).manifests.some(({ overlay_version }) => overlay_version >= version),
          OVERLAY_MS,
        ),
      ),
    );
  await reached(await act(revoked.ticketId, 'revoke'));
  await reached(await act(refunded.ticketId, 'refund'));
  for (const gate of venue.gates) {
    for (const ticket of [revoked, refunded]) expect((await show(gate, ticket.code)).kind).toBe('refused');
  }
  const rows = await venue.settled();
  const reasons = (ticketId: string) => rows.filter(({ entry }) => entry['ticket_id'] === ticketId).map(({ entry }) => entry['reason']);
  expect(reasons(revoked.ticketId)).toEqual(['revoked', 'revoked']);
  expect(reasons(refunded.ticketId)).toEqual(['canceled', 'canceled']);
});

test('a reader that is pulled out is told of, and works again under its path when it is plugged in', async () => {
  const topic = `stile/1/${south.gate}/alert/reader-in`;
  const health = (value: number) =>
    venue.spy.wait(
      ({ topic: at, payload }) => at === `stile/1/${south.gate}/health` && (JSON.parse(payload.toString()) as { reader_ok: number }).reader_ok === value,
      40_000,
    );
  await south.until(({ readers }) => readers.every(({ ok }) => ok), 90_000);
  const path = south.reader.readerPath;
  venue.spy.received.length = 0;
  south.reader.unplug();
  await south.until(({ readers }) => readers.some(({ name, ok }) => name === 'in' && !ok), 90_000);
  const raised = await venue.spy.wait((heard) => heard.topic === topic && heard.payload.length > 0);
  expect(JSON.parse(raised.payload.toString())).toMatchObject({ severity: expect.any(String), message: expect.stringContaining('in') });
  // Its words change when the port is tried again: kept are the latest.
  await eventually('the alert to be kept', async () => {
    const kept = await retained(topic);
    return kept !== null && venue.spy.received.findLast((heard) => heard.topic === topic)?.payload.equals(kept) === true;
  });
  await health(0);
  expect((await stileGate(south, 'status')).stdout).toMatch(/reader/i);

  venue.spy.received.length = 0;
  south.reader.plug();
  expect(south.reader.readerPath).toBe(path);
  await south.until(({ readers }) => readers.every(({ ok }) => ok), 90_000);
  await venue.spy.wait((heard) => heard.topic === topic && heard.payload.length === 0);
  expect(await retained(topic)).toBeNull();
  expect((await enter(south, venue.ticket())).kind).toBe('granted');
});

test('a ledger message that names another gate than its topic is put away with its reason, and nothing of it counts', async () => {
  await venue.settled();
  const before = await venue.stored();
  const [row] = before;
  const forged = { schema: 1, gate: south.gate, epoch: 7, entries: [{ ...row?.entry, seq: 1, hash: '0'.repeat(64) }] };
  await venue.spy.publish(`stile/1/${north.gate}/ledger`, forged);
  const found = await eventually('the quarantined message', async () => {
    const rows = await venue.ask<{ topic: string; reason: string; detail: string }>("SELECT topic, reason, detail FROM quarantine WHERE reason = 'mismatch'");
    return rows.length > 0 && rows;
  });
  expect(found).toEqual([
    { topic: `stile/1/${north.gate}/ledger`, reason: 'mismatch', detail: `the topic says ${north.gate}, the message says ${south.gate}` },
  ]);
  await enter(north, venue.ticket());
  const after = await venue.settled();
  expect(after.filter(({ epoch }) => epoch === 7)).toEqual([]);
  expect(after).toHaveLength(before.length + 2);
});

test('the code of a guest is nowhere: not on the card, in no log, not in Postgres, not on the wire', async () => {
  const [admitted, unknown] = [venue.ticket(), newCode()];
  await enter(north, admitted);
  expect((await show(north, unknown)).words).toContain('not a ticket');
  await show(south, admitted.code);
  await venue.settled();
  // Text and bytes alike, as they are and as hex or base64 would hide them.
  const forms = [admitted.code, unknown].flatMap((code) => {
    const bytes = Buffer.from(code);
    return [bytes, Buffer.from(bytes.toString('hex')), Buffer.from(bytes.toString('base64').slice(0, -4)), Buffer.from(code.toLowerCase())];
  });
  const leaks = (haystack: Buffer) => forms.some((form) => haystack.includes(form));
  const searched: string[] = [];
  const look = (what: string, bytes: Buffer) => {
    searched.push(what);
    expect(leaks(bytes), what).toBe(false);
  };
  for (const entry of readdirSync(venue.dir, { recursive: true, withFileTypes: true }))
    if (entry.isFile()) look(join(entry.parentPath, entry.name), readFileSync(join(entry.parentPath, entry.name)));
  for (const { topic, payload } of venue.spy.received) look(`message ${topic}`, Buffer.concat([Buffer.from(topic), payload]));
  const tables = await venue.ask<{ name: string }>(
    "SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'public' AND c.relkind = 'r'",
  );
  for (const { name } of tables)
    for (const { row } of await venue.ask<{ row: string }>(`SELECT t::text AS row FROM ${name} AS t`)) look(`table ${name}`, Buffer.from(row));
  look('log of the broker', Buffer.from(venue.broker.log()));

  // The search itself finds what is there: the hash that stands for the code, in each kind of place.
  const [{ ref } = { ref: '' }] = await venue.ask<{ ref: string }>("SELECT encode(ticket_ref, 'hex') AS ref FROM tickets WHERE ticket_id = $1", [
    admitted.ticketId,
  ]);
  expect(ref).toHaveLength(32);
  expect(venue.spy.received.some(({ payload }) => payload.includes(ref))).toBe(true);
  const offlineLedger = readdirSync(join(venue.dir, 'arena-north', 'store'), { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  expect(offlineLedger.some((entry) => readFileSync(join(entry.parentPath, entry.name)).includes(Buffer.from(ref, 'hex')))).toBe(true);
  expect(searched).toEqual(expect.arrayContaining([north.logFile, south.logFile, venue.stack.cloudLog, 'table tickets', 'table manifests']));
  expect(logOf(north.logFile).length).toBeGreaterThan(0);
});

/** Returns the retained message of a topic; null when there is none. */
async function retained(topic: string): Promise<Buffer | null> {
  const peer = await connectPeer(venue.broker.cloudUrl);
  try {
    await peer.subscribe(topic);
    return (await peer.wait(({ packet }) => packet.retain, 500).catch(() => null))?.payload ?? null;
  } finally {
    await peer.end();
  }
}
