/**
 * One durable decision at the pace of real guests, who come seconds and not milliseconds after one another: what happens in the
 * pauses (usage, checks, checkpoints) is part of the next guest's way. The decider's core alone, in this process.
 *
 *   node bench/arrival-rate.ts [--codes 100] [--pause 700] [--dir <folder on the disk to measure>]
 *
 * Where `--dir` is the mount point of a device of its own (a loop device will do), what the device wrote for each guest is told too:
 * writes, KiB and flushes of its cache, from /proc/diskstats. Those do not depend on how busy the machine is.
 */
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { openDeciderEngine } from '../daemon/decider/decider.ts';
import { createSigner, GATE, makeManifest, newCode, show, stampAt, ticket } from '../daemon/decider/testing/store.ts';
import type { Decision } from '../daemon/ports.ts';
import { quantile, table } from './table.ts';

const { values } = parseArgs({
  options: { codes: { type: 'string', default: '100' }, pause: { type: 'string', default: '700' }, dir: { type: 'string', default: tmpdir() } },
});
const CODES = Number(values.codes);
const PAUSE_MS = Number(values.pause);
/** As the worker does: first idle step so long after a call, then what syncs when nobody came for so long. */
const IDLE_AFTER_MS = 6;
const QUIET_AFTER_MS = 500;
const TICKETS = 10_000;

/** Returns the counters of the device that holds the folder. Fields: Documentation/admin-guide/iostats.rst of the kernel. */
function device(): { readonly writes: number; readonly kib: number; readonly flushes: number } {
  const { dev } = statSync(values.dir);
  // As the kernel packs major and minor, for the small numbers that disks have.
  const [major, minor] = [(dev >> 8) & 0xfff, (dev & 0xff) | ((dev >> 12) & 0xfff00)];
  const line = readFileSync('/proc/diskstats', 'utf8')
    .split('\n')
    .map((text) => text.trim().split(/\s+/))
    .find(([a, b]) => Number(a) === major && Number(b) === minor);
  const field = (at: number): number => Number(line?.[at] ?? Number.NaN);
  return { writes: field(7), kib: field(9) / 2, flushes: field(18) };
}

const folder = mkdtempSync(join(values.dir, 'stile-pace-'));
try {
  const signer = createSigner();
  const codes = Array.from({ length: TICKETS }, newCode);
  let nowMs = 1_000;
  const stamp = () => stampAt(nowMs);
  const core = await openDeciderEngine(
    { path: join(folder, 'store'), gate: GATE, verifyKeys: [signer.publicKey], notice: (what, detail) => process.stderr.write(`${what}: ${detail}\n`) },
    stamp(),
  );
  const { file, wanted } = await makeManifest(folder, signer, { version: 1, tickets: codes.map((code) => ticket(code)) });
  const installed = await core.installManifest(file, wanted, stamp());
  if (!installed.ok) throw new Error(installed.message);
  const us = () => Number(process.hrtime.bigint()) / 1_000;
  const rest = async (ms: number): Promise<void> => {
    await sleep(Math.min(ms, IDLE_AFTER_MS));
    while (core.idle(stamp(), false)) {
      /* to the end */
    }
    if (ms <= QUIET_AFTER_MS) return void (await sleep(Math.max(0, ms - IDLE_AFTER_MS)));
    await sleep(QUIET_AFTER_MS - IDLE_AFTER_MS);
    while (core.idle(stamp(), true) || core.preallocateWal()) {
      /* to the end */
    }
    await sleep(ms - QUIET_AFTER_MS);
  };
  await rest(QUIET_AFTER_MS + 100);

  const whole: number[] = [];
  const commits: number[] = [];
  const before = device();
  const during = { writes: 0, kib: 0, flushes: 0 };
  for (let guest = 0; guest < CODES; guest++) {
    nowMs += PAUSE_MS;
    const asked = device();
    const began = us();
    const decision = core.decide(guest, show(codes[guest % TICKETS] as string, nowMs), stamp(), () => us() - began) as Decision;
    whole.push(us() - began);
    commits.push(decision.stages.commit_us);
    const answered = device();
    during.writes += answered.writes - asked.writes;
    during.kib += answered.kib - asked.kib;
    during.flushes += answered.flushes - asked.flushes;
    await sleep(40);
    core.record({ kind: 'passage', of: decision.row, direction: 'in', unit: 1, outcome: 'passed' }, stamp());
    await rest(PAUSE_MS - 40);
  }
  const after = device();
  core.close();
  const per = (value: number): string => (value / CODES).toFixed(2);
  process.stdout.write(
    `${table(
      ['of one guest', 'decision p50 µs', 'p99', 'commit p50 µs', 'writes', 'KiB', 'flushes'],
      [
        [
          'until the answer',
          quantile(whole, 0.5).toFixed(0),
          quantile(whole, 0.99).toFixed(0),
          quantile(commits, 0.5).toFixed(0),
          per(during.writes),
          per(during.kib),
          per(during.flushes),
        ],
        ['all, passage and pause', '', '', '', per(after.writes - before.writes), per(after.kib - before.kib), per(after.flushes - before.flushes)],
      ],
    )}\n`,
  );
} finally {
  rmSync(folder, { recursive: true, force: true });
}
