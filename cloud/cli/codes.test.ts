import { generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { PublicKey } from '../../contract/manifest.ts';
import { recogniseCode } from '../../rules/code.ts';
import type { SignedForm } from '../../rules/code-forms.ts';
import { checkSignature } from '../../rules/signature-check.ts';
import { createVerify } from '../../signing/verify.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type Venue } from '../../testkit/database.ts';
import { buildManifest, type EventRow } from '../manifest/build.ts';
import { codeKeys } from '../manifest/code-keys.ts';
import { eventRights, ticketRight } from '../manifest/current-rights.ts';
import { wholeManifest } from '../manifest/json-manifest.ts';
import { signerOf } from '../manifest/signing-key.ts';
import { manifestUsage } from '../reconcile/usage.ts';
import { judge, type ScanEvent, scanFacts } from '../scan/facts.ts';
import { runCli } from './main.ts';

let fresh: FreshDatabase;
let venue: Venue;
const folder = mkdtempSync(join(tmpdir(), 'stile-codes-'));
const file = (name: string) => join(folder, name);
beforeAll(async () => {
  fresh = await freshDatabase();
  venue = await makeVenue(fresh.url, { tickets: 1 });
});
afterAll(async () => {
  await fresh.drop();
  rmSync(folder, { recursive: true, force: true });
});

async function cli(...args: readonly string[]): Promise<{ code: number; out: string; err: string }> {
  let [out, err] = ['', ''];
  const code = await runCli(args, {
    env: { DATABASE_URL: fresh.servingUrl, STILE_SIGNING_KEY_FILE: file('signing-key.pem'), STILE_TENANT: venue.tenantName },
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
const by = ['--actor', 's-17', '--reason', 'lost', '--no-wait'];
const rows = (path: string) =>
  readFileSync(path, 'utf8')
    .trim()
    .split('\n')
    .slice(1)
    .map((line) => line.split(',') as [id: string, code: string, tier: string, zone: string]);
const scan = (code: string) =>
  fresh.database.withTenant(venue.tenantId, async (client) => {
    const event = (await eventRights(client, venue.eventId)) as ScanEvent;
    const sources = { rights: { event: eventRights, ticket: ticketRight }, verify: createVerify() };
    const verdict = judge(await scanFacts(client, sources, event, { device: venue.gates[0] as string, seen: { code }, direction: 'in', nowMs: Date.now() }));
    return verdict.kind === 'grant' ? verdict.type : verdict.reason;
  });
const keysNow = () => fresh.database.withTenant(venue.tenantId, (client) => codeKeys(client, venue.eventId));

test('opaque codes: random, unlike each other, in the file alone', async () => {
  const issued = await cli('codes', 'issue', venue.eventId, '--count', '300', '--tier', 'standard', '--zone', 'A', '--out', file('opaque.csv'), '--no-wait');
  expect(issued).toMatchObject({ code: 0, out: '', err: expect.stringContaining('300 codes are in') });
  const codes = rows(file('opaque.csv'));
  expect(statSync(file('opaque.csv')).mode & 0o777).toBe(0o600);
  expect(new Set(codes.map(([, code]) => code)).size).toBe(300);
  for (const [, code, tier, zone] of codes) {
    // 26 characters of 5 bits: 130.
    expect(code).toMatch(/^[A-Z2-7]{26}$/);
    expect([tier, zone]).toEqual(['standard', 'A']);
  }
  expect(await scan(codes[7]?.[1] as string)).toBe('first_entry');
  const dump = JSON.stringify((await fresh.database.asOwner((client) => client.query('SELECT t.* FROM tickets t'))).rows);
  expect(dump).not.toContain(codes[0]?.[1]);
  expect(await cli('codes', 'issue', venue.eventId, '--count', '1', '--tier', 'standard', '--out', file('opaque.csv'))).toMatchObject({
    code: 1,
    err: expect.stringContaining('is there already: name another file, nothing was issued'),
  });
  expect(rows(file('opaque.csv'))).toHaveLength(300);
  // The same file can be imported: it changes nothing.
  expect((await cli('import', venue.eventId, file('opaque.csv'), '--no-wait')).out).toContain('0 new, 0 changed, 300 as before');
});

test('a file that cannot be written leaves no tickets behind, an unknown event no file', async () => {
  const count = async () => (await fresh.database.withTenant(venue.tenantId, (client) => client.query('SELECT count(*)::int AS n FROM tickets'))).rows;
  const before = await count();
  expect(await cli('codes', 'issue', venue.eventId, '--count', '5', '--tier', 'standard', '--out', file('no/such/folder.csv'))).toMatchObject({ code: 1 });
  expect(await count()).toEqual(before);
  expect(await cli('codes', 'issue', 'nowhere', '--count', '5', '--tier', 'standard', '--out', file('none.csv'))).toMatchObject({
    code: 1,
    err: expect.stringContaining('no event nowhere'),
  });
  expect(existsSync(file('none.csv'))).toBe(false);
  expect(await cli('codes', 'issue', venue.eventId, '--count', '0', '--tier', 'standard', '--out', file('none.csv'))).toMatchObject({ code: 2 });
});

test('signed codes: two keys side by side, in the manifest; a revoked one opens nothing, and its list only grows', async () => {
  const issue = (out: string, ...more: string[]) =>
    cli('codes', 'issue', venue.eventId, '--count', '3', '--tier', 'guest', '--signed', '--out', file(out), '--no-wait', ...more);
  expect(await issue('early.csv')).toMatchObject({ code: 1, err: expect.stringContaining('codes keys add') });
  const added = await cli('codes', 'keys', 'add', venue.eventId, '--key', 'k1', '--no-wait');
  expect(added).toMatchObject({ code: 0, out: `k1: ${venue.eventId} takes codes that it signs\n` });
  const keyFile = file(`code-keys/${venue.eventId}/k1.pem`);
  expect(statSync(keyFile).mode & 0o777).toBe(0o600);
  expect(await cli('codes', 'keys', 'add', venue.eventId, '--key', 'k1', '--no-wait')).toMatchObject({ out: 'k1: is known already\n' });
  expect(await cli('codes', 'keys', 'add', venue.eventId, '--key', 'k2', '--key-file', file('k2.pem'), '--no-wait')).toMatchObject({ code: 0 });

  expect(await issue('which.csv')).toMatchObject({ code: 1, err: expect.stringContaining('choose with --key k1 or k2') });
  expect(await issue('one.csv', '--key', 'k1')).toMatchObject({ code: 0 });
  expect(await issue('wrong.csv', '--key', 'k2', '--key-file', keyFile)).toMatchObject({ code: 1, err: expect.stringContaining('is not the key k2') });
  expect(await issue('two.csv', '--key', 'k2', '--key-file', file('k2.pem'))).toMatchObject({ code: 0 });
  const [one, two] = [rows(file('one.csv')), rows(file('two.csv'))];
  for (const [keyId, list] of [
    ['k1', one],
    ['k2', two],
  ] as const)
    for (const [ticketId, code] of list) {
      const form = recogniseCode(code) as SignedForm;
      expect(form).toMatchObject({ form: 'stile', keyId, ticketId, eventId: venue.eventId, tier: 'guest' });
      expect(checkSignature(form, await keysNow(), createVerify(), Date.now())).toEqual({ ok: true, keyId });
      expect(await scan(code)).toBe('first_entry');
      expect(await scan(ticketId)).toBe('invalid');
    }
  expect((await cli('import', venue.eventId, file('one.csv'), '--no-wait')).out).toContain('3 as before');
  writeFileSync(file('swapped.csv'), `ticket_id,code,tier\nT-77,${one[0]?.[1]},guest\n`);
  expect(await cli('import', venue.eventId, file('swapped.csv'), '--no-wait')).toMatchObject({
    code: 1,
    err: expect.stringContaining('is the signed code of ticket'),
  });

  const head = async () => {
    const keys = [signerOf(generateKeyPairSync('ed25519').privateKey).publicKey];
    await buildManifest({ database: fresh.database, readUsage: manifestUsage, keys, ttlHours: 24 }, venue.tenantId, venue.eventId);
    const signer = signerOf(generateKeyPairSync('ed25519').privateKey);
    return fresh.database.withTenant(venue.tenantId, async (client) => {
      const event = (await client.query<EventRow>('SELECT * FROM events')).rows[0] as EventRow;
      return (await wholeManifest(client, { signer, keys, readUsage: manifestUsage, ttlHours: 24 }, event, Date.now())) as NonNullable<
        Awaited<ReturnType<typeof wholeManifest>>
      >;
    });
  };
  const before = await head();
  expect(before.keys?.map(({ key_id, use, revoked }) => [key_id, use, revoked ?? false]).slice(1)).toEqual([
    ['k1', 'code', false],
    ['k2', 'code', false],
  ]);
  for (const key of before.keys ?? []) expect(PublicKey.safeParse(key).success).toBe(true);

  expect(await cli('codes', 'keys', 'revoke', venue.eventId, 'k1', ...by)).toMatchObject({ code: 0 });
  expect(await cli('codes', 'keys', 'revoke', venue.eventId, 'k1', ...by)).toMatchObject({ out: 'k1: was revoked before\n' });
  expect(await scan(one[0]?.[1] as string)).toBe('invalid');
  expect(await scan(two[0]?.[1] as string)).toBe('first_entry');
  expect(await cli('codes', 'keys', 'add', venue.eventId, '--key', 'k1', '--no-wait')).toMatchObject({ code: 1, err: expect.stringContaining('was revoked') });
  expect(await cli('codes', 'keys', 'add', venue.eventId, '--key', 'k3', '--key-file', keyFile, '--no-wait')).toMatchObject({ code: 1 });
  expect(await issue('late.csv', '--key', 'k1')).toMatchObject({ code: 1, err: expect.stringContaining('no live key k1') });
  expect((await cli('codes', 'keys', 'list', venue.eventId)).out).toMatch(/^k1 {2}code {2}revoked .*\nk2 {2}code {2}live/);

  // Single codes: of a known ticket, and of one that nobody has told us of yet.
  expect((await cli('codes', 'revoke', venue.eventId, two[1]?.[0] as string, 'not-told-yet', ...by)).out).toBe(
    '1 tickets revoked, 1 codes that no ticket is known for\n',
  );
  expect((await cli('codes', 'revoke', venue.eventId, two[1]?.[0] as string, 'not-told-yet', ...by)).out).toBe(
    '0 tickets revoked, 0 codes that no ticket is known for\n',
  );
  expect(await scan(two[1]?.[1] as string)).toBe('revoked');
  const after = await head();
  expect(after.revoked?.version).toBeGreaterThan(before.revoked?.version as number);
  expect(after.revoked?.refs).toHaveLength((before.revoked?.refs.length ?? 0) + 1);
  expect(after.keys?.find(({ key_id }) => key_id === 'k1')).toMatchObject({ revoked: true });
});

/** As pretix writes it: product 5, the date of a series where there is one, both times 0 for none. */
function pretixCode(key: KeyObject, seed: string, subevent = 0): string {
  const payload = Uint8Array.of(0x0a, seed.length, ...Buffer.from(seed), 0x10, 5, 0x18, 0, 0x20, subevent, 0x28, 0, 0x30, 0);
  const whole = Uint8Array.of(1, 0, payload.length, 0, 64, ...payload, ...sign(null, payload, key));
  return [...Buffer.from(whole).toString('base64')].reverse().join('');
}

test('K8: a signed code of pretix is revoked by the file that holds it; what cannot be is said line by line; another date of a series is refused in words', async () => {
  venue = await makeVenue(fresh.url, { tickets: 1, event: 'PRETIX' });
  const pair = generateKeyPairSync('ed25519');
  writeFileSync(file('series.txt'), pair.publicKey.export({ type: 'spki', format: 'pem' }) as string);
  expect(await cli('codes', 'keys', 'add', venue.eventId, '--pretix', file('series.txt'), '--no-wait')).toMatchObject({ code: 0 });
  const [lost, kept] = [pretixCode(pair.privateKey, 'lost'), pretixCode(pair.privateKey, 'kept')];
  expect([await scan(lost), await scan(kept)]).toEqual(['first_entry', 'first_entry']);
  writeFileSync(file('lost.csv'), `ticket_id,code\nP-1,${lost}\n`);
  expect(await cli('codes', 'revoke', venue.eventId, '--file', file('lost.csv'), ...by)).toMatchObject({
    code: 0,
    out: '0 tickets revoked, 1 codes that no ticket is known for\n',
  });
  expect([await scan(lost), await scan(kept)]).toEqual(['revoked', 'first_entry']);
  expect(await cli('codes', 'revoke', venue.eventId, 'P-2', 'T-1', ...by)).toMatchObject({
    code: 1,
    out: '1 tickets revoked, 0 codes that no ticket is known for\n',
    err: expect.stringMatching(/not revoked: P-2: no ticket P-2 is known, .*--file/),
  });

  const dated = [7, 8].map((subevent) => pretixCode(pair.privateKey, `date-${subevent}`, subevent));
  expect(await Promise.all(dated.map(scan))).toEqual(['product', 'product']);
  writeFileSync(file('date.yaml'), 'event: { subevents: [7] }\n');
  expect(await cli('event', 'put', venue.eventId, '--policies', file('date.yaml'), '--no-wait')).toMatchObject({ code: 0 });
  expect(await Promise.all(dated.map(scan))).toEqual(['first_entry', 'product']);
});

test("pretix's public key is taken as its settings show it; what is no public key is not", async () => {
  const pair = generateKeyPairSync('ed25519');
  const pem = pair.publicKey.export({ type: 'spki', format: 'pem' }) as string;
  writeFileSync(file('pretix.txt'), `${Buffer.from(pem).toString('base64')}\n`);
  const added = await cli('codes', 'keys', 'add', venue.eventId, '--pretix', file('pretix.txt'), '--no-wait');
  expect(added).toMatchObject({ code: 0, out: expect.stringMatching(/^pretix-[0-9a-f]{12}: /) });
  const spki = pair.publicKey.export({ type: 'spki', format: 'der' }).toString('base64');
  expect(await keysNow()).toContainEqual(expect.objectContaining({ use: 'pretix', spki }));
  writeFileSync(file('plain.pem'), pem);
  expect(await cli('codes', 'keys', 'add', venue.eventId, '--public', file('plain.pem'), '--key', 'partner', '--no-wait')).toMatchObject({ code: 0 });
  writeFileSync(file('private.pem'), pair.privateKey.export({ type: 'pkcs8', format: 'pem' }) as string);
  writeFileSync(file('rsa.pem'), generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey.export({ type: 'spki', format: 'pem' }) as string);
  writeFileSync(file('small.txt'), Buffer.concat([Buffer.from('302a300506032b6570032100', 'hex'), Buffer.alloc(32)]).toString('base64'));
  for (const name of ['private.pem', 'rsa.pem', 'missing.pem', 'small.txt'])
    expect(await cli('codes', 'keys', 'add', venue.eventId, '--public', file(name), '--no-wait'), name).toMatchObject({ code: 1 });
});

test('a sheet is drawn from the file', async () => {
  for (const [name, begins] of [
    ['sheet.svg', '<svg '],
    ['sheet.html', '<!doctype html>'],
    ['sheet.png', '\x89PNG'],
  ] as const) {
    expect(await cli('codes', 'sheet', file('two.csv'), '--out', file(name))).toMatchObject({ code: 0, err: expect.stringContaining('3 codes are drawn') });
    expect(readFileSync(file(name), 'latin1').startsWith(begins)).toBe(true);
  }
  expect(await cli('codes', 'sheet', file('two.csv'), '--out', file('sheet.pdf'))).toMatchObject({
    code: 2,
    err: expect.stringContaining('.svg, .png or .html'),
  });
  expect(await cli('codes', 'sheet', file('nothing.csv'), '--out', file('x.svg'))).toMatchObject({
    code: 1,
    err: expect.stringContaining('there is no such file'),
  });
});
