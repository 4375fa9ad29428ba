import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { LedgerEntry, LedgerMessage } from '../contract/ledger.ts';
import { createDesk, type DeskOptions } from './desk.ts';
import { BOOT_WALL_MS, createSigner, GATE, makeManifest, newCode, show, storeFolder, ticket } from './desk-fixture.ts';
import type { Clock, Desk } from './ports.ts';

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

async function deskWith(codes: readonly string[], options: Partial<DeskOptions> = {}) {
  const folder = storeFolder();
  endings.push(folder.remove);
  const signer = createSigner();
  const clock = clockAt(1_000);
  const notices: string[] = [];
  const desk: Desk = createDesk({
    path: join(folder.path, 'store'),
    gate: GATE,
    verifyKeys: [signer.publicKey],
    clock,
    notice: (what, detail) => {
      notices.push(`${what}: ${detail}`);
    },
    ...options,
  });
  endings.push(() => desk.close());
  await desk.open();
  const { file, wanted } = await makeManifest(folder.path, signer, { version: 1, tickets: codes.map((code) => ticket(code)) });
  expect(await desk.installManifest(file, wanted)).toEqual({ ok: true, version: 1 });
  return { desk, clock, signer, folder: folder.path, notices };
}

test('a guest is admitted once, and the rows wait for the cloud, well formed', async () => {
  const code = newCode();
  const { desk, clock } = await deskWith([code]);
  const first = await desk.decide(show(code, clock.now));
  expect(first.verdict).toMatchObject({ kind: 'grant', type: 'first_entry', units: 1 });
  expect(first.row).toEqual([expect.any(Number), 1]);
  await desk.record({ kind: 'passage', of: first.row, direction: 'in', unit: 1, outcome: 'passed' });
  clock.now += 60_000;
  const second = await desk.decide(show(code, clock.now));
  expect(second.verdict).toMatchObject({ kind: 'refusal', reason: 'already_redeemed' });
  const unknown = await desk.decide(show(newCode(), clock.now));
  expect(unknown.verdict).toMatchObject({ kind: 'refusal', reason: 'invalid' });

  const batch = await desk.nextBatch(null);
  const message = LedgerMessage.parse(JSON.parse(Buffer.from(batch?.payload ?? []).toString()));
  expect(message).toMatchObject({ gate: GATE, epoch: first.row[0] });
  expect(message.entries.map((entry) => LedgerEntry.parse(entry).kind)).toEqual(['grant', 'passage', 'refusal', 'refusal']);
  expect(await desk.nextBatch([message.epoch, 4])).toBeNull();
  expect(await desk.acknowledge({ schema: 1, epochs: [{ epoch: message.epoch, upto_seq: 3, missing: [] }], cloud_time: '2026-06-01T18:00:00.000Z' })).toEqual({
    backlog: 1,
    ahead: false,
  });
  expect(await desk.status()).toMatchObject({ lastSeq: 4, backlog: 1, usageComplete: true, totals: { admissions: 1, refusals: 2, passages: 1 } });
});

test('nothing on the disk gives a code away', async () => {
  const codes = [newCode(), newCode()];
  const { desk, clock, folder } = await deskWith(codes);
  for (const code of [...codes, newCode()]) await desk.decide(show(code, clock.now));
  const unknown = newCode();
  await desk.decide(show(unknown, clock.now));
  await desk.close();
  const files = readdirSync(join(folder, 'store'), { recursive: true })
    .map((name) => join(folder, 'store', String(name)))
    .filter((path) => statSync(path).isFile());
  expect(files.length).toBeGreaterThan(3);
  for (const path of files) {
    const bytes = readFileSync(path);
    for (const code of [...codes, unknown]) expect(bytes.includes(code)).toBe(false);
  }
});
