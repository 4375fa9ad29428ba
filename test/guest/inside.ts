/**
 * Runs inside the guest, by the bundle's own runtime: installs the gate from empty, sees guests admitted, and ends the daemon
 * in every way there is. Says on the console what came of each step; test/guest/prove.ts on the host listens and plays the reader.
 *
 *   PROOF <name>: ok <detail> | FAILED <detail>      SHOW <number of the ticket>      DONE
 */
import { spawnSync } from 'node:child_process';
import { appendFileSync, existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

const BUNDLE = '/root/bundle';
const INSTALL = `${BUNDLE}/install`;
const GATE = '/opt/stile/bin/stile-gate';
const SIM = '/run/stile/sim.sock';
const RELEASE_WIRE = `${SIM}.wires/release_in`;
const CONSOLE = process.env['PROVE_CONSOLE'] ?? '/dev/ttyAMA0';
/** Steps that wait for the network or a start; an emulated processor is some 20 times slower than a Pi's. */
const PATIENCE_MS = process.env['PROVE_WATCHDOG_S'] === undefined ? 60_000 : 300_000;
/** Raised where the processor is emulated; elsewhere the unit's own. */
const WATCHDOG_S = process.env['PROVE_WATCHDOG_S'];
/** LANE.md: killed, the release is safe within 1 s; hung, within 5 s. */
const KILLED_BOUND_MS = WATCHDOG_S === undefined ? 1_000 : 10_000;
const HUNG_BOUND_MS = WATCHDOG_S === undefined ? 5_000 : Number(WATCHDOG_S) * 1_000 + 15_000;

const now = () => Number(process.hrtime.bigint() / 1_000_000n);
const say = (line: string) => appendFileSync(CONSOLE, `\n${line}\n`);

function run(file: string, ...args: string[]): { readonly code: number; readonly out: string } {
  const { status, stdout, stderr } = spawnSync(file, args, { encoding: 'utf8' });
  return { code: status ?? -1, out: `${stdout}${stderr}`.trim() };
}
const property = (name: string, unit = 'stile-gate') => run('systemctl', 'show', '-p', name, '--value', unit).out;
const json = <T>(...args: string[]): T => {
  const { status, stdout, stderr } = spawnSync(GATE, [...args, '--json'], { encoding: 'utf8' });
  if (status !== 0) throw new Error(`stile-gate ${args.join(' ')} ended with ${status}: ${stderr.slice(0, 300)}`);
  return JSON.parse(stdout) as T;
};

class Failed extends Error {}
const must = (holds: boolean, otherwise: string): void => {
  if (!holds) throw new Failed(otherwise);
};
/** One line, for the console. */
const short = (text: string) => text.replaceAll(/\s+/g, ' ').slice(-400);

async function proof(name: string, step: () => Promise<string> | string): Promise<void> {
  try {
    say(`PROOF ${name}: ok ${short(await step())}`);
  } catch (error) {
    say(`PROOF ${name}: FAILED ${short((error as Error).message)}`);
    const journal = run('journalctl', '-u', 'stile-gate', '-n', '15', '--no-pager', '-o', 'cat').out;
    for (const line of journal.split('\n')) say(`JOURNAL ${line.slice(0, 300)}`);
  }
}

async function until(what: string, holds: () => boolean, boundMs = PATIENCE_MS, everyMs = 200): Promise<number> {
  const from = now();
  for (;;) {
    try {
      if (holds()) return now() - from;
    } catch (error) {
      if (now() - from > boundMs) throw error;
    }
    must(now() - from <= boundMs, `${what}: not within ${boundMs} ms`);
    await sleep(everyMs);
  }
}

const wire = () => readFileSync(RELEASE_WIRE, 'utf8').trim();
const running = () => property('ActiveState') === 'active';
interface Status {
  readonly pid: number;
  readonly manifests: readonly unknown[];
  readonly uplink: { readonly online: boolean };
  readonly ledger: { readonly backlog: number };
  readonly start_ms: number;
  readonly fire: { readonly latched: boolean };
}

/** One message to the software turnstile. */
const simulate = (message: object) =>
  new Promise<void>((resolve, reject) => {
    const socket = connect(SIM, () => socket.write(`${JSON.stringify(message)}\n`));
    socket.setEncoding('utf8').on('data', (text: string) => {
      if (!text.includes('"ok"') && !text.includes('"error"')) return;
      socket.destroy();
      if (text.includes('"error"')) reject(new Error(`the software turnstile: ${text}`));
      else resolve();
    });
    socket.on('error', reject);
  });

/** A guest shows a ticket and nobody turns the arms: the release is held. Answers when it is. */
async function releaseHeld(ticket: number): Promise<void> {
  await until('the gate is ready again', () => running() && json<Status>('status').manifests.length > 0);
  await simulate({ walk: { mode: 'nobody' } });
  await sleep(500);
  say(`SHOW ${ticket}`);
  await until('the release', () => wire() === '1', 30_000, 5);
}

/** From now until the wire is back, looked at every millisecond. */
async function untilReturned(boundMs: number): Promise<number> {
  const from = now();
  while (wire() !== '0') {
    must(now() - from <= boundMs + 10_000, `the release was still driven after ${boundMs + 10_000} ms`);
    await sleep(1);
  }
  const took = now() - from;
  must(took <= boundMs, `the release came back after ${took} ms, and the bound is ${boundMs} ms`);
  return took;
}

async function endedBy(signal: 'SIGKILL' | 'SIGSTOP', ticket: number, boundMs: number): Promise<string> {
  await releaseHeld(ticket);
  const pid = Number(property('MainPID'));
  must(pid > 1, 'there is no main process');
  process.kill(pid, signal);
  const tookMs = await untilReturned(boundMs);
  const againMs = await until('the service again', () => running() && Number(property('MainPID')) !== pid, PATIENCE_MS, 100);
  return `release returned after ${tookMs} ms (bound ${boundMs}); the service ran again ${tookMs + againMs} ms after the signal`;
}

async function proveInstall(): Promise<void> {
  await proof('bad configuration refused', () => {
    writeFileSync('/root/bad.yaml', readFileSync('/root/gate.yaml', 'utf8').replace('pulse_ms', 'puls_ms'));
    const { code, out } = run(INSTALL, '--config', '/root/bad.yaml');
    must(code === 78, `ended with ${code}: ${out}`);
    for (const path of ['/opt/stile', '/opt/stile.d', '/etc/stile', '/etc/systemd/system/stile-gate.service'])
      must(!existsSync(path), `${path} was made all the same`);
    return `exit code 78, nothing was touched; ${/did you mean [a-z_]+\?/.exec(out)?.[0] ?? ''}`;
  });
  await proof('installed from empty', () => {
    const from = now();
    const { code, out } = run(INSTALL, '--config', '/root/gate.yaml', '--files', '/root/files');
    must(code === 0, `ended with ${code}: ${out}`);
    must(running(), `the service is ${property('ActiveState')}`);
    const key = statSync('/etc/stile/gate.key');
    must((key.mode & 0o777) === 0o640 && key.uid === 0, 'the key can be read by others');
    return `${now() - from} ms, from the first command to a service that answers; start to first possible decision ${json<Status>('status').start_ms} ms`;
  });
  await proof('hardening', () => {
    const { out } = run('systemd-analyze', 'security', '--no-pager', 'stile-gate.service');
    const level = /Overall exposure level for \S+: ([\d.]+)/.exec(out)?.[1];
    must(level !== undefined && Number(level) <= 1.9, `exposure ${level}`);
    return `exposure ${level}`;
  });
  await proof('manifest fetched', async () => {
    const tookMs = await until('a manifest', () => json<Status>('status').manifests.length > 0);
    return `from the cloud, ${tookMs} ms after the install`;
  });
}

async function proveGuests(): Promise<void> {
  await proof('first guest admitted', async () => {
    await sleep(500);
    const from = now();
    say('SHOW 0');
    await until('the release', () => wire() === '1', 30_000, 2);
    const openMs = now() - from;
    await until('grant and passage', () => ['grant', 'passage'].every((kind) => json<unknown[]>('ledger', 'ls', '--kind', kind).length > 0));
    await until('the rows to be acknowledged', () => json<Status>('status').ledger.backlog === 0);
    return `release ${openMs} ms after the code was asked for; grant and passage acknowledged by the cloud`;
  });
  await proof('same ticket refused', async () => {
    await sleep(6_000);
    say('SHOW 0');
    await until('the refusal', () => json<unknown[]>('ledger', 'ls', '--kind', 'refusal').length > 0, 30_000, 500);
    must(wire() === '0', 'the release is driven');
    return 'recorded, not opened';
  });
}

async function proveEnds(): Promise<void> {
  await proof('killed in mid-pulse', () => endedBy('SIGKILL', 1, KILLED_BOUND_MS));
  await proof('hung in mid-pulse', () => endedBy('SIGSTOP', 2, HUNG_BOUND_MS));
  await proof('stopped in mid-pulse', async () => {
    await releaseHeld(3);
    const from = now();
    const { code, out } = run('systemctl', 'stop', 'stile-gate');
    must(code === 0 && wire() === '0', `stop ended with ${code}, the wire is ${wire()}: ${out}`);
    must(property('Result') === 'success', `the unit's result is ${property('Result')}`);
    return `within ${now() - from} ms, the guest under way waited for; result success`;
  });
  await proof('stop step ran from memory', () => {
    must(/noexec/.test(run('findmnt', '-no', 'OPTIONS', '/run').out), '/run is not noexec here: this proves nothing');
    must(statSync('/run/stile-release/stile-release').size > 0, 'no copy in /run');
    const { out } = run('journalctl', '-u', 'stile-gate', '--no-pager', '-o', 'cat');
    const complaints = out.split('\n').filter((line) => line.startsWith('stile-release:') || /Failed at step|status=203/.test(line));
    must(complaints.length === 0, complaints.join('; '));
    return '/run is mounted noexec, and the unit runs its copy all the same';
  });
  await proof('fire keeps the lane open', async () => {
    must(run('systemctl', 'start', 'stile-gate').code === 0, 'did not start');
    await simulate({ input: 'fire', active: true });
    await until('the release opened by fire', () => wire() === '1', 10_000, 20);
    await until('the latch', () => json<Status>('status').fire.latched, 20_000);
    const { code } = run(INSTALL);
    must(code === 75, `an update during a fire ended with ${code}`);
    const pid = Number(property('MainPID'));
    process.kill(pid, 'SIGKILL');
    const seen = new Set<string>();
    await until(
      'the service again',
      () => {
        seen.add(wire());
        return Number(property('MainPID')) !== pid && running();
      },
      PATIENCE_MS,
      5,
    );
    must(!seen.has('0') && wire() === '1', 'the release was shut while fire was latched');
    must(json<Status>('status').fire.latched, 'the latch did not outlive the process');
    const reset = run(GATE, 'reset-emergency', '--reason', 'drill over', '--actor', 'staff-1');
    must(reset.code === 0, reset.out);
    await until('the lane shut again', () => wire() === '0', 20_000, 50);
    return 'open through kill and restart, update refused with 75, shut again by reset-emergency';
  });
}

async function proveRest(): Promise<void> {
  await proof('rows arrive after all this', async () => {
    const tookMs = await until('no backlog', () => json<Status>('status').ledger.backlog === 0);
    const verify = run(GATE, 'ledger', 'verify');
    must(verify.code === 0, verify.out);
    return `backlog 0 after ${tookMs} ms; ${verify.out.split('\n').at(-1)}`;
  });
  await proof('doctor', () => {
    const { code, out } = run(GATE, 'doctor');
    const bad = out.split('\n').filter((line) => /\bfail\b/.test(line));
    must(code === 0 && bad.length === 0, `ended with ${code}: ${bad.join('; ') || out}`);
    return `${out.split('\n').filter((line) => /\bok\b/.test(line)).length} parts ok`;
  });
  await proof('installed again', () => {
    const rows = json<unknown[]>('ledger', 'ls', '-n', '500').length;
    const { code, out } = run(INSTALL);
    must(code === 0, `ended with ${code}: ${out}`);
    must(json<unknown[]>('ledger', 'ls', '-n', '500').length >= rows, 'rows are missing');
    return 'an update over a running gate: record kept, service answers';
  });
  await proof('a version that does not start is taken back', () => {
    run('cp', '-R', BUNDLE, '/root/broken');
    // It answers the installer's questions, and ends when it is to run.
    const program = '/root/broken/lib/stile-gate.mjs';
    writeFileSync(program, readFileSync(program, 'utf8').replace(/^(?!import )/m, "if (process.argv[2] === 'run') throw new Error('broken');\n"));
    const { code, out } = run('/root/broken/install');
    must(code === 1 && out.includes('the one before was put back'), `ended with ${code}: ${out}`);
    must(running(), 'no gate runs now');
    json<Status>('status');
    return 'exit code 1, the version before runs and answers';
  });
  await proof('removed', () => {
    const { code, out } = run(INSTALL, '--remove');
    must(code === 0, out);
    for (const path of ['/opt/stile', '/etc/systemd/system/stile-gate.service', '/usr/local/bin/stile-gate']) must(!existsSync(path), `${path} is still there`);
    for (const path of ['/etc/stile/gate.yaml', '/var/lib/stile']) must(existsSync(path), `${path} is gone`);
    must(property('ActiveState') !== 'active', 'the service runs');
    return 'program and units are gone, configuration and record are kept';
  });
}

/** The cloud's unit, where its bundle was put: started as INSTALL.md says. */
async function proveCloud(): Promise<void> {
  await proof('cloud as a service', async () => {
    const script = `set -e; cd /root/cloud; mv cloud-* /opt/stile-cloud; cd /opt/stile-cloud/systemd; cp stile.conf /etc/sysusers.d/; systemd-sysusers stile.conf
      cp stile-cloud.service /etc/systemd/system/; install -D -o stile-cloud -m 600 /root/cloud/signing-key.pem /var/lib/stile-cloud/signing-key.pem; rm /root/cloud/signing-key.pem; mkdir -p /etc/stile; cp /root/cloud/* /etc/stile/; chown -R root:stile-cloud /etc/stile; chmod -R u=rwX,g=rX,o= /etc/stile
      systemctl daemon-reload; systemctl start stile-cloud`;
    const started = run('sh', '-c', script);
    const journal = () => run('journalctl', '-u', 'stile-cloud', '-n', '8', '--no-pager', '-o', 'cat').out;
    must(started.code === 0 && property('ActiveState', 'stile-cloud') === 'active', `${started.out} ${journal()}`);
    const fed = () => property('WatchdogTimestampMonotonic', 'stile-cloud');
    const before = fed();
    await until('the watchdog to be fed', () => fed() !== before, 20_000);
    const level = /Overall exposure level for \S+: ([\d.]+)/.exec(run('systemd-analyze', 'security', '--no-pager', 'stile-cloud.service').out)?.[1];
    const stopped = run('systemctl', 'stop', 'stile-cloud');
    must(stopped.code === 0 && property('Result', 'stile-cloud') === 'success', `stopped with ${property('Result', 'stile-cloud')}: ${journal()}`);
    return `migrated, ready, watchdog fed, stopped cleanly; exposure ${level}`;
  });
}

say('PROOF booted: ok');
await proveInstall();
await proveGuests();
await proveEnds();
await proveRest();
if (existsSync('/root/cloud')) await proveCloud();
say('DONE');
run('systemctl', 'poweroff', '--force', '--force');
