/** The bundle as it is carried to a gate: made, unpacked elsewhere, run without npm, and a guest admitted by it. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { closeSync, existsSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { GateStatus } from '../../daemon/control/protocol.ts';
import type { GateProcess } from '../../testkit/gate-process.ts';
import { run } from '../../testkit/stack.ts';
import { EVENT, enter, eventually, logOf, openVenue, openWires, type Venue } from './environment.ts';
import { everyHelp } from './every-command.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
/** Nothing of the checkout is in its reach: neither node_modules nor the path of its runtime. */
const BARE = { PATH: '/usr/bin:/bin', HOME: '/nonexistent' };
const STOP_MS = 15_000;

let folder: string;
let launcher: string;
let venue: Venue;
let gate: GateProcess;
let bundled: ChildProcess | null = null;

const bundledGate = (...args: string[]) => run(launcher, [...args, '--config', gate.configFile], BARE);
const status = async (): Promise<GateStatus | null> => {
  const { code, stdout } = await bundledGate('status', '--json');
  return code === 0 ? (JSON.parse(stdout) as GateStatus) : null;
};
const ended = (child: ChildProcess) =>
  new Promise<number | null>((resolve) => (child.exitCode !== null ? resolve(child.exitCode) : child.once('exit', resolve)));

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'stile-bundle-'));
  const made = spawnSync(process.execPath, ['deploy/bundle.ts', 'gate', process.arch, join(folder, 'made'), '--no-database'], { cwd: root, encoding: 'utf8' });
  if (made.status !== 0) throw new Error(`no bundle: ${made.stderr}`);
  const unpacked = spawnSync('tar', ['-C', folder, '-xzf', join(folder, `made/gate-${process.arch}.tar.gz`)], { encoding: 'utf8' });
  if (unpacked.status !== 0) throw new Error(unpacked.stderr);
  launcher = join(folder, `gate-${process.arch}`, 'bin/stile-gate');
  venue = await openVenue({ gates: ['north'] });
  gate = venue.gates[0] as GateProcess;
});
afterAll(async () => {
  if (bundled !== null && bundled.exitCode === null) bundled.kill('SIGKILL');
  await venue?.close();
  rmSync(folder, { recursive: true, force: true });
});

test('holds the program, its native parts, the runtime, the stop step, units, example and installer', () => {
  const bundle = join(folder, `gate-${process.arch}`);
  expect(readdirSync(join(bundle, 'lib'))).toContain('stile-gate.mjs');
  // Nothing but the program's own parts, zod in one of its own (read when the first value is checked): no package's folder.
  expect(readdirSync(join(bundle, 'lib')).filter((name) => name !== 'native' && !name.endsWith('.mjs'))).toEqual(['zod.cjs']);
  expect(readdirSync(join(bundle, 'lib/native'))).toEqual(expect.arrayContaining(['better_sqlite3.node', 'koffi.node', 'serialport.node']));
  for (const file of [
    'bin/node',
    'bin/stile-gate',
    'libexec/stile-release',
    'install',
    'systemd/stile-gate.service',
    'share/gate.yaml.example',
    'share/doc/INSTALL.md',
  ])
    expect(existsSync(join(bundle, file)), file).toBe(true);
  const version = JSON.parse(readFileSync(join(bundle, 'version.json'), 'utf8')) as Record<string, string>;
  expect(version).toMatchObject({ arch: process.arch, runtime: process.versions.node });
  expect(spawnSync(join(bundle, 'install'), ['--help'], { encoding: 'utf8' }).stdout).toContain('--remove');
});

test('B2: every command of the bundled gate says what it is for', async () => {
  const helps = await everyHelp(launcher, BARE);
  expect(helps.map(({ command }) => command)).toEqual(expect.arrayContaining(['', 'run', 'doctor', 'ledger export', 'readers assign']));
  for (const { command, result } of helps) expect([command, result.code, result.stderr, result.stdout.includes('Usage:')]).toEqual([command, 0, '', true]);
});

test('takes over the store of a gate run from a checkout, admits a guest without npm, and its rows reach Postgres', async () => {
  await enter(gate, venue.ticket());
  await venue.settled();
  await gate.stop();

  const log = openSync(join(folder, 'gate.log'), 'a');
  bundled = spawn(launcher, ['run', '--config', gate.configFile], { env: BARE, cwd: folder, stdio: ['ignore', log, log] });
  closeSync(log);
  await eventually('the bundled gate', async () => (await status())?.manifests.length, 90_000);
  const ticket = venue.ticket();
  const wires = await openWires(gate);
  gate.show(ticket.code);
  const rows = await eventually('both rows in Postgres', async () => {
    const found = await venue.ask<{ kind: string }>("SELECT kind FROM ledger_rows WHERE entry::jsonb ->> 'ticket_id' = $1 ORDER BY seq", [ticket.ticketId]);
    return found.length >= 2 ? found : null;
  });
  expect(rows.map(({ kind }) => kind)).toEqual(['grant', 'passage']);
  expect(wires.releases()).toBe(1);
  wires.close();
  expect((await status())?.manifests[0]?.event_id).toBe(EVENT);
  const verified = await bundledGate('ledger', 'verify', '--json');
  expect(JSON.parse(verified.stdout)).toMatchObject({ ok: true });
  const doctor = await bundledGate('doctor', '--json');
  expect(doctor.code, doctor.stdout).toBe(0);
});

test('ends cleanly when told to, every wire in its defined state', async () => {
  const child = bundled as ChildProcess;
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_MS);
  expect(await ended(child), logOf(join(folder, 'gate.log'))).toBe(0);
  clearTimeout(timer);
  const wires = `${gate.simSocket}.wires`;
  expect(readdirSync(wires).length).toBeGreaterThan(0);
  expect(readFileSync(join(wires, 'release_in'), 'utf8').trim()).toBe('0');
});
