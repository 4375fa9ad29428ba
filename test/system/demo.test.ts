/** `ONCE=1 make demo` as a user runs it: ends 0, and leaves neither a process nor a file. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import { eventually } from './environment.ts';

const DEMO = fileURLToPath(new URL('../../deploy/demo/demo.ts', import.meta.url));
/** Processes come and go; a look so often finds those that could stay. */
const POLL_INTERVAL_MS = 100;
/** After the demo has ended, what it started is gone within this. */
const GONE_MS = 45_000;

const folder = mkdtempSync(join(tmpdir(), 'stile-demo-test-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Seen {
  readonly pid: number;
  /** With the pid it names a process for good. */
  readonly startTicks: string;
  readonly command: string;
}

/** pid, parent and start of every process of this machine. */
function processes(): { readonly pid: number; readonly parent: number; readonly startTicks: string }[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const stat = readFileSync(`/proc/${name}/stat`, 'utf8');
        const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
        return [{ pid: Number(name), parent: Number(fields[1]), startTicks: fields[19] ?? '' }];
      } catch {
        return [];
      }
    });
}

const commandOf = (pid: number) => {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
  } catch {
    return '';
  }
};

/** Remembers everything that descends from `root`, until stopped. */
function follow(root: number): { readonly seen: ReadonlyMap<string, Seen>; stop(): void } {
  const seen = new Map<string, Seen>();
  const family = new Set([root]);
  const look = () => {
    const all = processes();
    for (let grown = true; grown; ) {
      grown = false;
      for (const { pid, parent, startTicks } of all) {
        if (!family.has(parent) || family.has(pid)) continue;
        family.add(pid);
        grown = true;
        seen.set(`${pid} ${startTicks}`, { pid, startTicks, command: commandOf(pid) });
      }
    }
    // What a launcher becomes is told as well.
    for (const [key, one] of seen) seen.set(key, { ...one, command: commandOf(one.pid) || one.command });
  };
  const timer = setInterval(look, POLL_INTERVAL_MS);
  return { seen, stop: () => clearInterval(timer) };
}

const living = (seen: ReadonlyMap<string, Seen>) => {
  const now = new Set(processes().map(({ pid, startTicks }) => `${pid} ${startTicks}`));
  return [...seen].filter(([key]) => now.has(key)).map(([, { pid, command }]) => `${pid} ${command}`);
};

/** Folders that the commands named as theirs: the database's lies outside of TMPDIR where the demo runs as root. */
const foldersOf = (seen: ReadonlyMap<string, Seen>) =>
  new Set([...seen.values()].flatMap(({ command }) => command.match(/\/\S*\/stile-(?:postgres|demo)-[A-Za-z0-9]{6}(?=\/|\s|$)/g) ?? []));

function startDemo(env: Readonly<Record<string, string>>): {
  readonly child: ChildProcess;
  readonly text: () => string;
  readonly ended: Promise<{ code: number | null; signal: string | null }>;
} {
  const { DATABASE_URL: _url, ...rest } = process.env;
  const child = spawn(process.execPath, [DEMO], { env: { ...rest, ...env, TMPDIR: folder }, stdio: ['ignore', 'pipe', 'pipe'] });
  let text = '';
  for (const stream of [child.stdout, child.stderr]) stream?.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  return { child, text: () => text, ended: new Promise((resolve) => child.on('close', (code, signal) => resolve({ code, signal }))) };
}

async function expectNothingLeft(seen: ReadonlyMap<string, Seen>): Promise<void> {
  // It did run: database, cloud and two gates at least.
  for (const part of [/postgres/, /cloud/, /stile-gate|daemon\/cli/])
    expect(
      [...seen.values()].some(({ command }) => part.test(command)),
      String(part),
    ).toBe(true);
  await eventually('every process to be gone', () => living(seen).length === 0, GONE_MS).catch(() => expect(living(seen)).toEqual([]));
  const folders = [...foldersOf(seen)];
  expect(folders.some((path) => path.includes('stile-postgres-'))).toBe(true);
  expect(folders.filter((path) => existsSync(path))).toEqual([]);
  expect(readdirSync(folder)).toEqual([]);
}

test('24 guests: the account is as planned, the exit code 0, and nothing is left', async () => {
  const demo = startDemo({ ONCE: '1', GUESTS: '24' });
  const family = follow(demo.child.pid as number);
  const { code } = await demo.ended;
  family.stop();
  expect(code, demo.text()).toBe(0);
  expect(demo.text()).toContain('all as expected');
  expect(demo.text()).toMatch(/ledger rows: gates (\d+) = Postgres \1/);
  for (const what of ['admitted', 'refused: already_redeemed', 'refused: canceled', 'refused: invalid', 'refused: unreadable', 'refused: zone'])
    expect(demo.text()).toMatch(new RegExp(`${what} +[1-9]\\d* +[1-9]\\d* +ok`));
  await expectNothingLeft(family.seen);
});

test('Ctrl-C in the middle: it ends by itself, and nothing is left', async () => {
  const demo = startDemo({ GUESTS: '24' });
  const family = follow(demo.child.pid as number);
  await eventually('the first guest', () => demo.text().includes('admitted (ticket'), 60_000);
  demo.child.kill('SIGINT');
  const { code } = await demo.ended;
  family.stop();
  expect(code, demo.text()).toBe(130);
  await expectNothingLeft(family.seen);
});
