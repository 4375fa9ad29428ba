import { copyFileSync, existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import type { TicketChange, WantedManifest } from '../../contract/manifest.ts';
import { readPolicies } from '../../rules/policy.ts';
import { createKeyring } from '../../signing/keyring.ts';
import { createSigner, EVENT, GATE, makeManifest, makeOverlay, newCode, refOf, type Signer, stampAt, storeFolder, ticket } from '../decider/testing/store.ts';
import { openLedger } from './ledger.ts';
import { openManifestFile } from './manifest-file.ts';
import { type ManifestChecks, openManifests, recoverManifests } from './manifest-store.ts';
import { openForSalvage } from './sqlite.ts';

const endings: (() => void)[] = [];
afterEach(() => {
  for (const end of endings.splice(0).reverse()) end();
});

function setUp() {
  const home = storeFolder('stile-manifests-');
  endings.push(home.remove);
  const signer = createSigner();
  const keyring = createKeyring([signer.publicKey]);
  const time: { nowMs: number | null } = { nowMs: WANT_MS };
  const checks: ManifestChecks = {
    verify: (payload, carried) => keyring.verifyPayload(payload, carried, null),
    nowMs: () => time.nowMs,
    policyProblem: (policies) => {
      const read = readPolicies(policies);
      return read.ok ? null : read.problems.join('; ');
    },
  };
  const folder = join(home.path, 'manifests');
  const problems: string[] = [];
  const ledger = openLedger({ path: join(home.path, 'ledger.sqlite'), name: 'arena/north-01', stamp: stampAt(1) });
  endings.push(() => ledger.close());
  const open = (release: string | null = null) => {
    const manifests = openManifests({ ledger, folder, checks, release, onUnusable: (_event, message) => problems.push(message), onSwitched: () => {} });
    endings.push(() => manifests.close());
    return manifests;
  };
  return { home: home.path, folder, signer, checks, ledger, problems, open, manifests: open(), time };
}
const wantOf = (...events: WantedManifest[]): Uint8Array => Buffer.from(JSON.stringify({ schema: 1, events }));
const WANT_MS = Date.parse('2026-06-01T12:00:00.000Z');
/** As the cloud says it: signed as a whole, for one gate. */
const signedWant = (signer: Signer, events: readonly WantedManifest[], change: { readonly atMs?: number; readonly gate?: string } = {}): Uint8Array => {
  const { atMs = WANT_MS, gate = GATE } = change;
  return Buffer.from(JSON.stringify(signer.sign({ schema: 1, gate, issued_at: new Date(atMs).toISOString(), key_id: signer.publicKey.key_id, events })));
};
const ref = (code: string) => Buffer.from(refOf(code), 'hex');

test('a file is copied, checked, switched to, and read with everything that a ticket may say', async () => {
  const { home, signer, manifests, open } = setUp();
  const [plain, full] = [newCode(), newCode()];
  const uuid = '0b6f4f1e-5d0c-4a57-9a36-0e5b5d1c9d11';
  const { file, wanted } = await makeManifest(home, signer, {
    version: 7,
    tickets: [
      ticket(plain),
      ticket(full, {
        ticket_id: uuid,
        tier: 'vip',
        zone: 'west',
        status: 'blocked',
        max_scans: 3,
        units: 4,
        valid_from: '2026-06-01T10:00:00.000Z',
        valid_until: '2026-06-02T10:00:00.000Z',
        vip: true,
        note: 'chargeback',
      }),
    ],
    usage: [
      { ticket_ref: refOf(plain), gate: 'arena/north-02', epoch: 5, seq: 9, at: '2026-06-01T17:00:00.000Z', direction: 'out', units: 1, outcome: 'stuck' },
      // Two lives of a store may have granted under one number: only the hash tells them apart.
      ...['ab', 'cd'].map((byte) => ({
        ticket_ref: refOf(full),
        gate: 'arena/north-02',
        epoch: 5,
        seq: 3,
        hash8: byte.repeat(8),
        at: '2026-06-01T16:00:00.000Z',
        direction: 'in' as const,
        units: 1,
        outcome: 'passed' as const,
      })),
    ],
    upto: { 'arena/north-02': [5, 9] },
  });
  expect(await manifests.install(file, wanted)).toEqual({ ok: true, version: 7 });
  const event = manifests.find(EVENT);
  expect(event).toMatchObject({ overlayVersion: 7, file: { head: { ticket_count: 2, upto: { 'arena/north-02': [5, 9] } } } });
  expect(event?.file.usageOf(ref(full)).map(({ seq, hash }) => [seq, hash])).toEqual([
    [3, 'ab'.repeat(8)],
    [3, 'cd'.repeat(8)],
  ]);
  expect(event?.file.find(ref(plain))).toMatchObject({
    ticketId: `t-${refOf(plain).slice(0, 12)}`,
    tier: 'standard',
    zone: null,
    status: 'valid',
    maxScans: null,
    units: 1,
    vip: false,
    source: 'manifest',
  });
  expect(event?.file.find(ref(full))).toMatchObject({
    eventId: EVENT,
    ticketId: uuid,
    ticketRef: refOf(full),
    tier: 'vip',
    zone: 'west',
    status: 'blocked',
    maxScans: 3,
    units: 4,
    validFromMs: Date.parse('2026-06-01T10:00:00.000Z'),
    validUntilMs: Date.parse('2026-06-02T10:00:00.000Z'),
    vip: true,
    note: 'chargeback',
  });
  expect(event?.file.find(ref(newCode()))).toBeNull();
  expect(event?.file.usageOf(ref(plain))).toEqual([
    { gate: 'arena/north-02', epoch: 5, seq: 9, atMs: Date.parse('2026-06-01T17:00:00.000Z'), direction: 'out', units: 1, outcome: 'stuck' },
  ]);
  expect(open().find(EVENT)?.file.head.version).toBe(7);
});

test('nothing unsigned, changed, false or older replaces anything', async () => {
  const { home, signer, manifests, folder } = setUp();
  const first = await makeManifest(home, signer, { version: 5, tickets: [ticket(newCode())] });
  expect(await manifests.install(first.file, first.wanted)).toEqual({ ok: true, version: 5 });
  const next = await makeManifest(home, signer, { version: 6, tickets: [ticket(newCode()), ticket(newCode())] });

  const stranger = createSigner();
  const bytes = readFileSync(next.file);
  const changed = join(home, 'changed');
  bytes[bytes.length - 40] = (bytes[bytes.length - 40] ?? 0) ^ 1;
  writeFileSync(changed, bytes);
  const rubbish = join(home, 'rubbish');
  writeFileSync(rubbish, 'not a database at all');
  const { createHash } = await import('node:crypto');
  const entry = (file: string, version: number, sign = signer) => {
    const content = readFileSync(file);
    return sign.sign({
      event_id: EVENT,
      version,
      overlay_version: version,
      sha256: createHash('sha256').update(content).digest('hex'),
      size: content.length,
      url: '/m',
      key_id: 'k1',
    });
  };
  const lying = join(home, 'lying');
  copyFileSync(next.file, lying);
  const db = openForSalvage(lying);
  db.exec('DELETE FROM tickets WHERE ref = (SELECT min(ref) FROM tickets)');
  db.close();
  const policies = await makeManifest(home, signer, { version: 6, tickets: [ticket(newCode())], policies: { event: { only_on_tuesdays: true } } });

  const tries: [string, unknown, string][] = [
    [next.file, { ...next.wanted, version: 60 }, 'signature'],
    [next.file, entry(next.file, 6, stranger), 'signature'],
    [next.file, { ...entry(next.file, 6), key_id: 'k2' }, 'unknown_key'],
    [changed, next.wanted, 'checksum'],
    [first.file, next.wanted, 'checksum'],
    [rubbish, entry(rubbish, 6), 'malformed'],
    [lying, entry(lying, 6), 'malformed'],
    [first.file, entry(first.file, 6), 'malformed'],
    [policies.file, policies.wanted, 'malformed'],
    [next.file, { nothing: true }, 'malformed'],
    [first.file, first.wanted, 'not_newer'],
    [first.file, entry(first.file, 4), 'not_newer'],
    [join(home, 'missing'), next.wanted, 'io'],
  ];
  for (const [file, wanted, why] of tries) expect(await manifests.install(file, wanted), `${file} ${why}`).toMatchObject({ ok: false, why });
  expect(manifests.find(EVENT)?.file.head.version).toBe(5);
  expect(readdirSync(join(folder, EVENT)).sort()).toEqual(['5.json', '5.sqlite']);
  expect(await manifests.install(next.file, next.wanted)).toEqual({ ok: true, version: 6 });
});

test('the last good file is kept, older ones go', async () => {
  const { home, signer, manifests, folder, open } = setUp();
  for (const version of [1, 2, 3]) {
    const { file, wanted } = await makeManifest(home, signer, { version, tickets: [ticket(newCode())], upto: { 'arena/north-02': [5, version] } });
    expect(await manifests.install(file, wanted)).toEqual({ ok: true, version });
  }
  expect(readdirSync(join(folder, EVENT)).sort()).toEqual(['2.json', '2.sqlite', '3.json', '3.sqlite']);
  const uptos = [{ 'arena/north-02': [5, 3] }, { 'arena/north-02': [5, 2] }];
  expect(manifests.keeps().map((keep) => keep.upto)).toEqual(uptos);
  expect(
    open()
      .keeps()
      .map((keep) => keep.upto),
  ).toEqual(uptos);
});

test('overlays: in the order of their versions, signed, and folded by the file that holds them', async () => {
  const { home, signer, manifests, open } = setUp();
  const [a, b, c] = [newCode(), newCode(), newCode()];
  const { file, wanted } = await makeManifest(home, signer, { version: 10, tickets: [ticket(a), ticket(b)] });
  expect(manifests.applyOverlay(makeOverlay(signer, 10, 11, []))).toMatchObject({ ok: false, why: 'gap' });
  await manifests.install(file, wanted);
  const gone: TicketChange = { ticket_ref: refOf(b), ticket_id: null, removed: true, reason: 'revoked' };
  expect(manifests.applyOverlay(makeOverlay(signer, 11, 12, [ticket(a, { status: 'blocked' })]))).toMatchObject({ ok: false, why: 'gap' });
  expect(manifests.applyOverlay(makeOverlay(createSigner(), 10, 11, [ticket(a, { status: 'canceled' })]))).toMatchObject({ ok: false, why: 'signature' });
  expect(manifests.applyOverlay(Buffer.from('{}'))).toMatchObject({ ok: false, why: 'malformed' });
  expect(manifests.applyOverlay(makeOverlay(signer, 10, 11, [ticket(a, { status: 'blocked' }), gone]))).toEqual({ ok: true, version: 11 });
  expect(manifests.applyOverlay(makeOverlay(signer, 10, 11, []))).toMatchObject({ ok: false, why: 'not_newer' });
  expect(manifests.applyOverlay(makeOverlay(signer, 11, 13, [ticket(c)]))).toEqual({ ok: true, version: 13 });
  // Without the fields that reading fills in, the signature is still over what came.
  const bare = signer.sign({
    schema: 1,
    event_id: EVENT,
    from_version: 13,
    to_version: 14,
    tickets: [{ ticket_id: 'd', ticket_ref: 'd'.repeat(32), tier: 'x', zone: null, status: 'valid', max_scans: null }],
    key_id: 'k1',
  });
  expect(manifests.applyOverlay(Buffer.from(JSON.stringify(bare)))).toEqual({ ok: true, version: 14 });
  expect(manifests.overlays.find(EVENT, Buffer.from('d'.repeat(32), 'hex'))).toMatchObject({ kind: 'ticket', ticket: { units: 1, vip: false } });
  const { tickets: _tickets, ...large } = JSON.parse(Buffer.from(makeOverlay(signer, 14, 15, [])).toString()) as Record<string, unknown>;
  expect(manifests.applyOverlay(Buffer.from(JSON.stringify(signer.sign(large))))).toMatchObject({ ok: false, why: 'gap' });

  const again = open();
  expect(again.overlays.find(EVENT, ref(a))).toMatchObject({ kind: 'ticket', ticket: { status: 'blocked', source: 'overlay' } });
  expect(again.overlays.find(EVENT, ref(b))).toEqual({ kind: 'removed', reason: 'revoked' });
  expect(again.find(EVENT)?.overlayVersion).toBe(14);
  // A file of version 11 holds the first change, not the second: the newest version stays in force.
  const later = await makeManifest(home, signer, { version: 11, tickets: [ticket(a, { status: 'blocked' })] });
  expect(await again.install(later.file, later.wanted)).toEqual({ ok: true, version: 11 });
  expect(again.overlays.find(EVENT, ref(b))).toBeNull();
  expect(again.overlays.find(EVENT, ref(c))).toMatchObject({ kind: 'ticket' });
  expect(again.find(EVENT)?.overlayVersion).toBe(14);
});

test('want says what to fetch, drops what is gone, and takes it up again', async () => {
  const { home, signer, manifests, problems } = setUp();
  const one = await makeManifest(home, signer, { version: 3, tickets: [ticket(newCode())] });
  expect(manifests.want(wantOf(one.wanted))).toEqual([{ eventId: EVENT, since: null, wanted: one.wanted }]);
  await manifests.install(one.file, one.wanted);
  expect(manifests.want(wantOf(one.wanted))).toEqual([]);
  const behind = signer.sign({ ...one.wanted, overlay_version: 5 });
  expect(manifests.want(wantOf(behind))).toEqual([{ eventId: EVENT, since: 3, wanted: behind }]);
  const newer = signer.sign({ ...one.wanted, version: 4, overlay_version: 4 });
  expect(manifests.want(wantOf(newer))).toEqual([{ eventId: EVENT, since: null, wanted: newer }]);
  expect(manifests.want(wantOf({ ...newer, version: 9 }))).toEqual([]);
  expect(problems).toEqual([expect.stringContaining('not signed')]);
  expect(manifests.want(signedWant(signer, []))).toEqual([]);
  expect(manifests.current()).toEqual([]);
  expect(manifests.want(signedWant(signer, [one.wanted], { atMs: WANT_MS + 1 }))).toEqual([]);
  expect(manifests.find(EVENT)?.file.head.version).toBe(3);
  expect(() => manifests.want(Buffer.from('[]'))).toThrow(expect.objectContaining({ fault: expect.objectContaining({ operation: 'read manifest/want' }) }));
});

test('a list is dropped by nothing but the newest want that is signed for this gate', async () => {
  const { home, signer, manifests, problems, open, time } = setUp();
  const one = await makeManifest(home, signer, { version: 3, tickets: [ticket(newCode())] });
  await manifests.install(one.file, one.wanted);
  expect(manifests.want(signedWant(signer, [one.wanted]))).toEqual([]);
  const [stranger, none] = [createSigner(), signedWant(signer, [], { atMs: WANT_MS + 1 })];
  const changed = Buffer.from(
    Buffer.from(signedWant(signer, [one.wanted], { atMs: WANT_MS + 1 }))
      .toString()
      .replace(/"events":.*\}\],/, '"events":[],'),
  );
  const tries: [string, Uint8Array][] = [
    ['unsigned', wantOf()],
    ["another gate's", signedWant(signer, [], { gate: 'arena/north-02' })],
    ["a stranger's", signedWant(stranger, [])],
    ['changed on its way', changed],
    ['older than what was said', signedWant(signer, [], { atMs: WANT_MS - 1 })],
    ['from far ahead', signedWant(signer, [], { atMs: WANT_MS + 300_001 })],
  ];
  for (const [what, payload] of tries) {
    problems.length = 0;
    expect(manifests.want(payload), what).toEqual([]);
    expect(manifests.find(EVENT)?.file.head.version, what).toBe(3);
    expect(problems, what).toEqual([expect.stringContaining('stays in force')]);
  }
  expect(manifests.want(none)).toEqual([]);
  expect(manifests.find(EVENT)).toBeNull();
  // What was dropped does not come back from the card by an old word: it is fetched, so that the cloud judges.
  for (const payload of [wantOf(one.wanted), signedWant(signer, [one.wanted])])
    expect(manifests.want(payload)).toEqual([{ eventId: EVENT, since: null, wanted: one.wanted }]);
  expect(open().want(wantOf(one.wanted))).toMatchObject([{ since: null }]);
  // The cloud's clock was wrong once: what is remembered from then binds nobody for ever.
  time.nowMs = WANT_MS - 86_400_000;
  expect(manifests.want(signedWant(signer, [one.wanted], { atMs: time.nowMs }))).toEqual([]);
  expect(manifests.find(EVENT)?.file.head.version).toBe(3);
});

test('a file that is lost is reported, and welcome again in the same version', async () => {
  const { home, signer, manifests, folder, problems, open } = setUp();
  const { file, wanted } = await makeManifest(home, signer, { version: 3, tickets: [ticket(newCode())] });
  await manifests.install(file, wanted);
  rmSync(join(folder, EVENT, '3.sqlite'));
  const again = open();
  expect(problems).toHaveLength(1);
  expect(again.find(EVENT)).toBeNull();
  expect(again.want(wantOf(wanted))).toMatchObject([{ since: null }]);
  expect(await again.install(file, wanted)).toEqual({ ok: true, version: 3 });
});

test('after the ledger was lost, the newest file that is signed and whole is taken up again', async () => {
  const { home, signer, manifests, folder, checks } = setUp();
  for (const version of [1, 2]) {
    const { file, wanted } = await makeManifest(home, signer, { version, tickets: [ticket(newCode())] });
    await manifests.install(file, wanted);
  }
  manifests.close();
  const broken = openForSalvage(join(folder, EVENT, '2.sqlite'));
  broken.exec('DELETE FROM tickets');
  broken.close();
  const fresh = openLedger({ path: join(home, 'fresh.sqlite'), name: 'arena/north-01', stamp: stampAt(1) });
  endings.push(() => fresh.close());
  expect(await recoverManifests(folder, fresh, checks)).toEqual([EVENT]);
  const again = openManifests({ ledger: fresh, folder, checks, release: null, onUnusable: () => {}, onSwitched: () => {} });
  endings.push(() => again.close());
  expect(again.find(EVENT)?.file.head.version).toBe(1);
});

test('a ticket costs little more than its key', async () => {
  const { home, signer } = setUp();
  const { file, wanted } = await makeManifest(home, signer, {
    version: 1,
    tickets: Array.from({ length: 20_000 }, (_, n) => ticket(`code-${n}`, { ticket_id: crypto.randomUUID() })),
  });
  expect(wanted.size / 20_000).toBeLessThan(60);
  expect(existsSync(`${file}-journal`)).toBe(false);
  const opened = openManifestFile(file);
  expect(await opened.count()).toBe(20_000);
  opened.close();
});

/** Another file takes its place, because one that is in use is locked. */
function changeHead(path: string, key: string, value: string): void {
  copyFileSync(path, `${path}.changed`);
  const db = openForSalvage(`${path}.changed`);
  db.prepare('UPDATE head SET value = ? WHERE key = ?').run(value, key);
  db.close();
  renameSync(`${path}.changed`, path);
}

test('a head that was found right is taken as it stands by the same program, and by no other; one that changed is checked again', async () => {
  const { home, folder, signer, open, problems } = setUp();
  const { file, wanted } = await makeManifest(home, signer, { version: 7, tickets: [ticket(newCode())], policies: { event: { duplicate_window_s: 5 } } });
  const checked = (manifests: ReturnType<typeof open>) => manifests.find(EVENT)?.file.headChecked;
  const first = open('1.0');
  expect(await first.install(file, wanted)).toEqual({ ok: true, version: 7 });
  first.close();
  expect(checked(open('1.0'))).toBe('plain');
  first.rememberHeads();
  const again = open('1.0');
  expect(checked(again)).toBe('known');
  expect(again.find(EVENT)?.file.head).toEqual(openManifestFile(join(folder, EVENT, '7.sqlite')).head);
  expect(checked(open('1.1'))).toBe('plain');
  expect(checked(open(null))).toBe('plain');

  // With the next version both files that can be in force are known.
  const next = await makeManifest(home, signer, { version: 8, tickets: [ticket(newCode())] });
  expect(await again.install(next.file, next.wanted)).toEqual({ ok: true, version: 8 });
  again.rememberHeads();
  expect(checked(open('1.0'))).toBe('known');
  rmSync(join(folder, EVENT, '8.sqlite'));
  expect(checked(open('1.0'))).toBe('known');

  // A bit of the card turned over: what is not what was signed is not used.
  changeHead(join(folder, EVENT, '7.sqlite'), 'version', '6');
  problems.length = 0;
  expect(checked(open('1.0'))).toBeUndefined();
  expect(problems).toEqual([expect.stringContaining('8.sqlite'), expect.stringContaining('the file is not what was signed any more')]);
});

test('policies that these rules cannot read are never remembered as right', async () => {
  const { home, folder, signer, ledger, open } = setUp();
  const { file, wanted } = await makeManifest(home, signer, { version: 7, tickets: [ticket(newCode())] });
  expect(await open().install(file, wanted)).toEqual({ ok: true, version: 7 });
  // As an older program may have left it.
  changeHead(join(folder, EVENT, '7.sqlite'), 'policies', '{"event":{"newer_rule":1}}');
  open('1.0').rememberHeads();
  expect(ledger.db.prepare('SELECT head FROM manifests').get()).toEqual({ head: null });
});
