import { sign } from 'node:crypto';
import fs, { closeSync, openSync, readdirSync, readFileSync, readlinkSync, rmSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { basename, join } from 'node:path';
import { expect, test } from 'vitest';
import type { LedgerVector } from '../../contract/ids.ts';
import { encodeSigned } from '../../rules/stile-code.ts';
import type { Decision } from '../ports.ts';
import type { Stamp } from '../store/ledger.ts';
import type { StoreError } from '../store/sqlite.ts';
import { parseCloudAnswer } from './cloud-answer.ts';
import { openDeciderEngine } from './decider.ts';
import { createLateAnswerCache, LATE_ANSWER_MS, MAX_LATE_ANSWERS } from './late-answer-cache.ts';
import type { CloudTicket } from './resolve-ticket.ts';
import { ack, endings, reasonOf, setUp } from './testing/engine.ts';
import {
  BOOT_WALL_MS,
  createSigner,
  EVENT,
  GATE,
  type ManifestSpec,
  makeManifest,
  makeOverlay,
  newCode,
  PEER,
  peerMessage,
  refOf,
  show,
  stampAt,
  storeFolder,
  ticket,
} from './testing/store.ts';

test('without a manifest every code is refused, and rubbish is unreadable', async () => {
  const { decider } = await setUp(null);
  expect(reasonOf(decider.decide(newCode()))).toBe('manifest_stale');
  expect(reasonOf(decider.decide('\u0000\u0001'))).toBe('unreadable');
  expect(decider.rows().map((row) => row.kind)).toEqual(['refusal', 'refusal']);
});

test('returned gives the ticket back, passed uses it up; the duplicate window stands before re-entry', async () => {
  const [code, vip] = [newCode(), newCode()];
  const { decider } = await setUp({
    tickets: [ticket(code), ticket(vip, { vip: true })],
    policies: { event: { reentry: { rule: 'always' }, duplicate_window_s: 30 } },
  });
  const first = decider.decide(code);
  expect(reasonOf(first)).toBe('first_entry');
  decider.passed(first, 'returned');
  decider.nowMs += 1_000;
  const second = decider.decide(code);
  expect(reasonOf(second)).toBe('first_entry');
  decider.passed(second);
  decider.nowMs += 10_000;
  expect(reasonOf(decider.decide(code))).toBe('gap');
  decider.nowMs += 30_000;
  expect(reasonOf(decider.decide(code))).toBe('reentry');
  const entered = decider.decide(vip);
  expect(entered.verdict).toMatchObject({ kind: 'grant', type: 'first_entry', vip: true });
  expect(entered.lastEntry).toBeUndefined();
  decider.nowMs += 60_000;
  // 18:00:41 UTC at the boot's wall time; the venue's clocks are in Berlin.
  expect(decider.decide(vip)).toMatchObject({ verdict: { type: 'reentry', vip: true }, lastEntry: '20:00' });
});

test('every row stands the contract, with offset, latency and what was seen of the others', async () => {
  const [code, other] = [newCode(), newCode()];
  const { decider } = await setUp({ tickets: [ticket(code), ticket(other)] });
  decider.core.applyPeer(peerMessage(PEER, 50, [{ seq: 1, kind: 'clock', what: 'x', detail: 'y' }]));
  const decision = decider.core.decide(1, show(code, decider.nowMs, { lastByteMs: decider.nowMs - 7, online: true }), decider.stamp(), () => 250) as Decision;
  decider.core.record({ kind: 'passage', of: decision.row, direction: 'in', unit: 1, outcome: 'passed' }, decider.stamp());
  decider.core.record({ kind: 'passage', of: null, direction: 'out', unit: null, outcome: 'forced' }, decider.stamp());
  decider.core.record({ kind: 'refusal', reason: 'busy', direction: 'in' }, decider.stamp({ offset: null }));
  decider.core.record({ kind: 'override', actor: 'button', action: 'open', reason: 'staff button', direction: 'in', units: 1 }, decider.stamp());
  decider.core.record(
    { kind: 'mode', direction: 'in', from: 'controlled', to: 'free', actor: 'op-1', reason: 'crowd', until: '2026-06-01T20:00:00.000Z' },
    decider.stamp(),
  );
  decider.core.record({ kind: 'fault', what: 'w'.repeat(100), detail: 'd'.repeat(1_000) }, decider.stamp());
  decider.decide(other);
  const rows = decider.rows();
  expect(rows.map((row) => row.kind)).toEqual(['grant', 'passage', 'passage', 'refusal', 'override', 'mode', 'fault', 'grant']);
  expect(rows[0]).toMatchObject({
    ticket_ref: refOf(code),
    latency_us: 7_250,
    seen: { [PEER]: [50, 1] },
    online: true,
    manifest_version: 1,
    clock_offset_ms: BOOT_WALL_MS,
    clock_bound_ms: 5,
    boottime_ms: 1_000,
  });
  expect(rows[1]).toMatchObject({ of: [...(decision.row ?? []), rows[0]?.hash], event_id: EVENT, ticket_ref: refOf(code), unit: 1 });
  expect(rows[2]).not.toHaveProperty('of');
  expect(rows[3]).not.toHaveProperty('clock_offset_ms');
  expect(rows[7]).toMatchObject({ seen: {} });
  expect(decider.core.status(decider.stamp()).modes).toEqual({
    in: { mode: 'free', untilMs: Date.parse('2026-06-01T20:00:00.000Z'), from: 'controlled' },
    out: { mode: 'controlled', untilMs: null },
  });
  expect(decider.core.status(stampAt(3 * 3_600_000)).modes.in).toEqual({ mode: 'controlled', untilMs: null });
});

test("used at a peer: known within the message, counted once, and given back by the peer's return", async () => {
  const code = newCode();
  const { decider } = await setUp({ tickets: [ticket(code)] });
  const about = { event_id: EVENT, ticket_id: ticket(code).ticket_id, ticket_ref: refOf(code), direction: 'in' };
  const grant = peerMessage(PEER, 50, [{ seq: 1, kind: 'grant', ...about, type: 'first_entry', units: 1 }]);
  expect(decider.core.applyPeer(grant)).toEqual({ applied: 1, gap: false });
  expect(decider.core.applyPeer(grant)).toEqual({ applied: 0, gap: false });
  decider.nowMs += 60_000;
  const refused = decider.decide(code);
  expect(refused.verdict).toMatchObject({ kind: 'refusal', reason: 'already_redeemed', facts: { used_gate: 'north-02' } });
  decider.core.applyPeer(peerMessage(PEER, 50, [{ seq: 2, kind: 'passage', of: [50, 1], ...about, unit: 1, outcome: 'returned' }]));
  expect(reasonOf(decider.decide(code))).toBe('first_entry');
  expect(decider.core.applyPeer(peerMessage('elsewhere/north-02', 50, [{ seq: 9, kind: 'clock' }]))).toEqual({ applied: 0, gap: false });
  expect(decider.core.applyPeer({ ledger: PEER, payload: Buffer.from('rubbish') })).toEqual({ applied: 0, gap: false });
});

test("what only the cloud may say counts from the cloud's ledger alone, whatever a gate's rows and messages claim (T16)", async () => {
  const code = newCode();
  const { decider } = await setUp({ tickets: [ticket(code)] });
  const about = { event_id: EVENT, ticket_id: ticket(code).ticket_id, ticket_ref: refOf(code), direction: 'in' };
  const mine = decider.decide(code);
  decider.passed(mine);
  decider.nowMs += 60_000;
  const stolen = 'arena/stolen';
  const settled = { kind: 'settlement', of: [GATE, ...mine.row], outcome: 'returned', actor: 'op-1', reason: 'not inside', ...about };
  const verdict = { kind: 'conflict', of: [GATE, ...mine.row], verdict: 'excess', cause: 'already_redeemed', ...about };
  // In its own ledger, in words that only look like the cloud's, and in a message on its own topic that says it is of the cloud, or of another gate.
  expect(
    decider.core.applyPeer(
      peerMessage(stolen, 9, [
        { seq: 1, ...settled },
        { seq: 2, ...verdict },
        { seq: 3, ...settled, kind: 'settled' },
      ]),
    ),
  ).toEqual({
    applied: 3,
    gap: false,
  });
  for (const claimed of ['arena/cloud', PEER])
    expect(
      decider.core.applyPeer({
        ...peerMessage(claimed, 9, [
          { seq: 1, ...settled },
          { seq: 2, ...verdict },
        ]),
        ledger: stolen,
      }),
    ).toEqual({
      applied: 0,
      gap: false,
    });
  decider.core.applyPeer(peerMessage('arena/cloud-2', 9, [{ seq: 1, ...settled }]));
  expect(reasonOf(decider.decide(code))).toBe('already_redeemed');
  expect(decider.core.status(decider.stamp()).conflicts).toMatchObject({ standing: 0, newest: [] });
  expect(Object.keys(decider.core.vector())).not.toContain('arena/cloud');
  // The cloud itself is heard.
  decider.core.applyPeer(
    peerMessage('arena/cloud', 9, [
      { seq: 1, ...verdict },
      { seq: 2, ...settled },
    ]),
  );
  expect(decider.core.status(decider.stamp()).conflicts).toMatchObject({ standing: 1 });
  expect(reasonOf(decider.decide(code))).toBe('first_entry');
});

test('a row that says what no database holds is a row all the same: taken, counted, and asked for once', async () => {
  const code = newCode();
  const { decider } = await setUp({ tickets: [ticket(code)] });
  const about = { event_id: EVENT, ticket_id: 'x', ticket_ref: refOf(code), direction: 'in' };
  const rows = [
    { seq: 1, kind: 'refusal', reason: 'invalid', explanation: 'with U+0000: \0' },
    { seq: 2, kind: 'fault', what: 'reader', detail: 'half a pair: \ud800' },
    { seq: 3, kind: 'grant', ...about, type: 'first_entry', units: 1, note: '\0' },
  ];
  expect(decider.core.applyPeer(peerMessage(PEER, 50, rows))).toEqual({ applied: 3, gap: false });
  expect(decider.core.vector()[PEER]).toEqual([50, 3]);
  decider.nowMs += 60_000;
  expect(decider.decide(code).verdict).toMatchObject({ kind: 'refusal', reason: 'already_redeemed' });
  // One without a readable key has no place in the sequence: those beside it have theirs.
  expect(decider.core.applyPeer(peerMessage(PEER, 50, [{ seq: 4, kind: 'clock' }, { kind: 'clock' }, { seq: 5, kind: 'clock' }]))).toEqual({
    applied: 2,
    gap: false,
  });
  expect(decider.core.vector()[PEER]).toEqual([50, 5]);
});

test("the cloud's verdict on an own grant is kept and told in a refusal's words, until it is withdrawn", async () => {
  const [code, other] = [newCode(), newCode()];
  const { decider } = await setUp({ tickets: [ticket(code), ticket(other)] });
  const about = { event_id: EVENT, ticket_id: ticket(code).ticket_id, ticket_ref: refOf(code), direction: 'in' };
  const mine = decider.decide(code);
  const theirs = decider.decide(other);
  const { epoch } = decider.core.status(decider.stamp());
  const winner = [PEER, 50, 1] as const;
  decider.core.applyPeer(
    peerMessage(PEER, 50, [
      { seq: 1, kind: 'grant', ...about, type: 'first_entry', units: 1, boottime_ms: 0, ts: new Date(BOOT_WALL_MS - 60_000).toISOString() },
    ]),
  );
  const verdict = (seq: number, of: readonly [number, number], change: Record<string, unknown> = {}) =>
    decider.core.applyPeer(
      peerMessage('arena/cloud', 7, [{ seq, kind: 'conflict', of: [GATE, ...of], verdict: 'excess', cause: 'already_redeemed', ...about, winner, ...change }]),
    );
  verdict(1, mine.row);
  const told = () => decider.core.status(decider.stamp()).conflicts;
  expect(told()).toMatchObject({
    standing: 1,
    newest: [
      {
        verdictRow: [7, 1],
        row: [epoch, 1],
        cause: 'already_redeemed',
        ticketId: about.ticket_id,
        words: "who was admitted at 20:00 was beyond the ticket's right: already used at 19:59, gate north-02",
      },
    ],
  });
  expect(decider.core.rows(null, 10)).toMatchObject([{ conflict: expect.stringContaining('already used at 19:59') }, {}]);
  expect(decider.core.rows(null, 10)[1]).not.toHaveProperty('conflict');
  // Again, an older word, one about another gate, one whose winner was never read here, one that no table knows.
  verdict(1, mine.row, { verdict: 'withdrawn' });
  verdict(2, theirs.row, { ...about, ticket_ref: refOf(other), winner: [PEER, 50, 9], cause: 'max_entries' });
  verdict(3, [epoch, 99], { of: [PEER, 50, 1] });
  expect(told()?.newest.map(({ words }) => words)).toEqual([
    expect.stringContaining('already used at 19:59'),
    "who was admitted at 20:00 was beyond the ticket's right: no entries left, first at gate north-02",
  ]);
  await decider.core.close();
  await decider.open();
  expect(told()?.standing).toBe(2);
  verdict(4, mine.row, { verdict: 'withdrawn' });
  expect(told()).toMatchObject({
    standing: 1,
    newest: [{}, { verdictRow: [7, 4], verdict: 'withdrawn', words: "who was admitted at 20:00 was within the ticket's right after all" }],
  });
  expect(decider.core.rows(null, 10)[0]).not.toHaveProperty('conflict');
});

test("a gap in a peer's ledger makes usage incomplete until it is filled or the cloud has no more", async () => {
  const code = newCode();
  const { decider } = await setUp({ tickets: [ticket(code)], upto: { [PEER]: [50, 10] }, policies: { event: { usage_lost: 'refuse' } } });
  expect(decider.core.applyPeer(peerMessage(PEER, 50, [{ seq: 13, kind: 'clock', what: 'a', detail: '' }]))).toEqual({ applied: 1, gap: true });
  expect(decider.core.vector()).toEqual({ [PEER]: [50, 10] });
  expect(reasonOf(decider.decide(code))).toBe('usage_lost');
  decider.core.applyPeer(
    peerMessage(
      PEER,
      50,
      [11, 12, 13].map((seq) => ({ seq, kind: 'clock' })),
    ),
  );
  expect(decider.core.status(decider.stamp()).usageComplete).toBe(true);
  decider.core.applyPeer(peerMessage(PEER, 50, [{ seq: 15, kind: 'clock' }]));
  decider.core.caughtUp();
  expect(decider.core.status(decider.stamp()).usageComplete).toBe(true);
  expect(reasonOf(decider.decide(code))).toBe('first_entry');
});

test('what was caught up is on the disk before the ledger says that it is', async () => {
  const { decider } = await setUp({ tickets: [ticket(newCode())] });
  decider.core.applyPeer(peerMessage(PEER, 50, [{ seq: 1, kind: 'clock' }]));
  const real = fs.fdatasyncSync;
  const synced: string[] = [];
  fs.fdatasyncSync = (fd) => {
    real(fd);
    synced.push(basename(readlinkSync(`/proc/self/fd/${fd}`)));
  };
  syncBuiltinESMExports();
  endings.push(() => {
    fs.fdatasyncSync = real;
    syncBuiltinESMExports();
  });
  decider.core.caughtUp();
  expect(synced).toEqual(['usage.sqlite-wal']);
});

test('an overlay takes the right away, gives a new one, and tells the guest of the old code', async () => {
  const [code, old, fresh] = [newCode(), newCode(), newCode()];
  const { decider, signer } = await setUp({ tickets: [ticket(code), ticket(old)] });
  const overlay = makeOverlay(signer, 1, 2, [
    ticket(code, { status: 'canceled' }),
    { ticket_ref: refOf(old), ticket_id: null, removed: true, reason: 'revoked' },
    ticket(fresh),
  ]);
  expect(decider.core.applyOverlay(overlay, decider.stamp())).toEqual({ ok: true, version: 2 });
  expect([code, old, fresh].map((one) => reasonOf(decider.decide(one)))).toEqual(['canceled', 'revoked', 'first_entry']);
  expect(decider.rows().at(-1)).toMatchObject({ manifest_version: 2 });
});

test('K7: a code that fits two events is for the one whose doors are open; where two would admit, one is chosen and that is flagged, or refused by policy', async () => {
  const codes = Array.from({ length: 3 }, newCode) as [string, string, string];
  const { decider } = await setUp({ tickets: codes.map((code) => ticket(code)) });
  const other = (version: number, more: Partial<ManifestSpec>) =>
    decider.install({ eventId: 'matinee', version, tickets: codes.map((code) => ticket(code)), ...more });
  // Over since last week; it has no end, so that only its default closes it.
  await other(1, { beginsMs: BOOT_WALL_MS - 7 * 24 * 3_600_000, endless: true });
  expect(decider.decide(codes[0])).toMatchObject({ eventId: EVENT, verdict: { kind: 'grant', flags: [] } });
  await other(2, { beginsMs: BOOT_WALL_MS + 500 });
  expect(decider.decide(codes[1])).toMatchObject({ eventId: 'matinee', verdict: { kind: 'grant', flags: ['chosen_of_several'] } });
  expect(decider.rows().at(-1)).toMatchObject({ kind: 'grant', event_id: 'matinee', flags: ['chosen_of_several'] });
  await other(3, { beginsMs: BOOT_WALL_MS + 500, policies: { event: { ambiguous: 'refuse' } } });
  expect(reasonOf(decider.decide(codes[2]))).toBe('ambiguous');
});

test('signed codes: by key, then by ticket id; sold after the last sync they still work; a bare id opens nothing', async () => {
  const codeKey = createSigner('c1', 'code');
  const stranger = createSigner('c1', 'code');
  const make = (ticketId: string, key = codeKey) => {
    const { bytes, assemble } = encodeSigned({ keyId: 'c1', eventId: EVENT, ticketId, tier: 'standard', zone: null, validFromMs: null, validUntilMs: null });
    return assemble(sign(null, bytes, key.privateKey));
  };
  const { decider, signer } = await setUp({ tickets: [ticket('known-ticket', { ticket_id: 'known-ticket' })], keys: [codeKey.publicKey] });
  expect(decider.decide(make('known-ticket'))).toMatchObject({ medium: 'signed', ticketId: 'known-ticket', verdict: { kind: 'grant', flags: [] } });
  expect(decider.decide(make('sold-later'))).toMatchObject({ medium: 'signed', ticketId: 'sold-later', verdict: { kind: 'grant', flags: ['signature_only'] } });
  decider.nowMs += 60_000;
  expect(reasonOf(decider.decide(make('sold-later')))).toBe('already_redeemed');
  expect(reasonOf(decider.decide(make('forged', stranger)))).toBe('invalid');
  expect(reasonOf(decider.decide('known-ticket'))).toBe('invalid');
  decider.core.applyOverlay(
    makeOverlay(signer, 1, 2, [{ ticket_ref: refOf('returned-later'), ticket_id: 'returned-later', removed: true, reason: 'canceled' }]),
    decider.stamp(),
  );
  expect(reasonOf(decider.decide(make('returned-later')))).toBe('canceled');
});

test('marks of a scanner before a code are taken off, and a listed code that begins like one opens as it is (L3)', async () => {
  const codeKey = createSigner('c1', 'code');
  const [plain, aim, both, bracket, gone] = [newCode(), newCode(), newCode(), `]Q1${newCode()}`, newCode()];
  const { decider, signer } = await setUp({ tickets: [plain, aim, both, bracket, gone].map((code) => ticket(code)), keys: [codeKey.publicKey] });
  const { bytes, assemble } = encodeSigned({
    keyId: 'c1',
    eventId: EVENT,
    ticketId: 's1',
    tier: 'standard',
    zone: null,
    validFromMs: null,
    validUntilMs: null,
  });
  const signed = assemble(sign(null, bytes, codeKey.privateKey));
  const shown = (frame: string, code: string) => {
    expect(decider.decide(frame)).toMatchObject({ ticketRef: refOf(code), verdict: { kind: 'grant', type: 'first_entry' } });
    decider.nowMs += 60_000;
    expect(reasonOf(decider.decide(code))).toBe('already_redeemed');
    decider.nowMs += 60_000;
  };
  shown(`\\000026${plain}`, plain);
  shown(`]d2${aim}`, aim);
  shown(`]Q2\\000026${both}`, both);
  shown(bracket, bracket);
  expect(decider.decide(`]Q1${signed}`)).toMatchObject({ ticketId: 's1', medium: 'signed', verdict: { kind: 'grant' } });
  // What a signature alone opens does not open without it, behind a mark no more than bare.
  expect(reasonOf(decider.decide(']Q1s1'))).toBe('invalid');
  decider.core.applyOverlay(makeOverlay(signer, 1, 2, [{ ticket_ref: refOf(gone), ticket_id: null, removed: true, reason: 'revoked' }]), decider.stamp());
  expect(reasonOf(decider.decide(`]C0${gone}`))).toBe('revoked');
});

test('the cloud is asked for a code with its marks and without them (L3)', async () => {
  const { decider } = await setUp({ policies: { event: { unknown: 'ask' } } });
  const code = newCode();
  const question = decider.core.decide(++decider.ids, show(`]Q1${code}`, decider.nowMs, { online: true }), decider.stamp(), () => 0, 'may_ask');
  expect(question).toEqual({ ask: [`]Q1${code}`, code].map((text) => ({ event_id: EVENT, ticket_ref: refOf(text) })) });
});

test('where codes are signed, a bare ticket id opens nothing either when the cloud knows the ticket; a revoked key signs nothing any more', async () => {
  const codeKey = createSigner('c1', 'code');
  const { bytes, assemble } = encodeSigned({
    keyId: 'c1',
    eventId: EVENT,
    ticketId: 't9',
    tier: 'standard',
    zone: null,
    validFromMs: null,
    validUntilMs: null,
  });
  const code = assemble(sign(null, bytes, codeKey.privateKey));
  const { decider } = await setUp({ tickets: [ticket(newCode())], keys: [{ ...codeKey.publicKey, revoked: true }] });
  expect(reasonOf(decider.decide(code))).toBe('invalid');
  const found = {
    eventId: EVENT,
    ticketId: 't9',
    ticketRef: refOf('t9'),
    tier: 'standard',
    zone: null,
    status: 'valid' as const,
    maxScans: null,
    units: 1,
    validFromMs: null,
    validUntilMs: null,
    vip: false,
    note: null,
    source: 'cloud' as const,
  };
  const asked = decider.core.decide(1, show('t9', decider.nowMs, { online: true }), decider.stamp(), () => 0, [
    { eventId: EVENT, ticketRef: refOf('t9'), found, usage: [] },
  ]) as Decision;
  expect(reasonOf(asked)).toBe('invalid');
});

test('the cloud is asked before an unknown code is decided, and its answer is facts', async () => {
  const { decider } = await setUp({ tickets: [ticket(newCode())] });
  const code = newCode();
  const presentation = show(code, decider.nowMs, { online: true });
  const question = decider.core.decide(1, presentation, decider.stamp(), () => 0, 'may_ask');
  expect(question).toEqual({ ask: [{ event_id: EVENT, ticket_ref: refOf(code) }] });
  expect(decider.rows()).toEqual([]);
  const ticketFacts = {
    eventId: EVENT,
    ticketId: 't9',
    ticketRef: refOf(code),
    tier: 'standard',
    zone: null,
    status: 'valid' as const,
    maxScans: null,
    units: 1,
    validFromMs: null,
    validUntilMs: null,
    vip: false,
    note: null,
    source: 'cloud' as const,
  };
  const answer = (usage: CloudTicket['usage']) => [{ eventId: EVENT, ticketRef: refOf(code), found: ticketFacts, usage }];
  const used = decider.core.decide(
    2,
    presentation,
    decider.stamp(),
    () => 0,
    answer([{ gate: PEER, epoch: 50, seq: 4, atMs: BOOT_WALL_MS, direction: 'in', units: 1, outcome: 'passed' }]),
  ) as Decision;
  expect(reasonOf(used)).toBe('already_redeemed');
  expect(reasonOf(decider.core.decide(3, presentation, decider.stamp(), () => 0, answer([])) as Decision)).toBe('first_entry');
  expect(reasonOf(decider.core.decide(4, show(newCode(), decider.nowMs), decider.stamp(), () => 0, []) as Decision)).toBe('invalid');
});

test('a late answer is no more than an answer: a manifest or a change of rights goes before it, and it does not last', async () => {
  const { decider, signer } = await setUp({ tickets: [] });
  const [code, revoked] = [newCode(), newCode()];
  const asked = (of: string, found: Partial<CloudTicket> = {}): CloudTicket => ({
    ...(parseCloudAnswer([{ event_id: EVENT, overlay_version: 1, ticket: ticket(of), usage: [] }])[0] as CloudTicket),
    ...found,
  });
  const verdicts = (...codes: string[]) => codes.map((one) => reasonOf(decider.decide(one)));

  decider.core.remember([asked(code, { found: 'canceled' }), asked(revoked)], decider.stamp());
  expect(verdicts(code, revoked)).toEqual(['canceled', 'first_entry']);
  // After its time the code is unknown again.
  decider.nowMs += LATE_ANSWER_MS;
  expect(verdicts(code, revoked)).toEqual(['invalid', 'invalid']);
  // A change of rights goes before what was answered, and forgets the rest.
  decider.core.remember([asked(code), asked(revoked)], decider.stamp());
  expect(
    decider.core.applyOverlay(makeOverlay(signer, 1, 2, [{ ticket_ref: refOf(revoked), ticket_id: null, removed: true, reason: 'revoked' }]), decider.stamp()),
  ).toMatchObject({
    ok: true,
  });
  expect(verdicts(code, revoked)).toEqual(['invalid', 'revoked']);
  decider.core.remember([asked(revoked)], decider.stamp());
  expect(verdicts(revoked)).toEqual(['revoked']);
  // An event that must not be asked for has no answers either.
  await decider.install({ version: 3, tickets: [], policies: { event: { unknown: 'refuse' } } });
  decider.core.remember([asked(code)], decider.stamp());
  expect(verdicts(code)).toEqual(['invalid']);
});

test('of late answers the oldest give way', () => {
  const late = createLateAnswerCache();
  const answers = Array.from({ length: MAX_LATE_ANSWERS + 1 }, (_, n): CloudTicket => ({ eventId: EVENT, ticketRef: `r${n}`, found: 'revoked', usage: [] }));
  late.keep(answers, 0);
  expect([late.find(EVENT, 'r0', 1), late.find(EVENT, 'r1', 1), late.find('other', 'r1', 1)]).toEqual([null, answers[1], null]);
});

test('abandoned, then granted after all: returned before the next decision', async () => {
  const [code, next] = [newCode(), newCode()];
  const { decider } = await setUp({ tickets: [ticket(code, { units: 2 }), ticket(next)] });
  const granted = decider.decide(code);
  decider.core.abandon(decider.ids, decider.stamp());
  decider.core.abandon(decider.ids, decider.stamp());
  decider.decide(next);
  expect(decider.rows().map((row) => [row.kind, 'outcome' in row ? row.outcome : null])).toEqual([
    ['grant', null],
    ['passage', 'returned'],
    ['passage', 'returned'],
    ['grant', null],
  ]);
  expect(decider.rows()[1]).toMatchObject({ of: [...(granted.row ?? []), decider.rows()[0]?.hash], ticket_ref: refOf(code), unit: 1 });
  expect(reasonOf(decider.decide(code))).toBe('first_entry');
});

test('after a restart: grants and overrides without an outcome become unknown, once, and count as used', async () => {
  const [open, done, party] = [newCode(), newCode(), newCode()];
  const { decider } = await setUp({ tickets: [ticket(open), ticket(done), ticket(party, { units: 2 })] });
  decider.passed(decider.decide(done));
  decider.decide(open);
  const group = decider.decide(party);
  decider.passed(group);
  decider.core.record({ kind: 'override', actor: 'button', action: 'open', reason: 'x', direction: 'out', units: 1 }, decider.stamp());
  decider.core.record({ kind: 'override', actor: 'op', action: 'mode', reason: 'no release' }, decider.stamp());
  for (let restart = 0; restart < 2; restart++) {
    decider.core.close();
    decider.nowMs += 60_000;
    await decider.open();
    const unknown = decider.rows().filter((row) => row.kind === 'passage' && row.outcome === 'unknown');
    expect(unknown.map((row) => [row['unit'], row['direction'], row['ticket_ref']])).toEqual([
      [1, 'in', refOf(open)],
      [2, 'in', refOf(party)],
      [1, 'out', undefined],
    ]);
  }
  decider.nowMs += 600_000;
  expect(reasonOf(decider.decide(open))).toBe('already_redeemed');
  expect(decider.core.status(decider.stamp())).toMatchObject({ usageComplete: true, manifests: [{ version: 1, tickets: 3 }] });
});

test('after a restart the same ticket at the same lane is returned once, flagged, and decided anew (unknown_passage: retry_here)', async () => {
  const code = newCode();
  const { decider } = await setUp({ tickets: [ticket(code)] });
  const restart = async () => {
    decider.core.close();
    decider.nowMs += 60_000;
    await decider.open();
  };
  decider.decide(code);
  await restart();
  const again = decider.decide(code);
  expect([reasonOf(again), again.verdict.kind === 'grant' && again.verdict.flags]).toEqual(['first_entry', ['unverified']]);
  const outcomes = () => decider.rows().flatMap((row) => (row.kind === 'passage' ? [[row.outcome, row['flags']]] : []));
  expect(outcomes()).toEqual([
    ['unknown', undefined],
    ['returned', ['unverified']],
  ]);
  await restart();
  expect(reasonOf(decider.decide(code))).toBe('already_redeemed');
});

test.each([
  ['used', { event: { unknown_passage: 'used' as const } }, false],
  ['retry_here, but a peer knows an entry', undefined, true],
])('after a restart an unknown passage stays used: %s', async (_, policies, seenElsewhere) => {
  const code = newCode();
  const { decider } = await setUp({ tickets: [ticket(code)], ...(policies === undefined ? {} : { policies }) });
  decider.decide(code);
  decider.core.close();
  decider.nowMs += 60_000;
  await decider.open();
  const entry = { kind: 'grant', event_id: EVENT, ticket_id: 't', ticket_ref: refOf(code), direction: 'in', type: 'first_entry', units: 1 };
  if (seenElsewhere) decider.core.applyPeer(peerMessage(PEER, 50, [{ seq: 1, ...entry }]));
  expect(reasonOf(decider.decide(code))).toBe('already_redeemed');
});

test('with usage lost the cloud is asked for a known ticket, and its answer is the whole usage (usage_lost: ask)', async () => {
  const code = newCode();
  const { decider } = await setUp({ tickets: [ticket(code)], upto: { [PEER]: [50, 10] } });
  const online = show(code, decider.nowMs, { online: true });
  const decide = (answer: 'may_ask' | readonly CloudTicket[]) => decider.core.decide(++decider.ids, online, decider.stamp(), () => 0, answer);
  decider.core.applyPeer(peerMessage(PEER, 50, [{ seq: 13, kind: 'clock', what: 'a', detail: '' }]));
  expect(decider.core.status(decider.stamp()).usageComplete).toBe(false);
  expect(decide('may_ask')).toEqual({ ask: [{ event_id: EVENT, ticket_ref: refOf(code) }] });
  const found = { ...TICKET_FACTS, ticketRef: refOf(code) };
  const used = [{ gate: PEER, epoch: 50, seq: 12, atMs: BOOT_WALL_MS, direction: 'in' as const, units: 1, outcome: 'passed' as const }];
  expect(reasonOf(decide([{ eventId: EVENT, ticketRef: refOf(code), found, usage: used }]) as Decision)).toBe('already_redeemed');
  const unanswered = decide([]) as Decision;
  expect(unanswered.verdict).toMatchObject({ kind: 'grant', flags: ['usage_lost'] });
  // An own row knows of an entry now.
  expect(reasonOf(decide([]) as Decision)).toBe('already_redeemed');
});

/** Facts of the cloud on a ticket. */
const TICKET_FACTS = {
  eventId: EVENT,
  ticketId: 't9',
  tier: 'standard',
  zone: null,
  status: 'valid' as const,
  maxScans: null,
  units: 1,
  validFromMs: null,
  validUntilMs: null,
  vip: false,
  note: null,
  source: 'cloud' as const,
};

test('what must survive a restart does: the fire latch, requests carried out, the outbox, what was acknowledged', async () => {
  const { decider } = await setUp({ tickets: [] });
  for (let n = 0; n < 10; n++) decider.core.record({ kind: 'clock', what: 'tick', detail: `${n}` }, decider.stamp());
  decider.core.setFireLatch(true);
  expect(decider.core.rememberTransaction('abcdefgh', BOOT_WALL_MS + 60_000, decider.stamp())).toBe(true);
  const { epoch } = decider.core.status(decider.stamp());
  expect(decider.core.acknowledge(ack(epoch, 4, [[6, 7]]), decider.stamp())).toEqual({ backlog: 6, ahead: false });
  expect(decider.core.acknowledge(ack(epoch, 2), decider.stamp())).toEqual({ backlog: 6, ahead: false });
  decider.core.close();
  await decider.open();
  expect(decider.core.status(decider.stamp())).toMatchObject({ fireLatched: true, backlog: 6, epoch, lastRowMs: BOOT_WALL_MS + 1_000 });
  expect(decider.core.rememberTransaction('abcdefgh', BOOT_WALL_MS + 60_000, decider.stamp())).toBe(false);
  expect(decider.core.rememberTransaction('abcdefgh', BOOT_WALL_MS + 60_000, stampAt(61_000))).toBe(true);
  decider.core.setFireLatch(false);
  expect(decider.core.status(decider.stamp()).fireLatched).toBe(false);
  expect(decider.core.nextBatch(null)).toMatchObject({ epoch, fromSeq: 5, uptoSeq: 10 });
  decider.core.resend([epoch, 3]);
  expect(decider.core.nextBatch(null)).toMatchObject({ fromSeq: 3, uptoSeq: 10 });
  expect(decider.core.acknowledge(ack(epoch, 10), decider.stamp())).toEqual({ backlog: 0, ahead: false });
  expect(decider.core.nextBatch(null)).toBeNull();
});

/** Overwrites pages of a database file in its middle, as a dying card does. */
function tear(path: string, from: number, bytes: number): void {
  const file = openSync(path, 'r+');
  writeSync(file, Buffer.alloc(bytes, 0xa5), 0, bytes, from);
  closeSync(file);
}

test('only rows whose time was trusted say what time it was before; an untrusted clock makes no row old and no request forgotten (T3)', async () => {
  const { decider } = await setUp();
  const note = (at: Partial<Stamp>) => decider.core.record({ kind: 'fault', what: 'x', detail: 'y' }, decider.stamp(at));
  const reopened = async () => {
    decider.core.close();
    await decider.open();
    return decider.core.status(decider.stamp()).lastRowMs;
  };
  const ahead = { wallMs: Date.UTC(2036, 0, 1), offset: null, trusted: false };
  note(ahead);
  expect(await reopened()).toBeNull();
  note({ wallMs: BOOT_WALL_MS + 1, offset: null });
  note(ahead);
  expect(await reopened()).toBe(BOOT_WALL_MS + 1);
  // The cloud's offset says by itself when it was, also where the process died before anything was kept.
  note({ ...ahead, boottimeMs: 60_000, offset: { offsetMs: BOOT_WALL_MS, boundMs: 20 } });
  note({ ...ahead, boottimeMs: 70_000, offset: { offsetMs: BOOT_WALL_MS, boundMs: 2_500 } });
  expect(await reopened()).toBe(BOOT_WALL_MS + 60_000);
  // A trusted row that was ahead gives way to a later one that is right.
  note({ wallMs: Date.UTC(2036, 0, 1), offset: null });
  note({ wallMs: BOOT_WALL_MS + 90_000, offset: null });
  expect(await reopened()).toBe(BOOT_WALL_MS + 90_000);

  const untilMs = BOOT_WALL_MS + 30_000;
  expect(decider.core.rememberTransaction('once-only-1', untilMs, decider.stamp())).toBe(true);
  expect(decider.core.rememberTransaction('another-1', Date.UTC(2036, 0, 1) + 30_000, decider.stamp(ahead))).toBe(true);
  expect(decider.core.rememberTransaction('once-only-1', untilMs, decider.stamp())).toBe(false);

  const { epoch, lastSeq } = decider.core.status(decider.stamp());
  await decider.install({ version: 2, upto: { [GATE]: [epoch, lastSeq] } });
  decider.core.acknowledge(ack(epoch, lastSeq), decider.stamp());
  while (decider.core.idle(decider.stamp(ahead), true)) {
    /* to the end */
  }
  expect(decider.core.rows(null, 500)).toHaveLength(lastSeq);
});

test('a damaged ledger is set aside, a new epoch begins, and what was readable is still sent', async () => {
  const code = newCode();
  const { decider, path, notices, signer } = await setUp({ tickets: [ticket(code)] });
  for (let n = 0; n < 400; n++) decider.core.record({ kind: 'clock', what: 'tick', detail: 'x'.repeat(300) }, decider.stamp());
  decider.core.record({ kind: 'mode', direction: 'out', from: 'controlled', to: 'locked', actor: 'op', reason: 'x' }, decider.stamp());
  decider.core.rememberTransaction('abcdefgh', BOOT_WALL_MS + 3_600_000, decider.stamp());
  const { epoch } = decider.core.status(decider.stamp());
  decider.core.acknowledge(ack(epoch, 20), decider.stamp());
  decider.idle();
  decider.core.close();
  rmSync(join(path, 'usage.sqlite'));
  // The copy of the rows has lost its rows as well: the database alone has them.
  const copy = join(path, 'ledger.rows');
  writeFileSync(copy, readFileSync(copy, 'utf8').replaceAll(/^.*"seq".*\n/gm, ''));
  const size = statSync(join(path, 'ledger.sqlite')).size;
  tear(join(path, 'ledger.sqlite'), Math.floor(size / 2 / 4096) * 4096, 3 * 4096);
  let found: StoreError | null = null;
  try {
    await decider.open();
    decider.idle();
  } catch (error) {
    found = error as StoreError;
    expect(found).toMatchObject({ damaged: true, file: 'ledger' });
    await decider.core.recover(found, decider.stamp());
  }
  const status = decider.core.status(decider.stamp());
  expect(status.epoch).toBeGreaterThan(epoch);
  expect(status).toMatchObject({ usageComplete: false, modes: { out: { mode: 'locked' } }, manifests: [{ version: 1 }] });
  expect(notices.join()).toContain('set aside as ledger.damaged-');
  expect(readdirSync(path).filter((name) => /^ledger\.damaged-.*\.sqlite$/.test(name))).toHaveLength(1);
  expect(decider.core.rememberTransaction('abcdefgh', BOOT_WALL_MS + 3_600_000, decider.stamp())).toBe(false);
  expect(decider.core.applyOverlay(makeOverlay(signer, 1, 2, []), decider.stamp())).toEqual({ ok: true, version: 2 });

  const seqs: number[] = [];
  let ownRows = 0;
  let after: [number, number] | null = null;
  for (let guard = 0; guard < 20; guard++) {
    const batch = decider.core.nextBatch(after);
    if (batch === null) break;
    const message = JSON.parse(Buffer.from(batch.payload).toString()) as { epoch: number; entries: { seq: number }[] };
    if (message.epoch === epoch) seqs.push(...message.entries.map((entry) => entry.seq));
    else ownRows += message.entries.length;
    after = [batch.epoch, batch.uptoSeq];
  }
  expect(ownRows).toBe(1);
  expect(seqs[0]).toBe(21);
  expect(seqs.length).toBeGreaterThan(300);
  expect(seqs.length).toBeLessThan(381);
  expect(new Set(seqs).size).toBe(seqs.length);
  // The cloud can acknowledge up to the hole; what lies behind was sent, and no longer holds anything up.
  const hole = seqs.findIndex((seq, n) => seq !== 21 + n);
  expect(decider.core.acknowledge(ack(epoch, 20 + hole, [[21 + hole, 30 + hole]]), decider.stamp())).toMatchObject({ ahead: false, backlog: 1 });
  expect(decider.core.nextBatch(null)).toMatchObject({ epoch: status.epoch, fromSeq: 1 });
});

test('a ledger that is no database at all: set aside, and the gate goes on', async () => {
  const { decider, path } = await setUp({ tickets: [] });
  decider.core.close();
  for (const name of ['ledger.sqlite-wal', 'ledger.sqlite-shm']) rmSync(join(path, name), { force: true });
  tear(join(path, 'ledger.sqlite'), 0, 4096);
  await decider.open();
  expect(decider.core.status(decider.stamp())).toMatchObject({ usageComplete: false, lastSeq: 1, manifests: [{ version: 1 }] });
  expect(decider.rows()[0]).toMatchObject({ kind: 'fault', what: 'ledger' });
});

test('damaged usage is set aside and made again from the own rows; peers are fetched again', async () => {
  const code = newCode();
  const { decider, path } = await setUp({ tickets: [ticket(code)] });
  decider.passed(decider.decide(code));
  decider.core.close();
  tear(join(path, 'usage.sqlite'), 0, 4096);
  decider.nowMs += 60_000;
  await decider.open();
  expect(decider.core.status(decider.stamp())).toMatchObject({ usageComplete: false, totals: { admissions: 1 } });
  expect(decider.core.vector()).toEqual({});
  decider.core.caughtUp();
  expect(reasonOf(decider.decide(code))).toBe('already_redeemed');
});

test('a new manifest counts what was counted before, no more and no less, and forgets what it holds', async () => {
  const [own, theirs, fresh] = [newCode(), newCode(), newCode()];
  const tickets = [own, theirs, fresh].map((code) => ticket(code));
  const { decider } = await setUp({ tickets });
  decider.passed(decider.decide(own));
  const { epoch } = decider.core.status(decider.stamp());
  decider.core.applyPeer(
    peerMessage(PEER, 50, [
      { seq: 1, kind: 'grant', event_id: EVENT, ticket_id: 'x', ticket_ref: refOf(theirs), direction: 'in', type: 'first_entry', units: 1 },
    ]),
  );
  decider.nowMs += 60_000;
  const at = new Date(BOOT_WALL_MS).toISOString();
  const upto: LedgerVector = { [GATE]: [epoch, 2], [PEER]: [50, 1] };
  await decider.install({
    version: 2,
    tickets,
    upto,
    usage: [
      { ticket_ref: refOf(own), gate: GATE, epoch, seq: 1, at, direction: 'in', units: 1, outcome: 'passed' },
      { ticket_ref: refOf(theirs), gate: PEER, epoch: 50, seq: 1, at, direction: 'in', units: 1, outcome: 'open' },
    ],
  });
  decider.idle();
  expect([own, theirs].map((code) => reasonOf(decider.decide(code)))).toEqual(['already_redeemed', 'already_redeemed']);
  decider.core.applyPeer(
    peerMessage(PEER, 50, [
      { seq: 2, kind: 'passage', of: [50, 1], event_id: EVENT, ticket_id: 'x', ticket_ref: refOf(theirs), direction: 'in', unit: 1, outcome: 'returned' },
    ]),
  );
  expect(reasonOf(decider.decide(theirs))).toBe('first_entry');
  expect(reasonOf(decider.decide(fresh))).toBe('first_entry');
});

test('a manifest file that breaks while it is read gives way to the last good one, and is fetched again', async () => {
  const codes = Array.from({ length: 3_000 }, newCode);
  const { decider, path, home, signer, notices } = await setUp({ tickets: codes.map((code) => ticket(code)) });
  const next = await makeManifest(home, signer, { version: 2, tickets: codes.map((code) => ticket(code, { tier: 'second' })) });
  await decider.core.installManifest(next.file, next.wanted, decider.stamp());
  const broken = join(path, 'manifests', EVENT, '2.sqlite');
  decider.core.close();
  await decider.open();
  // While it is in use: at the next start it would not even be opened.
  tear(broken, 12 * 4096, statSync(broken).size - 13 * 4096);
  let found: StoreError | null = null;
  for (const code of codes) {
    try {
      decider.decide(code);
    } catch (error) {
      found = error as StoreError;
      break;
    }
  }
  expect(found).toMatchObject({ damaged: true, file: 'manifest', path: broken });
  await decider.core.recover(found as StoreError, decider.stamp());
  expect(notices.join()).toContain('is damaged; set aside as 2.damaged-');
  expect(decider.core.status(decider.stamp())).toMatchObject({ manifests: [{ version: 1 }], usageComplete: true });
  expect(reasonOf(decider.decide(codes.at(-1) ?? ''))).toBe('first_entry');
  expect(decider.core.want(Buffer.from(JSON.stringify({ schema: 1, events: [next.wanted] })), decider.stamp())).toMatchObject([{ since: null }]);
  expect(await decider.core.installManifest(next.file, next.wanted, decider.stamp())).toEqual({ ok: true, version: 2 });
});

test('a second process is refused the store', async () => {
  const { path, signer } = await setUp(null);
  await expect(openDeciderEngine({ path, gate: GATE, verifyKeys: [signer.publicKey], notice: () => {} }, stampAt(1))).rejects.toMatchObject({
    fault: { cause: expect.stringContaining('another program') },
  });
});

test('pinned keys that cannot be used are a mistake seen at start', async () => {
  const home = storeFolder();
  endings.push(home.remove);
  const weak = {
    key_id: 'w',
    use: 'manifest' as const,
    alg: 'Ed25519' as const,
    spki: Buffer.concat([Buffer.from('302a300506032b6570032100', 'hex'), Buffer.from([1]), Buffer.alloc(31)]).toString('base64'),
    not_after: null,
  };
  await expect(openDeciderEngine({ path: join(home.path, 's'), gate: GATE, verifyKeys: [weak], notice: () => {} }, stampAt(1))).rejects.toThrow(
    /pinned key w: a public key of small order/,
  );
});

test('a rehearsal leaves ledger, usage and chain as they are, also where nothing was granted yet or the manifest is another by now', async () => {
  const code = newCode();
  const later = newCode();
  const { decider } = await setUp({ tickets: [ticket(code)] });
  const told = () => {
    const { lastSeq, backlog, totals, usageComplete } = decider.core.status(decider.stamp());
    return { lastSeq, backlog, totals, usageComplete, vector: decider.core.vector(), rows: decider.core.rows(null, 500) };
  };
  const unchanged = () => {
    const before = told();
    for (let n = 0; n < 3; n++) decider.core.prepare(decider.stamp());
    expect(told()).toEqual(before);
  };
  unchanged();
  const first = decider.decide(code);
  expect(first.verdict.kind).toBe('grant');
  unchanged();
  decider.passed(first);
  await decider.install({ version: 2, tickets: [ticket(code), ticket(later)] });
  unchanged();
  decider.nowMs += 60_000;
  expect(decider.decide(code).verdict.kind).toBe('refusal');
  expect(decider.decide(later).row[1]).toBe(first.row[1] + 3);
});
