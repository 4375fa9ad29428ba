/**
 * Types docs/INSTALL.md into empty Debian machines, from the first command to the first guest of two gates: what is run is taken
 * from the document. The server gets PostgreSQL, Mosquitto and nginx from Debian's packages; gates come in over TLS alone.
 *
 *   node test/guest/install.ts bookworm|trixie [--keep]
 *
 * Not as printed: the bundle of this machine's architecture, the software turnstile (`driver: sim`), and a reader whose other end
 * this machine holds. Needs root and what test/guest/make-rootfs needs. The log of every command with what it said:
 * .tools/guest/install-<suite>.log. Exit codes: 0 the guests are in, 1 not, 2 usage.
 */
import { chmodSync, copyFileSync, existsSync, globSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { openPtyPair } from '../../daemon/sim/pty-pair.ts';
import type { Arch } from '../../deploy/compile.ts';
import { DEBIAN } from '../../deploy/deb.ts';
import { unpackSystem } from './container.ts';
import { type Step, stepsOf } from './document.ts';
import { type Release, run } from './environment.ts';
import { bootMachine, connectMachine, type Machine } from './machine.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const SUITES = ['bookworm', 'trixie'];
/** As the document has it. */
const SERVER = '192.168.1.10';
const GATE = 'north-03';
/** The code of the ticket that the document imports. */
const CODE = /T-1,([A-Za-z0-9_-]+)/;
const GUEST_MS = 60_000;
const POLL_MS = 250;

class NotProven extends Error {
  override name = 'NotProven';
}

interface Run {
  readonly suite: string;
  readonly folder: string;
  readonly log: string;
  /** The folder of a release. */
  readonly packages: string;
  readonly releases: Release[];
  readonly steps: readonly Step[];
}

const say = (words: string) => process.stdout.write(`${words}\n`);

async function boot({ suite, folder, log, releases }: Run, name: string): Promise<Machine> {
  const tree = join(folder, name);
  mkdirSync(tree);
  unpackSystem(join(root, `.tools/guest/server-${suite}.tar`), tree, true);
  const machine = await bootMachine(name, tree, log);
  releases.push(() => machine.stop());
  return machine;
}

/** Types one command; throws with what it said where it fails. */
function typed(machine: Machine, command: string): string {
  const { code, out } = machine.type(command);
  if (code !== 0) throw new NotProven(`${machine.name}# ${command}\nended with ${code}:\n${out.slice(-3_000)}`);
  return out;
}

/** The same for a command of the document, and tells it. */
function act(machine: Machine, command: string): void {
  say(`  ${machine.name}# ${command}`);
  typed(machine, command);
}

/** As this machine needs it: its architecture, and the name of the gate at hand. */
const asHere = (text: string, gate: string): string => text.replaceAll('arm64', DEBIAN[process.arch as Arch]).replaceAll(GATE, gate);

/** Sets one gate up as the document says and lets a guest in. Answers the number of actions. */
async function addGate(at: Run, server: Machine, gate: string, address: string, code: string): Promise<number> {
  const machine = await boot(at, gate);
  connectMachine(server, SERVER, machine, address);
  const reader = openPtyPair();
  at.releases.push(() => reader.close());
  // Its owner and group are this machine's.
  chmodSync(reader.readerPath, 0o666);
  let actions = 0;
  for (const step of at.steps) {
    if (step.kind === 'run' && !step.eachGate) continue;
    actions += 1;
    if (step.kind === 'run') act(step.where === 'server' ? server : machine, asHere(step.command, gate));
    else if (step.kind === 'file')
      writeFileSync(
        join(server.tree, 'root', step.name),
        asHere(step.text, gate)
          .replace(/path: \/dev\/serial\/[^,\s]+/, `path: ${reader.readerPath}`)
          .replace('driver: gpio', 'driver: sim'),
      );
    else
      for (const file of step.files) {
        const name = asHere(file, gate);
        const place = join(server.tree, name.startsWith('/') ? name : `root/${name}`);
        const found = globSync(place);
        if (found.length !== 1) throw new NotProven(`${file}: ${found.length} files of that name are to be carried`);
        for (const one of found) copyFileSync(one, join(machine.tree, 'root', basename(one)));
      }
  }
  await until('the ticket list', () => JSON.parse(typed(machine, 'stile-gate status --json')).manifests.length > 0);
  const fromMs = Date.now();
  writeFileSync(reader.guestPath, `${code}\r\n`);
  await until('the passage', () => JSON.parse(typed(machine, 'stile-gate status --json')).totals.passages === 1);
  const rows = `SELECT string_agg(kind, ',' ORDER BY seq) FROM ledger_rows WHERE gate = 'arena/${gate}' AND kind IN ('grant', 'passage')`;
  await until('both rows in Postgres', () => typed(server, `cd / && runuser -u postgres -- psql -d stile -Atc "${rows}"`).trim() === 'grant,passage');
  say(`ok: a guest is in at ${gate}, grant and passage are in Postgres ${((Date.now() - fromMs) / 1000).toFixed(1)} s after the code was read`);
  const listed = typed(server, 'stile-cloud gates');
  if (!new RegExp(`arena/${gate} +online`).test(listed)) throw new NotProven(`the cloud does not see it:\n${listed}`);
  return actions;
}

async function until(what: string, holds: () => boolean): Promise<void> {
  const deadline = Date.now() + GUEST_MS;
  while (!holds()) {
    if (Date.now() > deadline) throw new NotProven(`${what} did not come within ${GUEST_MS / 1000} s`);
    await sleep(POLL_MS);
  }
}

async function prove(at: Run): Promise<void> {
  const server = await boot(at, 'server');
  for (const file of readdirSync(at.packages)) if (file.endsWith('.deb')) copyFileSync(join(at.packages, file), join(server.tree, 'root', file));
  // The network of the venue is there before the first command, and leads nowhere else.
  server.type(`ip link set lo up; ip addr add ${SERVER}/32 dev lo`);
  const fromMs = Date.now();
  let actions = 0;
  const once = at.steps.filter((step) => step.kind === 'run' && !step.eachGate) as readonly Extract<Step, { kind: 'run' }>[];
  for (const { command } of once) {
    act(server, asHere(command, GATE));
    actions += 1;
  }
  const ready = Date.now();
  const codes = once.map(({ command }) => CODE.exec(command)?.[1]).find((code) => code !== undefined);
  if (codes === undefined) throw new NotProven('the document imports no ticket T-1');
  const first = await addGate(at, server, GATE, '192.168.1.11', codes);
  const firstGuest = Date.now();
  const second = await addGate(at, server, 'north-04', '192.168.1.12', /T-2,([A-Za-z0-9_-]+)/.exec(once.map(({ command }) => command).join('\n'))?.[1] ?? '');
  const minutes = (ms: number) => (ms / 60_000).toFixed(1);
  say(
    `${at.suite}: ${actions + first} actions to the first guest (${actions} on the server once, ${first} for the gate) in ${minutes(firstGuest - fromMs)} minutes of machine time, ` +
      `${minutes(ready - fromMs)} of them until the server stood; a second gate: ${second} actions, ${minutes(Date.now() - firstGuest)} minutes`,
  );
}

async function main(args: readonly string[]): Promise<number> {
  const [suite, ...options] = args;
  if (suite === undefined || !SUITES.includes(suite) || options.some((option) => option !== '--keep')) {
    process.stderr.write(`usage: node test/guest/install.ts ${SUITES.join('|')} [--keep]\n`);
    return 2;
  }
  run('sh', ['test/guest/make-rootfs', suite]);
  // What people receive: the release's packages, of this checkout as it is.
  const packages = join(root, '.tools/guest/release');
  run(process.execPath, ['deploy/release.ts', '--arch', process.arch, '--out', packages, '--changed']);
  const folder = mkdtempSync(existsSync('/var/tmp') ? '/var/tmp/stile-install-' : '/tmp/stile-install-');
  const log = join(root, `.tools/guest/install-${suite}.log`);
  writeFileSync(log, '');
  const releases: Release[] = [];
  const release = async () => {
    for (const one of releases.splice(0).toReversed()) await one();
  };
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void release().finally(() => process.exit(1)));
  try {
    await prove({ suite, folder, log, packages, releases, steps: stepsOf(readFileSync(join(root, 'docs/INSTALL.md'), 'utf8')) });
    return 0;
  } catch (error) {
    if (!(error instanceof NotProven)) throw error;
    process.stderr.write(`install: ${error.message}\n`);
    return 1;
  } finally {
    if (options.includes('--keep')) process.stderr.write(`install: kept ${folder}\n`);
    await release();
    if (!options.includes('--keep')) rmSync(folder, { recursive: true, force: true });
  }
}

process.exitCode = await main(process.argv.slice(2));
