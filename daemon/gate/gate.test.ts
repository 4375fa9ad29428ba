import { expect, test } from 'vitest';
import type { UplinkEvent } from '../ports.ts';
import { CLOCK_ALERT_AFTER_MS } from './alerts.ts';
import { CLOSE_WAIT_MS } from './gate.ts';
import { createGateWorld, type GateWorld, WORLD_WALL_MS } from './testing/fake-gate.ts';

const releases = (world: GateWorld) => world.writes.filter(([, output, active]) => output.startsWith('release') && active);
const ack: UplinkEvent = { kind: 'ack', ack: { schema: 1, epochs: [], cloud_time: '2026-06-01T18:00:00.000Z' } };

test('a guest: committed, then released; the passage is recorded; people read why in words', async () => {
  const world = await createGateWorld();
  world.disk.delayMs = 15;
  await world.show('good');
  expect(releases(world)).toEqual([]);
  await world.wait(15);
  expect(releases(world)).toEqual([[world.rows[0]?.atMs, 'release_in', true]]);
  expect([world.level('green_in'), world.level('buzzer'), world.gate.state().in.signal]).toEqual([true, true, 'granted']);
  await world.pass();
  await world.wait(100);
  expect(world.words()).toEqual(['grant in', 'passed 1 of 7/1']);
  const [decision] = world.gate.state().decisions;
  expect(decision).toMatchObject({ outcome: 'grant', words: 'admitted', direction: 'in', units: 1, row: [7, 1], latencyUs: 15_000 });
  expect(world.events.map(({ type }) => type)).toEqual(['grant', 'passage']);
  const stats = world.gate.telemetry().stats();
  expect(stats).toMatchObject({ admissions: 1, refusals: 0, passages: 1, returned: 0, decision_p50_us: 15_000 });
});

test('a pulse is as long as it should be where its beginning took long to write', async () => {
  const world = await createGateWorld();
  world.board.writeMs = 30;
  await world.show('good');
  world.board.writeMs = 0;
  await world.wait(300);
  expect(world.writes.filter(([, output]) => output === 'release_in')).toEqual([
    [10_031, 'release_in', true],
    [10_231, 'release_in', false],
  ]);
});

test('a refusal says why; the lamp is red and then ready', async () => {
  const world = await createGateWorld();
  await world.show('bad');
  expect([world.level('red_in'), world.gate.state().decisions[0]?.words, releases(world)]).toEqual([true, 'already used at 18:02, gate north-01', []]);
  await world.wait(3_000);
  expect([world.level('red_in'), world.level('amber_in')]).toEqual([false, true]);
  expect(world.gate.telemetry().stats()).toMatchObject({ refusals: 1, refused_already_redeemed: 1 });
});

test('codes that are not decided are counted by why: whoever comes while somebody passes, and the same code seen again', async () => {
  const world = await createGateWorld();
  await world.show('bad');
  await world.show('bad');
  await world.show('good-1');
  await world.show('good-1');
  await world.show('good-2');
  await world.wait(2_000);
  expect(world.gate.state().notTaken).toEqual({ busy: 1, held: 1, repeat: 1, open: 0 });
  expect(world.gate.telemetry().stats()).toMatchObject({ refusals: 1, not_taken_busy: 1, not_taken_held: 1, not_taken_repeat: 1 });
});

test('codes are never shown: not in snapshots, events, alerts, nor diagnostics', async () => {
  const world = await createGateWorld();
  const seen: unknown[] = [];
  world.gate.subscribe((event) => seen.push(event));
  await world.show('good-secret-code-1');
  await world.show('bad-secret-code-2', 'out');
  await world.wait(1_000);
  seen.push(await world.request('diagnostics'), world.events, [...world.alerts]);
  expect(seen.length).toBeGreaterThan(3);
  expect(JSON.stringify(seen)).not.toContain('secret-code');
});

test('a disk that stalls for 5 s: pulses end on time, fire is obeyed, the guest waits and is refused, the late grant is returned', async () => {
  const world = await createGateWorld();
  await world.show('good', 'out');
  world.disk.delayMs = 5_000;
  await world.show('good');
  await world.wait(200);
  expect(world.writes.filter(([, output]) => output === 'release_out')).toEqual([
    [10_001, 'release_out', true],
    [10_201, 'release_out', false],
  ]);
  await world.wait(100);
  expect(world.gate.state().in.signal).toBe('working');
  await world.wait(2_600);
  expect([world.gate.state().in.signal, world.alerts.has('disk'), world.nowMs() - 10_001 < 3_000]).toEqual(['refused', true, true]);
  await world.line('fire', true);
  expect([world.level('release_in'), world.level('release_out')]).toEqual([true, true]);
  world.disk.delayMs = 0;
  await world.wait(60_000);
  expect(world.words().slice(0, 3)).toEqual(['grant out', 'grant in', 'returned 1 of 7/2']);
  expect(releases(world).filter(([atMs, output]) => output === 'release_in' && atMs < 12_900)).toEqual([]);
  expect([world.alerts.has('disk'), world.latchOnDisk]).toEqual([false, true]);
});

test('a disk that fails: nobody is admitted; button and fire work and are recorded afterwards, in order', async () => {
  const world = await createGateWorld();
  world.disk.fails = true;
  await world.show('good');
  expect([releases(world), world.gate.state().in.signal]).toEqual([[], 'refused']);
  await world.wait(5_000);
  expect(world.gate.state().in.signal).toBe('disk');
  await world.line('button', true);
  await world.wait(50);
  await world.line('button', false);
  expect(releases(world).length).toBe(1);
  await world.pass();
  await world.line('fire', true);
  expect(world.level('release_out')).toBe(true);
  await world.wait(10_000);
  expect(world.words()).toEqual([]);
  world.disk.fails = false;
  await world.wait(3_000);
  expect(world.words().filter((word) => !word.startsWith('fault'))).toEqual([
    'refusal error',
    'override open by button',
    'passed 1 of 7/3',
    'alarm fire',
    'in controlled → emergency',
    'out controlled → emergency',
  ]);
  expect([world.alerts.has('disk'), world.gate.state().diskOk, world.latchOnDisk, world.gate.state().pendingEntryCount]).toEqual([false, true, true, 0]);
  expect(world.gate.telemetry().stats()).toMatchObject({ admissions: 0, passages: 1 });
});

test('a decider that does not open is tried again; fire works meanwhile and is kept', async () => {
  const world = await createGateWorld({
    before: (one) => {
      one.disk.openFails = true;
    },
  });
  expect([world.gate.state().diskOk, world.alerts.has('disk')]).toEqual([false, true]);
  await world.line('fire', true);
  expect(world.level('release_in')).toBe(true);
  world.disk.openFails = false;
  await world.wait(3_000);
  expect([world.calls.includes('decider open'), world.alerts.has('disk'), world.latchOnDisk]).toEqual([true, false, true]);
  expect(world.words()).toContain('alarm fire');
});

test('open: recorded first, then released; refused while the lane is taken or the disk fails', async () => {
  const world = await createGateWorld();
  expect(await world.request('open', { direction: 'in', units: 2 })).toMatchObject({ status: 'ok', data: { direction: 'in', units: 2, row: [7, 1] } });
  expect([world.words(), releases(world).length]).toEqual([['override open by staff-1'], 1]);
  expect(await world.request('open', { direction: 'in', units: 1 })).toMatchObject({ status: 'error', error: { code: 'refused' } });
  await world.wait(20_000);
  expect(world.words()).toEqual(['override open by staff-1', 'returned 1 of 7/1', 'returned 2 of 7/1']);
  world.disk.fails = true;
  expect(await world.request('open', { direction: 'in', units: 1 })).toMatchObject({ status: 'error', error: { code: 'failed' } });
  expect(releases(world).length).toBe(1);
  world.disk.fails = false;
  await world.wait(5_000);
  expect(
    world
      .words()
      .filter((word) => !word.startsWith('fault'))
      .slice(3),
  ).toEqual(['override open by staff-1', expect.stringMatching(/^returned 1 of/)]);
  expect(releases(world).length).toBe(1);
});

test('mode: an override and a mode row; an end in the past is refused; args are checked', async () => {
  const world = await createGateWorld();
  expect(await world.request('mode', { mode: 'free', direction: 'out', until: new Date(WORLD_WALL_MS + 60_000).toISOString() })).toMatchObject({
    status: 'ok',
    data: { mode_in: 'controlled', mode_out: 'free', recorded: true },
  });
  expect([world.words(), world.level('release_out')]).toEqual([['override mode by staff-1', 'out controlled → free'], true]);
  await world.wait(60_000);
  expect(world.gate.state().out.mode).toBe('controlled');
  expect(await world.request('mode', { mode: 'free', until: '2020-01-01T00:00:00.000Z' })).toMatchObject({ error: { code: 'refused' } });
  expect(await world.request('mode', { mode: 'emergency' })).toMatchObject({ error: { code: 'malformed' } });
  expect(await world.gate.command({ command: 'mode', args: { mode: 'free' }, actor: 'a name', reason: 'x' })).toMatchObject({ error: { code: 'malformed' } });
  expect(await world.gate.command({ command: 'mode', args: { mode: 'free' }, actor: 'staff-1', reason: ' ' })).toMatchObject({ error: { code: 'malformed' } });
});

test('mode works with the store failed, and says that it is not recorded yet', async () => {
  const world = await createGateWorld({ config: { freeBy: 'hold' } });
  world.disk.fails = true;
  expect(await world.request('mode', { mode: 'free' })).toMatchObject({ status: 'ok', data: { mode_in: 'free', recorded: false } });
  expect(world.level('release_in')).toBe(true);
});

test('reset-emergency: only when the input is clear', async () => {
  const world = await createGateWorld();
  expect(await world.request('reset-emergency')).toMatchObject({ error: { code: 'refused' } });
  await world.line('fire', true);
  expect(await world.request('reset-emergency')).toMatchObject({ error: { code: 'refused' } });
  expect(await world.request('restart')).toMatchObject({ error: { code: 'refused' } });
  await world.line('fire', false);
  expect(await world.request('reset-emergency')).toMatchObject({ status: 'ok', data: { mode_in: 'controlled' } });
  expect([world.latchOnDisk, world.level('release_in'), world.alerts.has('fire')]).toEqual([false, false, false]);
});

test('restart waits for who is under way', async () => {
  const world = await createGateWorld();
  await world.show('good');
  expect(await world.request('restart')).toMatchObject({ status: 'ok', data: { waits_for_passage: true } });
  expect(world.calls).not.toContain('restart');
  await world.pass();
  expect(world.calls.filter((call) => call === 'restart').length).toBe(1);
});

test('refresh, resend and what the cloud says reach their parts', async () => {
  const world = await createGateWorld();
  expect(await world.request('refresh')).toMatchObject({ status: 'ok', data: { fetched: 1 } });
  expect(await world.request('resend', { epoch: 7, from_seq: 3 })).toMatchObject({ status: 'ok', data: { rows: 7, ranges: [[7, 3, 9]] } });
  expect(await world.request('resend', {})).toMatchObject({ status: 'ok', data: { rows: 7, ranges: [[7, 3, 9]] } });
  expect(await world.request('resend', { epoch: 7 })).toMatchObject({ status: 'error', error: { code: 'malformed' } });
  await world.uplinkSays(ack);
  await world.uplinkSays({ kind: 'peer', ledger: 'arena/north-04', payload: Buffer.from('gap') });
  await world.uplinkSays({ kind: 'peer', ledger: 'arena/north-04', payload: Buffer.from('rows') });
  await world.uplinkSays({ kind: 'want', payload: Buffer.from('{}') });
  await world.uplinkSays({ kind: 'overlay', payload: Buffer.from('{}') });
  expect(world.calls.filter((call) => call.startsWith('sync') || call.startsWith('decider a') || call.startsWith('decider r'))).toEqual([
    'sync refresh',
    'decider resend 7/3',
    'decider resend what the ack leaves out',
    'decider acknowledge',
    'sync gap',
    'sync want',
    'sync overlay',
  ]);
});

test('selftest: refused unless out of service; names swapped passage lines; fire ends it', async () => {
  const world = await createGateWorld();
  expect(await world.request('selftest')).toMatchObject({ error: { code: 'refused' } });
  await world.request('mode', { mode: 'out_of_service' });
  const answer = world.gate.command({ command: 'selftest', actor: 'staff-1', reason: 'new lane' });
  await world.wait(2_300);
  await world.pass('out');
  await world.wait(12_000);
  const result = await answer;
  const steps = (result.status === 'ok' ? result.data.steps : []) as { name: string; result: string; detail: string }[];
  expect(steps.find(({ name }) => name === 'release_in')).toMatchObject({ result: 'fail', detail: expect.stringContaining('swapped') });
  expect(steps.find(({ name }) => name === 'release_out')).toMatchObject({ result: 'warn' });
  expect([world.words().filter((word) => word.includes('forced')), world.level('red_in'), world.level('stop')]).toEqual([[], true, false]);
  const second = world.gate.command({ command: 'selftest', actor: 'staff-1', reason: 'again' });
  await world.wait(2_200);
  await world.line('fire', true);
  await world.wait(21_000);
  expect((await second).status).toBe('ok');
  expect([world.level('release_in'), world.level('release_out'), world.level('stop')]).toEqual([true, true, false]);
});

test("at start the ledger's modes hold, and the latch on the disk opens", async () => {
  const locked = await createGateWorld({
    before: (one) => {
      one.status = { modes: { in: { mode: 'locked', untilMs: null }, out: { mode: 'free', untilMs: null } } };
    },
  });
  expect([locked.gate.state().in.mode, locked.gate.state().out.mode, locked.level('release_out'), locked.words()]).toEqual(['locked', 'free', true, []]);
  const fire = await createGateWorld({
    before: (one) => {
      one.status = { fireLatched: true, modes: { in: { mode: 'emergency', untilMs: null, from: 'locked' }, out: { mode: 'emergency', untilMs: null } } };
    },
  });
  expect([fire.gate.state().in.mode, fire.level('release_in'), fire.alerts.has('fire')]).toEqual(['emergency', true, true]);
  await fire.request('reset-emergency');
  expect([fire.gate.state().in.mode, fire.gate.state().out.mode, fire.level('release_in')]).toEqual(['locked', 'controlled', false]);
});

test('close: nobody new, who is under way is waited for, everything given back in order', async () => {
  const world = await createGateWorld();
  await world.show('good');
  const closed = world.gate.close('stopped');
  await world.wait(1_000);
  await world.pass();
  await world.wait(100);
  await closed;
  expect(world.words()).toEqual(['grant in', 'passed 1 of 7/1']);
  expect(world.calls.slice(-5)).toEqual(['reader in close', 'reader out close', 'board close', 'uplink close stopped', 'decider close']);
  expect([world.level('release_in'), world.level('release_out')]).toEqual([false, false]);
});

test('close is bounded: a passage that does not end is unknown, and open under fire', async () => {
  const world = await createGateWorld();
  await world.show('good-2');
  await world.line('passage_in', true);
  const closed = world.gate.close('stopped');
  await world.wait(CLOSE_WAIT_MS);
  await closed;
  expect(world.words()).toEqual(['grant in', 'returned 2 of 7/1', 'unknown 1 of 7/1']);
  const fire = await createGateWorld();
  await fire.line('fire', true);
  const ended = fire.gate.close('stopped');
  await fire.wait(100);
  await ended;
  expect(fire.calls).toContain('board close, open');
  expect([fire.level('release_in'), fire.level('release_out')]).toEqual([true, true]);
});

test('a reader that goes and comes back: alert and lamp', async () => {
  const world = await createGateWorld({ readers: ['in'] });
  await world.reader({ kind: 'down', reader: 'in', fault: { operation: 'open /dev/stile-reader-in', cause: 'gone', hint: 'plug it in', healsItself: true } });
  expect([world.alerts.get('reader-in'), world.gate.state().in.signal, world.gate.state().out.signal]).toEqual([
    'open /dev/stile-reader-in: gone. plug it in',
    'no_reader',
    'ready',
  ]);
  await world.reader({ kind: 'up', reader: 'in' });
  expect([world.alerts.has('reader-in'), world.gate.state().in.signal]).toEqual([false, 'ready']);
});

test('a board whose writes fail: alert, and written again when it works', async () => {
  const world = await createGateWorld();
  await world.show('good');
  world.board.failWrites = true;
  await world.wait(300);
  expect([world.alerts.has('board'), world.level('release_in'), world.gate.state().boardOk]).toEqual([true, true, false]);
  world.board.failWrites = false;
  await world.wait(600);
  expect([world.level('release_in'), world.alerts.has('board')]).toEqual([false, false]);
});

test('health: flat numbers; clock and manifest raise their alerts', async () => {
  const world = await createGateWorld();
  world.status = { manifests: [] };
  world.clockTrusted = false;
  await world.wait(6_000);
  expect([world.alerts.has('manifest'), world.gate.state().in.signal]).toEqual([true, 'no_manifest']);
  await world.wait(CLOCK_ALERT_AFTER_MS);
  expect(world.alerts.has('clock')).toBe(true);
  expect(world.gate.telemetry().health({ rss_mb: 60, uptime_s: 5 })).toMatchObject({
    rss_mb: 60,
    uptime_s: 5,
    clock_trusted: 0,
    mode: 'controlled',
    manifest_version: 0,
    board_ok: 1,
    reader_ok: 1,
  });
  expect(world.nowMs() - world.gate.lastTurnMs()).toBeLessThanOrEqual(250);
});

test('a clock that is trusted a moment after the start was never worth an alert', async () => {
  const world = await createGateWorld({
    before: (made) => {
      made.clockTrusted = false;
    },
  });
  await world.wait(CLOCK_ALERT_AFTER_MS - 1_000);
  world.clockTrusted = true;
  await world.wait(60_000);
  expect(world.events.filter(({ type }) => type === 'alert')).toEqual([]);
  world.clockTrusted = false;
  await world.wait(CLOCK_ALERT_AFTER_MS + 500);
  expect(world.alerts.has('clock')).toBe(true);
});

test('tickets that were fetched are known with the next look around', async () => {
  const world = await createGateWorld({
    before: (made) => {
      made.status = { manifests: [] };
    },
  });
  await world.wait(300);
  expect(world.gate.state().in.signal).toBe('no_manifest');
  world.status = {};
  await world.wait(300);
  expect(world.gate.state().in.signal).toBe('no_manifest');
  world.fetched();
  await world.wait(300);
  expect([world.gate.state().in.signal, world.alerts.has('manifest')]).toEqual(['ready', false]);
});

test("the cloud's verdict on a grant is published once, and what stood before the start is no news", async () => {
  const conflict = (seq: number, verdict: 'excess' | 'withdrawn' = 'excess') => ({
    verdictRow: [7, seq] as [number, number],
    row: [9, seq] as [number, number],
    verdict,
    cause: 'already_redeemed',
    eventId: 'fair',
    ticketId: `t${seq}`,
    ticketRef: 'ab'.repeat(16),
    direction: 'in' as const,
    winner: ['arena/south-01', 5, 3] as const,
    words: `words ${seq}`,
  });
  const world = await createGateWorld({
    before: (made) => {
      made.status = { conflicts: { standing: 1, newest: [conflict(1)] } };
    },
  });
  const texts: string[] = [];
  world.gate.subscribe((event) => event.kind === 'conflict' && texts.push(event.conflict.words));
  await world.wait(6_000);
  expect(texts).toEqual([]);
  world.status = { conflicts: { standing: 2, newest: [conflict(1), conflict(2), conflict(3, 'withdrawn')] } };
  await world.wait(20_000);
  expect(texts).toEqual(['words 2', 'words 3']);
  expect(world.events.filter(({ type }) => type === 'conflict').map(({ detail }) => detail)).toMatchObject([
    { verdict: 'excess', cause: 'already_redeemed', words: 'words 2', epoch: 9, seq: 2, ticket_id: 't2', winner_gate: 'arena/south-01' },
    { verdict: 'withdrawn' },
  ]);
});

test('a press of the button is seen in the last decisions', async () => {
  const world = await createGateWorld();
  await world.line('button', true);
  await world.wait(50);
  expect(world.gate.state().decisions.at(-1)).toMatchObject({ outcome: 'override', words: 'opened by button: staff button' });
});

test('a direction whose passage line is not wired: the release counts as the passage there', async () => {
  const world = await createGateWorld({ unwired: ['passage_out'] });
  await world.show('good', 'out');
  await world.show('good', 'in');
  await world.wait(10_000);
  expect(world.words()).toEqual(['grant out', 'passed 1 of 7/1', 'grant in', 'returned 1 of 7/3']);
});

test('the latch on the disk holds before the decider is open, and no press of the button closes it', async () => {
  const world = await createGateWorld({
    startOpen: true,
    before: (one) => {
      one.disk.openFails = true;
    },
  });
  await world.line('button', true);
  await world.wait(1_000);
  expect([world.level('release_in'), world.level('release_out'), world.gate.state().in.mode]).toEqual([true, true, 'emergency']);
  world.status = {
    fireLatched: true,
    modes: { in: { mode: 'emergency', untilMs: null, from: 'locked' }, out: { mode: 'emergency', untilMs: null, from: 'locked' } },
  };
  world.disk.openFails = false;
  await world.wait(3_000);
  expect(world.words().filter((word) => word.includes('→'))).toEqual([]);
  await world.request('reset-emergency');
  expect(world.gate.state().in.mode).toBe('locked');
});

test('fire before the decider was open: the row of it names the mode that was', async () => {
  const world = await createGateWorld({
    before: (one) => {
      one.disk.openFails = true;
    },
  });
  await world.line('fire', true);
  world.status = { modes: { in: { mode: 'locked', untilMs: null }, out: { mode: 'controlled', untilMs: null } } };
  world.disk.openFails = false;
  await world.wait(3_000);
  expect(world.words().filter((word) => word.startsWith('in '))).toEqual(['in controlled → emergency', 'in locked → emergency']);
});

const MODES = ['controlled', 'free', 'locked', 'out_of_service'] as const;
test.each(MODES.flatMap((inMode) => MODES.map((outMode) => [inMode, outMode] as const)))(
  'M4: a self-test moves nothing unless the way in is out of service (in %s, out %s)',
  async (inMode, outMode) => {
    const world = await createGateWorld({ config: { freeBy: 'hold' } });
    await world.request('mode', { mode: inMode, direction: 'in' });
    await world.request('mode', {
      mode: outMode,
      direction: 'out',
      ...(outMode === 'locked' || outMode === 'out_of_service' ? { confirm_exit_closed: true } : {}),
    });
    expect([world.gate.state().in.mode, world.gate.state().out.mode]).toEqual([inMode, outMode]);
    const before = world.writes.length;
    const answer = await world.request('selftest');
    const moved = world.writes.slice(before).some(([, output]) => output.startsWith('release'));
    expect([answer.status, moved]).toEqual(inMode === 'out_of_service' ? ['ok', true] : ['error', false]);
    expect(world.level('release_out')).toBe(outMode === 'free' && world.gate.state().out.released);
  },
);

test('M4: a self-test keeps nobody inside: whoever shows a code outwards goes out', async () => {
  const world = await createGateWorld();
  await world.request('mode', { mode: 'out_of_service' });
  const answer = world.gate.command({ command: 'selftest', actor: 'staff-1', reason: 'new lane' });
  await world.wait(500);
  await world.show('good', 'out');
  expect([world.level('release_out'), world.gate.state().out.grant?.phase]).toEqual([true, 'released']);
  await world.wait(40_000);
  expect((await answer).status).toBe('ok');
});

test('M4: a fire latch that was reset before the store opened does not come back from the disk', async () => {
  const world = await createGateWorld({
    startOpen: true,
    config: { freeBy: 'hold' },
    before: (one) => {
      one.disk.openFails = true;
      one.latchOnDisk = true;
      one.status = { modes: { in: { mode: 'emergency', untilMs: null, from: 'controlled' }, out: { mode: 'emergency', untilMs: null, from: 'controlled' } } };
    },
  });
  expect(world.gate.state().in.mode).toBe('emergency');
  await world.request('reset-emergency');
  expect([world.gate.state().in.mode, world.latchOnDisk]).toEqual(['controlled', true]);
  world.disk.openFails = false;
  await world.wait(10_000);
  expect(world.calls).toContain('decider open');
  expect([world.gate.state().in.mode, world.gate.state().fire.latched, world.latchOnDisk, world.alerts.has('fire')]).toEqual([
    'controlled',
    false,
    false,
    false,
  ]);
  expect([world.level('release_in'), world.level('release_out')]).toEqual([false, false]);
});

test('M4: a fire latch on the disk that nobody reset holds when the store opens', async () => {
  const world = await createGateWorld({
    startOpen: true,
    config: { freeBy: 'hold' },
    before: (one) => {
      one.disk.openFails = true;
      one.latchOnDisk = true;
    },
  });
  world.disk.openFails = false;
  await world.wait(10_000);
  expect([world.gate.state().in.mode, world.latchOnDisk, world.level('release_in')]).toEqual(['emergency', true, true]);
});

test('L4 frames of control bytes alone make no row and no lamp, and stray ones before a code do not spoil it', async () => {
  const world = await createGateWorld();
  await world.show('\0');
  await world.show('\0\0');
  expect([world.words(), world.gate.state().in.signal, world.gate.state().readers[0]?.noise]).toEqual([[], 'ready', 2]);
  await world.show('\0good');
  expect(world.words()).toEqual(['grant in']);
});

test('L4 a reader whose frames are all garbled raises its alert, and writes no more rows', async () => {
  const world = await createGateWorld();
  for (let n = 0; n < 20; n += 1) {
    await world.reader({ kind: 'garbled', reader: 'in', direction: 'in', why: 'framing', atMs: world.nowMs() });
    await world.wait(5_000);
  }
  expect(world.alerts.get('reader-in')).toContain('terminator');
  expect(world.words().filter((word) => word === 'refusal unreadable')).toHaveLength(2);
  await world.show('good');
  await world.wait(300);
  expect(world.alerts.has('reader-in')).toBe(false);
});

test('L5 a reader that goes and comes back leaves a row each', async () => {
  const world = await createGateWorld();
  await world.reader({ kind: 'down', reader: 'in', fault: { operation: 'open reader in', cause: 'unplugged', hint: 'plug it in', healsItself: true } });
  await world.wait(11_000);
  await world.reader({ kind: 'up', reader: 'in' });
  await world.wait(1);
  expect(world.words()).toEqual(['fault reader', 'fault reader']);
});
