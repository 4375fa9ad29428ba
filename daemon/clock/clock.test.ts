import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createClock, createSimClock, estimate, systemTime, widened } from './clock.ts';

/** Where the cloud's clock truly stands: cloud = boottime + OFFSET. */
const OFFSET = Date.UTC(2026, 5, 1);
/** A round trip whose ways out and back take so long. */
const trip = (askedMs: number, outMs: number, backMs: number, workMs = 1) => ({
  askedMs,
  cloudReceivedMs: askedMs + outMs + OFFSET,
  cloudAnsweredMs: askedMs + outMs + workMs + OFFSET,
  answeredMs: askedMs + outMs + workMs + backMs,
});

test('the true offset lies within the bound, whatever the ways out and back took', () => {
  fc.assert(
    fc.property(
      fc.double({ min: 0, max: 4000, noNaN: true }),
      fc.double({ min: 0, max: 4000, noNaN: true }),
      fc.double({ min: 0, max: 500, noNaN: true }),
      (out, back, work) => {
        const found = estimate(trip(10_000, out, back, work));
        expect(found).not.toBeNull();
        expect(Math.abs((found?.offsetMs ?? Number.NaN) - OFFSET)).toBeLessThanOrEqual((found?.boundMs ?? 0) + 1e-3);
      },
    ),
  );
});

test('of many round trips the best bound is kept, until drift has widened it past a newer one', () => {
  const clock = createSimClock();
  const observe = (roundTripMs: number) => clock.observe(trip(clock.boottimeMs(), roundTripMs / 2, roundTripMs / 2 + 1));
  observe(100);
  expect(clock.offset()?.boundMs).toBeCloseTo(51.5);
  observe(20);
  expect(clock.offset()?.boundMs).toBeCloseTo(11.5);
  observe(80);
  expect(clock.offset()?.boundMs).toBeCloseTo(11.5);
  clock.advance(1_000_000);
  expect(clock.offset()?.boundMs).toBeCloseTo(111.5, 0);
  observe(80);
  expect(clock.offset()?.boundMs).toBeCloseTo(41.5);
});

test('samples that cannot be are left out', () => {
  for (const sample of [
    { ...trip(1000, 5, 5), answeredMs: 900 },
    { ...trip(1000, 5, 5), cloudAnsweredMs: OFFSET },
    { ...trip(1000, 5, 5), cloudReceivedMs: Number.NaN },
    trip(1000, 9000, 9000),
  ])
    expect(estimate(sample)).toBeNull();
});

test('drift widens a bound and never narrows it', () => {
  const found = { offsetMs: 0, boundMs: 5, atMs: 1000 };
  expect(widened(found, 1000)).toBe(5);
  expect(widened(found, 500)).toBe(5);
  expect(widened(found, 11_000)).toBeCloseTo(6);
});

test("without a time server the gate trusts, and shows, the cloud's time", () => {
  const clock = createSimClock({ wallMs: Date.UTC(2020, 0, 1), synchronised: false, boottimeMs: 5000 });
  expect(clock.trusted()).toBe(false);
  expect(clock.wallMs()).toBe(Date.UTC(2020, 0, 1));
  clock.observe(trip(5000, 10, 10));
  expect(clock.trusted()).toBe(true);
  expect(clock.wallMs()).toBeCloseTo(5000 + OFFSET, 0);
  // Nothing heard for half a day: drift may have carried it too far.
  clock.advance(43_200_000);
  expect(clock.trusted()).toBe(false);
});

test('a time server and the cloud that differ are both doubted', () => {
  const clock = createSimClock({ wallMs: OFFSET + 5000 + 60_000, boottimeMs: 5000 });
  expect(clock.trusted()).toBe(true);
  clock.observe(trip(5000, 10, 10));
  expect(clock.trusted()).toBe(false);
  expect(clock.why()).toMatch(/differ by/);
  clock.setWall(OFFSET + clock.boottimeMs());
  expect(clock.trusted()).toBe(true);
});

test('wall time is never below the floor, and below it is not trusted', () => {
  const clock = createSimClock({ wallMs: Date.UTC(2020, 0, 1) });
  clock.raiseFloor(Date.UTC(2026, 0, 1));
  clock.raiseFloor(Date.UTC(2025, 0, 1));
  expect(clock.wallMs()).toBe(Date.UTC(2026, 0, 1));
  expect(clock.trusted()).toBe(false);
  clock.setWall(Date.UTC(2026, 3, 1));
  expect(clock.wallMs()).toBe(Date.UTC(2026, 3, 1));
  expect(clock.trusted()).toBe(true);
});

test('a floor that lies ahead is overruled by the cloud, alone or with a time server that agrees, and is told once (T3)', () => {
  for (const synchronised of [true, false]) {
    const clock = createSimClock({ wallMs: OFFSET + 5_000, boottimeMs: 5_000, synchronised });
    const ahead = Date.UTC(2036, 0, 1);
    clock.raiseFloor(ahead);
    expect([clock.trusted(), clock.wallMs(), clock.overruled()]).toEqual([false, ahead, null]);
    clock.observe(trip(5_000, 10, 10));
    expect(clock.trusted()).toBe(true);
    expect(Math.abs(clock.wallMs() - (OFFSET + 5_000))).toBeLessThan(50);
    expect(clock.overruled()).toMatchObject({
      floorMs: ahead,
      by: synchronised ? 'the time server and the cloud' : expect.stringMatching(/^the cloud, within/),
    });
    expect(clock.overruled()).toBeNull();
    // Later, without the cloud: the floor does not come back, and one that is raised from the same source again is overruled again.
    clock.advance(43_200_000);
    expect(clock.wallMs()).toBe(OFFSET + 5_000 + 43_200_000);
    clock.observe(trip(clock.boottimeMs(), 10, 10));
    clock.raiseFloor(ahead);
    expect(clock.trusted()).toBe(true);
  }
});

test('a floor stands against a time server alone, against one that the cloud contradicts, and against a cloud that answers slowly (T3)', () => {
  const ahead = Date.UTC(2036, 0, 1);
  const alone = createSimClock({ wallMs: OFFSET + 5_000, boottimeMs: 5_000 });
  alone.raiseFloor(ahead);
  alone.takeJump();
  expect([alone.trusted(), alone.overruled()]).toEqual([false, null]);
  const contradicted = createSimClock({ wallMs: OFFSET + 5_000 + 600_000, boottimeMs: 5_000 });
  contradicted.raiseFloor(ahead);
  contradicted.observe(trip(5_000, 10, 10));
  expect([contradicted.trusted(), contradicted.overruled()]).toEqual([false, null]);
  const slow = createSimClock({ wallMs: OFFSET + 5_000, boottimeMs: 5_000, synchronised: false });
  slow.raiseFloor(ahead);
  slow.observe(trip(5_000, 2_500, 2_500));
  expect([slow.trusted(), slow.overruled()]).toEqual([false, null]);
});

test('a step of the wall clock is noticed once, going on is not', () => {
  const clock = createSimClock();
  clock.advance(5000);
  expect(clock.takeJump()).toBeNull();
  clock.setWall(Date.UTC(2030, 0, 1));
  expect(clock.takeJump()?.byMs).toBeGreaterThan(1e10);
  expect(clock.takeJump()).toBeNull();
});

test('boot time of this machine is that of the kernel, and rises', async () => {
  const { readFileSync } = await import('node:fs');
  const clock = createClock({ source: systemTime() });
  const kernelMs = Number.parseFloat(readFileSync('/proc/uptime', 'utf8')) * 1000;
  // Two reads of a busy machine lie apart; a clock of another kind would be off by hours.
  expect(Math.abs(clock.boottimeMs() - kernelMs)).toBeLessThan(5_000);
  const first = clock.boottimeMs();
  expect(clock.boottimeMs()).toBeGreaterThan(first);
  expect(clock.bootId).toBe(readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim());
});
