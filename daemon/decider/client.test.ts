import { closeSync, openSync, readdirSync, readFileSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import type { RowPosition } from '../../contract/ids.ts';
import { LedgerEntry, LedgerMessage } from '../../contract/ledger.ts';
import type { LookupAnswer } from '../../contract/manifest.ts';
import type { Clock, Decider } from '../ports.ts';
import { createDeciderClient, type DeciderClientOptions, LOOKUP_BUDGET_MS } from './client.ts';
import { BOOT_WALL_MS, createSigner, EVENT, GATE, makeManifest, newCode, refOf, show, storeFolder, ticket } from './testing/store.ts';

const endings: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end();
});

function clockAt(start: number): Clock & { now: number } {
  const clock = {
    now: start,
    bootId: 'boot-1',
    boottimeMs: () => clock.now,
    wallMs: () => BOOT_WALL_MS + clock.now,
    offset: () => ({ offsetMs: BOOT_WALL_MS, boundMs: 3 }),
    trusted: () => true,
    observe: () => {},
  };
  return clock;
}

async function deciderWith(codes: readonly string[], options: Partial<DeciderClientOptions> = {}) {
  const folder = storeFolder();
  endings.push(folder.remove);
  const signer = createSigner();
  const clock = clockAt(1_000);
  const notices: string[] = [];
  const decider: Decider = createDeciderClient({
    path: join(folder.path, 'store'),
    gate: GATE,
    verifyKeys: [signer.publicKey],
    clock,
    notice: (what, detail) => {
      notices.push(`${what}: ${detail}`);
    },
    ...options,
  });
  endings.push(() => decider.close());
  await decider.open();
  const { file, wanted } = await makeManifest(folder.path, signer, { version: 1, tickets: codes.map((code) => ticket(code)) });
  expect(await decider.installManifest(file, wanted)).toEqual({ ok: true, version: 1 });
  return { decider, clock, signer, folder: folder.path, notices };
}

test('a guest is admitted once, and the rows wait for the cloud, well formed', async () => {
  const code = newCode();
  const { decider, clock } = await deciderWith([code]);
  const first = await decider.decide(show(code, clock.now));
  expect(first.verdict).toMatchObject({ kind: 'grant', type: 'first_entry', units: 1 });
  expect(first.row).toEqual([expect.any(Number), 1]);
  await decider.record({ kind: 'passage', of: first.row, direction: 'in', unit: 1, outcome: 'passed' });
  clock.now += 60_000;
  const second = await decider.decide(show(code, clock.now));
  expect(second.verdict).toMatchObject({ kind: 'refusal', reason: 'already_redeemed' });
  const unknown = await decider.decide(show(newCode(), clock.now));
  expect(unknown.verdict).toMatchObject({ kind: 'refusal', reason: 'invalid' });

  const batch = await decider.nextBatch(null);
  const message = LedgerMessage.parse(JSON.parse(Buffer.from(batch?.payload ?? []).toString()));
  expect(message).toMatchObject({ gate: GATE, epoch: first.row[0] });
  expect(message.entries.map((entry) => LedgerEntry.parse(entry).kind)).toEqual(['grant', 'passage', 'refusal', 'refusal']);
  expect(await decider.nextBatch([message.epoch, 4])).toBeNull();
  expect(
    await decider.acknowledge({ schema: 1, epochs: [{ epoch: message.epoch, upto_seq: 3, missing: [] }], cloud_time: '2026-06-01T18:00:00.000Z' }),
  ).toEqual({
    backlog: 1,
    ahead: false,
  });
  expect(await decider.status()).toMatchObject({ lastSeq: 4, backlog: 1, usageComplete: true, totals: { admissions: 1, refusals: 2, passages: 1 } });
});

test('nothing on the disk gives a code away', async () => {
  const codes = [newCode(), newCode()];
  const { decider, clock, folder } = await deciderWith(codes);
  for (const code of [...codes, newCode()]) await decider.decide(show(code, clock.now));
  const unknown = newCode();
  await decider.decide(show(unknown, clock.now));
  await decider.close();
  const files = readdirSync(join(folder, 'store'), { recursive: true })
    .map((name) => join(folder, 'store', String(name)))
    .filter((path) => statSync(path).isFile());
  expect(files.length).toBeGreaterThan(3);
  for (const path of files) {
    const bytes = readFileSync(path);
    for (const code of [...codes, unknown]) expect(bytes.includes(code)).toBe(false);
  }
});

test('given up while the disk was slow: what is granted after all is returned before the next decision', async () => {
  const [code, next] = [newCode(), newCode()];
  const { decider, clock } = await deciderWith([code, next]);
  const presentation = show(code, clock.now);
  const late = decider.decide(presentation);
  decider.abandon(presentation);
  const following = decider.decide(show(next, clock.now));
  await Promise.all([late, following]);
  expect((await decider.rows(null, 10)).map(({ entry }) => [entry.kind, entry['outcome']])).toEqual([
    ['grant', undefined],
    ['passage', 'returned'],
    ['grant', undefined],
  ]);
  clock.now += 60_000;
  expect((await decider.decide(show(code, clock.now))).verdict).toMatchObject({ kind: 'grant', type: 'first_entry' });
});

test('an unknown code at a gate that is online is asked of the cloud; offline, or without an answer in time, it is refused', async () => {
  const [sold, lost] = [newCode(), newCode()];
  const asked: string[] = [];
  const { decider, clock } = await deciderWith([newCode()], {
    lookup: async (refs) => {
      asked.push(...refs.map((ref) => ref.ticket_ref));
      if (refs[0]?.ticket_ref === refOf(lost)) return await new Promise(() => {});
      return [{ event_id: EVENT, overlay_version: 2, ticket: ticket(sold, { tier: 'late' }), usage: [] }];
    },
  });
  expect((await decider.decide(show(sold, clock.now))).verdict).toMatchObject({ kind: 'refusal', reason: 'invalid' });
  expect(await decider.decide(show(sold, clock.now, { online: true }))).toMatchObject({ ticketRef: refOf(sold), verdict: { kind: 'grant' } });
  expect((await decider.decide(show(lost, clock.now, { online: true }))).verdict).toMatchObject({ kind: 'refusal', reason: 'invalid' });
  expect(asked).toEqual([refOf(sold), refOf(lost)]);
});

test('a decision waits for the cloud as long as it is told to', async () => {
  const sold = newCode();
  // Later than the usual budget, sooner than this one.
  const answered = async () => {
    await new Promise((resolve) => setTimeout(resolve, 2 * LOOKUP_BUDGET_MS));
    return [{ event_id: EVENT, overlay_version: 2, ticket: ticket(sold), usage: [] }];
  };
  const { decider, clock } = await deciderWith([newCode()], { lookup: answered, lookupBudgetMs: 20_000 });
  expect((await decider.decide(show(sold, clock.now, { online: true }))).verdict).toMatchObject({ kind: 'grant', type: 'first_entry' });
});

test("an answer that comes too late is there for the guest's next try, online or not", async () => {
  const sold = newCode();
  const { promise, resolve } = Promise.withResolvers<LookupAnswer['tickets'] | null>();
  let asked = 0;
  const { decider, clock } = await deciderWith([newCode()], {
    lookup: () => {
      asked++;
      return promise;
    },
  });
  expect((await decider.decide(show(sold, clock.now, { online: true }))).verdict).toMatchObject({ kind: 'refusal', reason: 'invalid' });
  resolve([{ event_id: EVENT, overlay_version: 2, ticket: ticket(sold), usage: [] }]);
  await promise;
  clock.now += 5_000;
  expect(await decider.decide(show(sold, clock.now))).toMatchObject({ ticketRef: refOf(sold), verdict: { kind: 'grant', type: 'first_entry' } });
  clock.now += 20_000;
  expect((await decider.decide(show(sold, clock.now))).verdict).toMatchObject({ kind: 'refusal', reason: 'already_redeemed' });
  expect(asked).toBe(1);
});

test('a manifest is installed while guests are decided, and switched to between two of them', async () => {
  const codes = Array.from({ length: 40 }, newCode);
  const { decider, clock, signer, folder } = await deciderWith(codes);
  const { file, wanted } = await makeManifest(folder, signer, {
    version: 2,
    tickets: (function* () {
      for (const code of codes) yield ticket(code);
      for (let n = 0; n < 30_000; n++) yield ticket(`other-${n}`);
    })(),
  });
  let installed = false;
  const install = decider.installManifest(file, wanted).then((result) => {
    installed = true;
    return result;
  });
  const versions: unknown[] = [];
  for (let n = 0; !installed; n++) {
    const code = newCode();
    await decider.decide(show(n < codes.length ? (codes[n] ?? '') : code, clock.now));
    clock.now += 100;
    versions.push((await decider.status()).manifests[0]?.version);
  }
  expect(await install).toEqual({ ok: true, version: 2 });
  expect(versions.filter((version) => version === 1).length).toBeGreaterThan(3);
  expect((await decider.status()).manifests).toMatchObject([{ version: 2, tickets: 30_040 }]);
});

test('a store that cannot be opened, and a worker that dies, answer with a fault and its mend', async () => {
  const folder = storeFolder();
  endings.push(folder.remove);
  writeFileSync(join(folder.path, 'file'), '');
  const options = { gate: GATE, verifyKeys: [], clock: clockAt(1) };
  const blocked = createDeciderClient({ ...options, path: join(folder.path, 'file', 'store') });
  await expect(blocked.open()).rejects.toMatchObject({ fault: { operation: expect.stringContaining('make '), hint: expect.any(String) } });
  await blocked.close();
  const notices: string[] = [];
  const dying = createDeciderClient({
    ...options,
    path: folder.path,
    workerUrl: new URL('data:text/javascript,process.exit(3)'),
    notice: (_what, detail) => notices.push(detail),
  });
  await expect(dying.open()).rejects.toMatchObject({ code: 'DECIDER_GONE', fault: { healsItself: true } });
  expect(notices).toEqual([expect.stringContaining('ended with 3')]);
  await expect(dying.status()).rejects.toMatchObject({ code: 'DECIDER_GONE' });
  await dying.close();
});

test('a ledger that breaks while guests come: that call fails with its fault, the next finds a new epoch', async () => {
  const code = newCode();
  const { decider, clock, folder, notices } = await deciderWith([code]);
  for (let n = 0; n < 400; n++) await decider.record({ kind: 'clock', what: 'tick', detail: 'x'.repeat(300) });
  const before = await decider.status();
  await decider.close();
  const path = join(folder, 'store', 'ledger.sqlite');
  const pages = Math.floor(statSync(path).size / 4096);
  const file = openSync(path, 'r+');
  for (let page = Math.floor(pages / 3); page < Math.floor(pages / 2); page++) writeSync(file, Buffer.alloc(4096, 0x5a), 0, 4096, page * 4096);
  closeSync(file);
  await decider.open();
  let failed: unknown;
  for (let n = 0; n < 200 && failed === undefined; n++) {
    // What waits is read from the oldest row on: soon from a page that is broken.
    let after: RowPosition | null = null;
    try {
      for (let batch = await decider.nextBatch(after); batch !== null; batch = await decider.nextBatch(after)) after = [batch.epoch, batch.uptoSeq];
    } catch (error) {
      failed = error;
    }
    if (notices.some((notice) => notice.includes('set aside'))) break;
  }
  if (failed !== undefined) expect(failed).toMatchObject({ fault: { healsItself: true, hint: expect.stringContaining('set aside') } });
  const after = await decider.status();
  expect(after.epoch).toBeGreaterThan(before.epoch);
  expect(notices.join()).toContain('set aside as ledger.damaged-');
  expect(after.manifests).toMatchObject([{ version: 1 }]);
  await decider.caughtUp();
  expect((await decider.decide(show(code, clock.now))).verdict).toMatchObject({ kind: 'grant' });
});

test('a decider that gets ready for codes that never come writes nothing, and decides the next one as ever', async () => {
  const codes = [newCode(), newCode()];
  const { decider, clock } = await deciderWith(codes);
  decider.prepare?.();
  const before = await decider.status();
  for (let n = 0; n < 50; n++) {
    clock.now += 700;
    // Two at once: the second is one too many, and is not asked for.
    decider.prepare?.();
    decider.prepare?.();
    if (n % 10 === 0) await decider.status();
  }
  expect(await decider.status()).toMatchObject({ lastSeq: before.lastSeq, totals: before.totals, backlog: before.backlog, usageComplete: true });
  const asked = codes.map((code) => {
    clock.now += 700;
    decider.prepare?.();
    return decider.decide(show(code, clock.now));
  });
  expect((await Promise.all(asked)).map(({ verdict, row }) => [verdict.kind, row[1]])).toEqual([
    ['grant', before.lastSeq + 1],
    ['grant', before.lastSeq + 2],
  ]);
  decider.prepare?.();
  expect(await decider.rows(null, 500)).toHaveLength(before.lastSeq + 2);
});
