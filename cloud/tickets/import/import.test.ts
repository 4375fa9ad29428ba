import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FreshDatabase, freshDatabase, makeVenue, type Venue } from '../../../testkit/database.ts';
import { ticketRef } from '../codes/code-hash.ts';
import { importTickets } from './import.ts';
import { SourceError } from './import-source.ts';

let fresh: FreshDatabase;
let venue: Venue;
const folder = mkdtempSync(join(tmpdir(), 'stile-import-'));
beforeAll(async () => {
  fresh = await freshDatabase();
});
afterAll(async () => {
  rmSync(folder, { recursive: true, force: true });
  await fresh.drop();
});

const code = () => randomBytes(16).toString('base64url');
let files = 0;
function file(text: string, ending = 'csv'): string {
  const path = join(folder, `${++files}.${ending}`);
  writeFileSync(path, text);
  return path;
}
const run = (path: string, extra: object = {}) => importTickets({ database: fresh.database, tenantId: venue.tenantId, eventId: venue.eventId, path, ...extra });
const query = async <Row>(text: string, values: unknown[] = []) =>
  (await fresh.database.withTenant(venue.tenantId, (client) => client.query<Row>(text, values))).rows;
const version = async () => (await query<{ version: number }>('SELECT version FROM events'))[0]?.version as number;
const aNewVenue = async () => {
  venue = await makeVenue(fresh.url, { tickets: 0 });
};

test('good lines come in, bad ones are named by line, field and mend', async () => {
  await aNewVenue();
  const good = code();
  const path = file(
    [
      'Ticket ID;code;tier;zone;units;valid from;e-mail',
      `T-1;${good};vip;A;2;2026-07-01T20:00+02:00;guest@example.org`,
      `T-2;short;standard;;;;`,
      `T-3;${code()};standard;;many;;`,
      '"T-4;broken;',
      `;${code()};standard;;;;`,
      `T-5;${code()};standard`,
      `T-6;${good};standard;;;;`,
      `"T;7";${code()};standard;;;;`,
      `T-8;${code()};;;;;`,
    ].join('\n'),
  );
  const report = await run(path);
  // The open quote of T-4 swallows what follows up to the next quote: named once, and the rest is read.
  expect(report).toMatchObject({ created: expect.any(Number), rolledBack: false, ignored: ['e_mail'] });
  const text = report.errors.join('\n');
  expect(text).toMatch(/:3: code: has at most \d+ random bits/);
  expect(text).toMatch(/:4: units: "many" is not a whole number from 1 to 100: /);
  expect(report.refused).toBe(new Set(report.errors.map((line) => line.split(':')[1])).size);
  for (const error of report.errors) expect(error).toMatch(/^.+:\d+: [a-z_()]+: .+: .+/);
  const [first] = await query<{ ticket_ref: Buffer; tier: string; zone: string; units: number; valid_from: Date; salt: Buffer }>(
    "SELECT t.*, e.salt FROM tickets t JOIN events e USING (tenant_id, event_id) WHERE ticket_id = 'T-1'",
  );
  expect(first).toMatchObject({ tier: 'vip', zone: 'A', units: 2, valid_from: new Date('2026-07-01T18:00:00Z') });
  expect(first?.ticket_ref.equals(ticketRef(first.salt, good))).toBe(true);
});

test('every bad line of a plain file is named once, with its own number, and the others are in', async () => {
  await aNewVenue();
  const shared = code();
  const report = await run(
    file(
      [
        'ticket_id,code,max_scans',
        `T-1,${shared},`,
        `T-2,${shared},`,
        `T-3,${code()},0`,
        `T-1,${code()},`,
        '',
        `T-4,${code()}`,
        `T-5,,`,
        `T-6,${code()},5`,
      ].join('\r\n'),
    ),
  );
  expect(report.errors.map((line) => line.replace(/^.*\.csv:/, '').replace(/:[^:]*$/, ''))).toEqual([
    '3: code: is already the code of ticket "T-1"',
    '4: max_scans: "0" is not a whole number from 1 to 1000000',
    '5: ticket_id: "T-1" was given before',
    '7: (line): has 2 columns, the header 3',
    '8: code: is missing',
  ]);
  expect(report).toMatchObject({ lines: 7, created: 2, refused: 5 });
});

test('the same file again changes nothing; a changed one changes what differs', async () => {
  await aNewVenue();
  const codes = [code(), code(), code()];
  const lines = (zone: string) =>
    file(`${codes.map((each, n) => JSON.stringify({ ticket_id: `T-${n}`, code: each, zone: n === 0 ? zone : 'B', vip: n === 2 })).join('\n')}\n`, 'jsonl');
  expect(await run(lines('A'))).toMatchObject({ created: 3, updated: 0, unchanged: 0, refused: 0 });
  const before = await version();
  await fresh.database.withTenant(venue.tenantId, (client) => client.query('DELETE FROM outbox'));
  expect(await run(lines('A'))).toMatchObject({ created: 0, updated: 0, unchanged: 3 });
  expect([await version(), (await query('SELECT 1 FROM outbox')).length]).toEqual([before, 0]);
  expect(await run(lines('C'))).toMatchObject({ created: 0, updated: 1, unchanged: 2 });
  expect(await version()).toBeGreaterThan(before);
  expect(await query('SELECT ticket_id FROM tickets WHERE changed_version > $1', [before])).toEqual([{ ticket_id: 'T-0' }]);
  expect(await query('SELECT kind, key FROM outbox')).toEqual([{ kind: 'event', key: venue.eventId }]);
});

test('a new code buries the old one; a column that is not there changes nothing; what gates counted stands', async () => {
  await aNewVenue();
  const [old, renewed] = [code(), code()];
  await run(file(`ticket_id,code,status,zone\nT-1,${old},sold,A\n`));
  await fresh.database.withTenant(venue.tenantId, (client) => client.query("UPDATE tickets SET status = 'used', blocked = true"));
  await run(file(`ticket_id,code,status\nT-1,${renewed},sold\n`));
  expect(await query("SELECT status, blocked, zone FROM tickets WHERE ticket_id = 'T-1'")).toEqual([{ status: 'used', blocked: true, zone: 'A' }]);
  const [event] = await query<{ salt: Buffer }>('SELECT salt FROM events');
  expect(await query('SELECT ticket_id, reason, ticket_ref FROM ticket_tombstones')).toEqual([
    { ticket_id: 'T-1', reason: 'revoked', ticket_ref: ticketRef(event?.salt as Buffer, old) },
  ]);
  await run(file(`ticket_id,code\nT-1,${old}\n`));
  expect(await query('SELECT encode(ticket_ref, $1) AS ref FROM ticket_tombstones', ['hex'])).toEqual([
    { ref: ticketRef(event?.salt as Buffer, renewed).toString('hex') },
  ]);
});

test('a list that a reader with marks wrote holds the codes without them, once; a mark alone is no code (L3)', async () => {
  await aNewVenue();
  const [plain, eci] = [code(), code()];
  const report = await run(file(`ticket_id,code\nT-1,]Q1${plain}\nT-2,]Q2\\000026${eci}\nT-3,${plain}\nT-4,]Q1\n`), { allowWeakCodes: true });
  expect(report).toMatchObject({ created: 2, refused: 2 });
  expect(report.errors.join('\n')).toMatch(/:4: code: is already the code of ticket "T-1"/);
  expect(report.errors.join('\n')).toMatch(/:5: code: is a scanner's mark and no code behind it/);
  const [event] = await query<{ salt: Buffer }>('SELECT salt FROM events');
  const refs = await query<{ ref: string }>("SELECT encode(ticket_ref, 'hex') AS ref FROM tickets ORDER BY ticket_id");
  expect(refs).toEqual(
    [plain, eci].map((text) => ({
      ref: createHash('sha256')
        .update(Buffer.concat([event?.salt as Buffer, Buffer.from(text)]))
        .digest('hex')
        .slice(0, 32),
    })),
  );
});

test('strict: all or nothing', async () => {
  await aNewVenue();
  const path = file(`ticket_id,code\nT-1,${code()}\nT-2,40063813\n`);
  expect(await run(path, { strict: true })).toMatchObject({ created: 0, refused: 1, rolledBack: true });
  expect(await query('SELECT 1 FROM tickets')).toEqual([]);
  expect(await run(path, { strict: true, allowWeakCodes: true })).toMatchObject({ created: 2, refused: 0, rolledBack: false });
});

test('the database holds no code in any form', async () => {
  await aNewVenue();
  const codes = Array.from({ length: 20 }, code);
  await run(file(`ticket_id,code,note\n${codes.map((each, n) => `T-${n},${each},hello`).join('\n')}\n`));
  const tables = await query<{ name: string }>(
    "SELECT format('%I', relname) AS name FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace",
  );
  let dump = '';
  await fresh.database.asOwner(async (client) => {
    for (const { name } of tables) dump += (await client.query<{ row: string }>(`SELECT t::text AS row FROM ${name} t`)).rows.map(({ row }) => row).join('\n');
  });
  expect(dump).toContain('hello');
  for (const each of codes)
    for (const form of [each, Buffer.from(each).toString('hex'), Buffer.from(each).toString('base64')]) expect(dump.includes(form)).toBe(false);
});

test('a file that can not be used says why', async () => {
  await aNewVenue();
  await expect(run(join(folder, 'nowhere.csv'))).rejects.toThrow('there is no such file');
  await expect(run(file(''))).rejects.toThrow(SourceError);
  await expect(run(file('name,email\nx,y\n'))).rejects.toThrow('the first line names no such column');
  await expect(run(file('[{"ticket_id":"T"}]'), { format: 'jsonl' })).rejects.toThrow('write JSON Lines instead');
  await expect(importTickets({ database: fresh.database, tenantId: venue.tenantId, eventId: 'none', path: file('ticket_id,code\n') })).rejects.toThrow(
    'there is no event none',
  );
});

test('a line that is too long is named once, and the lines around it are in with their numbers', async () => {
  await aNewVenue();
  const good = (n: number) => `T-${n},${code()}`;
  const long = `T-9,${'x'.repeat(3_000_000)}`;
  const report = await run(file(['ticket_id,code', good(1), long, good(2), `T-8,"${'y'.repeat(200_000)}"`, 'T-7', good(3)].join('\n')));
  expect(report).toMatchObject({ lines: 6, created: 3, refused: 3 });
  expect(report.errors.map((line) => line.replace(/^.*\.csv:/, ''))).toEqual([
    '3: (line): is longer than 65536 bytes: write one ticket a line',
    '5: (line): is longer than 65536 bytes: write one ticket a line',
    '6: (line): has 1 columns, the header 2: add or remove columns; a text that holds the separator needs quotes',
  ]);
});

test('an open quote swallows nothing: its line is named, the others are in', async () => {
  await aNewVenue();
  const lines = Array.from({ length: 3_000 }, (_, n) => `T-${n},${code()},`);
  lines[10] = `T-10,${code()},"open`;
  lines[2_999] = `T-2999,${code()},"open as well`;
  lines[20] = `T-20,${code()},"two\nlines, ""quoted"""`;
  const report = await run(file(`ticket_id,code,note\n${lines.join('\n')}\n`));
  expect(report).toMatchObject({ lines: 3_000, created: 2_998, refused: 2 });
  expect(report.errors.map((line) => line.replace(/^.*\.csv:/, ''))).toEqual([
    '12: (line): has a quote that is not closed: close it, or leave it out',
    '3002: (line): has a quote that is not closed: close it, or leave it out',
  ]);
  expect(await query("SELECT note FROM tickets WHERE ticket_id = 'T-20'")).toEqual([{ note: 'two\nlines, "quoted"' }]);
});

test('a file in another encoding, a folder, an empty file: each says what to do', async () => {
  await aNewVenue();
  const text = `ticket_id,code\nT-1,${code()}\n`;
  const bytes = (name: string, content: Buffer) => {
    const path = join(folder, name);
    writeFileSync(path, content);
    return path;
  };
  const swapped = Buffer.from(text, 'utf16le').swap16();
  for (const [name, content] of [
    ['le-mark.csv', Buffer.concat([Buffer.of(0xff, 0xfe), Buffer.from(text, 'utf16le')])],
    ['be-mark.csv', Buffer.concat([Buffer.of(0xfe, 0xff), swapped])],
    ['le.csv', Buffer.from(text, 'utf16le')],
    ['be.csv', swapped],
  ] as const)
    await expect(run(bytes(name, content))).rejects.toThrow(/is UTF-16 .*save it as "CSV UTF-8"/);
  await expect(run(folder)).rejects.toThrow('is a folder: name the file in it');
  for (const empty of ['', '  \n\n', '\ufeff']) await expect(run(file(empty))).rejects.toThrow('the file is empty: it needs a header');
  const latin = await run(bytes('latin.csv', Buffer.from(`ticket_id,code,note\nT-1,${code()},caf\u00e9\nT-2,${code()},tea\n`, 'latin1')));
  expect(latin).toMatchObject({ created: 1, refused: 1, errors: [expect.stringContaining(':2: (line): is not UTF-8: save the file as UTF-8')] });
  expect(await run(bytes('mac.csv', Buffer.from(`ticket_id,code\rT-3,${code()}\rT-4,${code()}\r`)))).toMatchObject({ created: 2, refused: 0 });
});

test('a line of any length and any rubbish ends in an error, not in an end', async () => {
  await aNewVenue();
  const rubbish = [
    '{"ticket_id":"T-1"',
    '[]',
    '7',
    `{"ticket_id":"${'x'.repeat(200_000)}"}`,
    '{"ticket_id":{"a":1},"code":[]}',
    '\u0000\u0001',
    JSON.stringify({ ticket_id: 'T-9', code: code() }),
  ];
  const report = await run(file(`${rubbish.join('\n')}\n`, 'jsonl'));
  expect(report).toMatchObject({ created: 1, refused: 6 });
  expect(report.errors.map((line) => Number(line.replace(/^.*\.jsonl:(\d+):.*$/s, '$1')))).toEqual([1, 2, 3, 4, 5, 5, 6]);
});

test.each([[2], [4_999], [5_000], [5_003], [10_050]])(
  'K2: an id and a code that come again %i lines later get one answer, and the same file again changes nothing',
  async (distance) => {
    await aNewVenue();
    const same = code();
    const between = Array.from({ length: distance - 1 }, (_, n) => `B-${n},${code()},A`);
    const path = file(['ticket_id,code,zone', `T-1,${same},A`, ...between, `T-1,${code()},B`, `T-2,${same},B`].join('\n'));
    const answers = (report: { readonly errors: readonly string[] }) => report.errors.map((line) => line.replace(/^.*\.csv:/, '').replace(/:[^:]*$/, ''));
    const expected = [`${distance + 2}: ticket_id: "T-1" was given before`, `${distance + 3}: code: is already the code of ticket "T-1"`];
    const report = await run(path);
    expect(answers(report)).toEqual(expected);
    expect(report).toMatchObject({ created: distance, updated: 0, refused: 2 });
    expect(await query("SELECT zone FROM tickets WHERE ticket_id IN ('T-1', 'T-2')")).toEqual([{ zone: 'A' }]);
    const before = await version();
    const again = await run(path);
    expect([answers(again), again.created + again.updated, await version()]).toEqual([expected, 0, before]);
    expect(answers(await run(path, { strict: true }))).toEqual(expected);
  },
);

test('K4: what is no code opens nothing, also where weak codes are taken; lost zeros are asked about', async () => {
  await aNewVenue();
  const bad = ['N/A', '#REF!', '1.00E+11', 'null', 'code', '-', '0000000000', '12'];
  const path = file(
    ['ticket_id,code', 'T-0,100234567890', ...bad.map((one, n) => `T-${n + 1},${one}`), 'T-20,23456789012', 'ticket_id,code', 'T-21,"#VALUE!"'].join('\n'),
  );
  const report = await run(path, { allowWeakCodes: true });
  expect(report).toMatchObject({ created: 2, refused: bad.length + 2 });
  expect(await query('SELECT ticket_id FROM tickets ORDER BY 1')).toEqual([{ ticket_id: 'T-0' }, { ticket_id: 'T-20' }]);
  expect(report.warnings).toEqual([expect.stringMatching(/\.csv:11: code: 1 codes have fewer digits than the 12 of the others/)]);
});
