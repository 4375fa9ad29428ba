import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket, type Venue } from '../../testkit/database.ts';
import { type TestLedger, testLedger } from '../../testkit/ledgers.ts';
import { reconcile } from '../reconcile/reconcile.ts';
import { runCli } from './main.ts';

let fresh: FreshDatabase;
let venue: Venue;
const folder = mkdtempSync(join(tmpdir(), 'stile-import-'));
beforeAll(async () => {
  fresh = await freshDatabase();
  venue = await makeVenue(fresh.url, { tickets: 60, gates: ['north', 'south', 'east', 'west'] });
});
afterAll(async () => {
  await fresh.drop();
  rmSync(folder, { recursive: true, force: true });
});

async function cli(...args: readonly string[]): Promise<{ code: number; out: string; err: string }> {
  let [out, err] = ['', ''];
  const code = await runCli(args, {
    env: { DATABASE_URL: fresh.servingUrl, STILE_SIGNING_KEY_FILE: join(folder, 'key.pem'), STILE_TENANT: venue.tenantName },
    interactive: false,
    out: (text) => {
      out += text;
    },
    err: (text) => {
      err += text;
    },
  });
  return { code, out, err };
}
const ask = async <T>(sql: string, values: readonly unknown[] = []) =>
  (await fresh.database.withTenant(venue.tenantId, (client) => client.query<T>(sql, values))).rows;
/** As `stile-gate ledger export` writes it: a message of at most 100 rows a line. */
function exported(name: string, ...ledgers: readonly Pick<TestLedger, 'message' | 'entries'>[]): string {
  const path = join(folder, name);
  const lines = ledgers.flatMap((ledger) =>
    Array.from({ length: Math.ceil(ledger.entries.length / 100) }, (_, n) => JSON.stringify(ledger.message(ledger.entries.slice(n * 100, n * 100 + 100)))),
  );
  writeFileSync(path, `${lines.join('\n')}\n`);
  return path;
}
function busy(gate: number, epoch = 1, first = 0, count = 55): TestLedger {
  const ledger = testLedger(venue, gate, epoch);
  for (let n = 0; n < count; n++)
    ledger.passage(ledger.grant(venue.tickets[first + n] as TestTicket, epoch * 1_000_000 + n * 1_000), epoch * 1_000_000 + n * 1_000 + 500, 'passed');
  return ledger;
}

test("a dead gate's rows are taken in once, also when most had arrived", async () => {
  const ledger = busy(0);
  await fresh.database.withTenant(venue.tenantId, (client) => reconcile(client, ledger.rows(ledger.entries.slice(0, 70))));
  const path = exported('north.jsonl', ledger);
  const result = await cli('import', '--ledger', path, '--gate', venue.gates[0] as string);
  expect(result).toEqual({ code: 0, err: '', out: `${venue.gates[0]}: 40 rows new, 70 were there already, of 110 (epoch 1: 1 to 110)\n` });
  expect(await ask("SELECT count(*)::int AS n FROM admissions WHERE gate = $1 AND verdict = 'winner' AND outcome = 'passed'", [venue.gates[0]])).toEqual([
    { n: 55 },
  ]);
  expect(JSON.parse((await cli('import', '--ledger', path, '--json')).out)).toMatchObject({ stored: 0, duplicates: 110, forked: [], breaks: [] });
  expect(await ask('SELECT count(*)::int AS n FROM ledger_breaks')).toEqual([{ n: 0 }]);
});

test('two epochs, the first pruned at its beginning', async () => {
  const [old, now] = [busy(1, 1, 0, 5), busy(1, 2, 5, 5)];
  const kept = { ...old, entries: old.entries.slice(4) };
  expect((await cli('import', '--ledger', exported('south.jsonl', kept, now))).out).toContain('(epoch 1: 5 to 10, epoch 2: 1 to 10)');
});

test('a changed or missing row: nothing is taken in, and its place is named; accepted all the same, it is flagged', async () => {
  const ledger = busy(2, 1, 0, 10);
  const changed = ledger.entries.map((entry) => (entry.seq === 7 ? { ...entry, units: 2 } : entry));
  const path = exported('east.jsonl', { ...ledger, entries: changed });
  const refused = await cli('import', '--ledger', path);
  expect(refused).toMatchObject({ code: 1, out: '', err: expect.stringContaining('row 1/7 was changed, or the one before it') });
  expect(await ask('SELECT count(*)::int AS n FROM ledger_rows WHERE gate = $1', [venue.gates[2]])).toEqual([{ n: 0 }]);
  const gap = exported('gap.jsonl', { ...ledger, entries: ledger.entries.filter(({ seq }) => seq !== 4) });
  expect(await cli('import', '--ledger', gap)).toMatchObject({ code: 1, err: expect.stringContaining('after row 1/3 comes row 1/5') });
  expect(await cli('import', '--ledger', path, '--accept-broken')).toMatchObject({ code: 0, err: expect.stringContaining('the chain is broken at 1/7') });
  expect(await ask('SELECT seq FROM ledger_breaks WHERE gate = $1', [venue.gates[2]])).toEqual([{ seq: 7 }]);
});

test('rows that are stored with other contents count for nothing, and the command fails loudly', async () => {
  const [true_, other] = [busy(3, 1, 0, 4), busy(3, 1, 10, 4)];
  expect(await cli('import', '--ledger', exported('west.jsonl', true_))).toMatchObject({ code: 0 });
  const clone = await cli('import', '--ledger', exported('clone.jsonl', other));
  expect(clone).toMatchObject({ code: 1, err: expect.stringContaining('8 rows do not follow what is stored') });
  expect(await ask('SELECT DISTINCT ticket_id FROM admissions WHERE gate = $1 ORDER BY 1', [venue.gates[3]])).toEqual(
    ['T-1', 'T-2', 'T-3', 'T-4'].map((ticket_id) => ({ ticket_id })),
  );
});

test('only a gate of this tenant, and the one that was named; never the ledger of the cloud', async () => {
  const theirs = await makeVenue(fresh.url, { tickets: 3, gates: ['north'] });
  const foreign = testLedger(theirs, 0);
  foreign.grant(theirs.tickets[0] as TestTicket, 1_000);
  expect(await cli('import', '--ledger', exported('theirs.jsonl', foreign))).toMatchObject({
    code: 1,
    err: expect.stringContaining('this tenant has no such gate'),
  });
  const path = exported('north.jsonl', busy(0));
  expect(await cli('import', '--ledger', path, '--gate', venue.gates[1] as string)).toMatchObject({ code: 1, err: expect.stringContaining('not of') });
  expect(await cli('import', '--ledger', exported('mixed.jsonl', busy(0), busy(1)))).toMatchObject({
    code: 1,
    err: expect.stringContaining("one gate's ledger at a time"),
  });
  writeFileSync(join(folder, 'cloud.jsonl'), JSON.stringify({ schema: 1, gate: `${venue.site}/cloud`, epoch: 1, entries: busy(0).entries.slice(0, 1) }));
  expect(await cli('import', '--ledger', join(folder, 'cloud.jsonl'))).toMatchObject({ code: 1, err: expect.stringContaining('the cloud alone') });
  writeFileSync(join(folder, 'cut.jsonl'), '{"schema": 1, "gate": "a/b", "ep');
  expect(await cli('import', '--ledger', join(folder, 'cut.jsonl'))).toMatchObject({ code: 1, err: expect.stringContaining('cut.jsonl:1: not JSON') });
  expect(await cli('import', '--ledger', join(folder, 'none.jsonl'))).toMatchObject({ code: 1, err: expect.stringContaining('there is no such file') });
  expect(await cli('import', '--ledger', path, 'EV1')).toMatchObject({ code: 2 });
  expect(await cli('import', venue.eventId)).toMatchObject({ code: 2, err: expect.stringContaining('name the event and the file') });
});

test("S6: every command that prints a gate's text escapes it for the terminal", async () => {
  const ledger = testLedger(venue, 3, 9);
  const evil = 'no\x1b[2J\x1b]0;owned\x07 \u009b31m\r\narena/south  granted \u202etxet';
  ledger.add('refusal', 1_000, {
    event_id: venue.eventId,
    direction: 'in',
    medium: 'opaque',
    reason: 'invalid',
    explanation: evil,
    online: true,
    latency_us: 10,
  });
  expect(await cli('import', '--ledger', exported('evil.jsonl', ledger), '--gate', venue.gates[3] as string)).toMatchObject({ code: 0 });
  await fresh.database.withTenant(venue.tenantId, (client) =>
    client.query('INSERT INTO device_alerts (tenant_id, device, alert_id, by_cloud, alert) VALUES ($1, $2, $3, false, $4)', [
      venue.tenantId,
      venue.gates[3],
      'reader-in',
      JSON.stringify({ severity: 'warning', message: evil, since: '2026-05-01T12:00:00.000Z' }),
    ]),
  );
  for (const command of [
    ['refusals', '--since', '2026-01-01T00:00:00Z'],
    ['refusals', '--since', '2026-01-01T00:00:00Z', '--json'],
    ['gates'],
    ['gates', '--json'],
  ]) {
    const { code, out, err } = await cli(...command);
    expect([command, code]).toEqual([command, 0]);
    expect(out + err, command.join(' ')).not.toMatch(/[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]/);
    if (command[0] === 'refusals') expect(out).toContain('\\u001b[2J');
    // Nor does it write a line of another gate.
    if (command.length === 3) expect(out.split('\n').filter((line) => line.includes('granted'))).toEqual([expect.stringContaining(venue.gates[3] as string)]);
  }
});
