/** The whole gate under a clock that is ahead, then right: what was written meanwhile must not hold the clock. */
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { codeOf, createTestGate, type TestGate, until } from '../../testkit/gate.ts';
import { loadConfig } from '../config/load.ts';
import { validateRequest } from '../link/request-validation.ts';
import { type RunningGate, runGate } from '../main.ts';
import { createClock, systemTime } from './clock.ts';

let at: TestGate;
let running: RunningGate | null = null;
beforeAll(async () => {
  at = await createTestGate();
});
afterEach(async () => {
  await running?.stop('test');
  running = null;
});
afterAll(() => at.remove());

/** A start of the gate whose system clock is so far ahead. */
async function start(aheadMs: number, synchronised: boolean): Promise<ReturnType<typeof createClock>> {
  const loaded = loadConfig(at.config);
  if (!loaded.ok) throw new Error("the test's configuration is wrong");
  const clock = createClock({ source: { ...systemTime(), systemMs: () => Date.now() + aheadMs, synchronised: () => synchronised }, floorMs: 0 });
  running = await runGate(loaded.config, { clock });
  return clock;
}
async function admit(n: number): Promise<Record<string, unknown>> {
  const before = (await at.status()).totals.admissions;
  at.show(codeOf(n));
  await until(at.status, (now) => now.totals.admissions === before + 1);
  const rows = JSON.parse((await at.cli('ledger', 'ls', '-n', '100', '--json')).stdout) as { entry: Record<string, unknown> }[];
  return rows.findLast(({ entry }) => entry['kind'] === 'grant')?.entry ?? {};
}
const TEN_YEARS_MS = 10 * 365 * 86_400_000;

test.each([
  ['ten years', TEN_YEARS_MS, 1],
  ['one hour', 3_600_000, 3],
])(
  'a row written under a clock that was %s ahead holds neither the clock nor its trust: windows are judged, commands are taken (T3)',
  async (_, aheadMs, n) => {
    await start(aheadMs, false);
    expect(await admit(n)).toMatchObject({ flags: ['clock_untrusted'] });
    await running?.stop('test');

    const clock = await start(0, true);
    expect(clock.trusted()).toBe(true);
    expect(Math.abs(clock.wallMs() - Date.now())).toBeLessThan(1_000);
    const row = await admit(n + 1);
    expect(row['flags']).toBeUndefined();
    expect(Math.abs(Date.parse(String(row['ts'])) - Date.now())).toBeLessThan(60_000);
    const request = {
      schema: 1,
      transaction: 'abcdefgh-1',
      actor: 'op-1',
      reason: 'test',
      issued_at: new Date().toISOString(),
      expires_at: new Date(Date.now() + 5_000).toISOString(),
      args: {},
    };
    const payload = Buffer.from(JSON.stringify(request));
    expect(validateRequest({ command: 'refresh', payload, retained: false, nowMs: clock.trusted() ? clock.wallMs() : null })).toMatchObject({ accept: true });
  },
  60_000,
);
