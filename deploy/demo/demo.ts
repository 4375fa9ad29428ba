/**
 * `make demo`: a database, a broker, the cloud, two gates with software turnstiles behind real pseudo-terminals, and guests.
 *
 *   node deploy/demo/demo.ts          one screen and keys, until q or Ctrl-C; a scripted minute begins by itself
 *   ONCE=1 node deploy/demo/demo.ts   200 guests, then a table of what was expected and what Postgres holds; exit code 0 or 1
 *
 * GUESTS=n changes their number, SEED=text who they are, KEEP=1 keeps the folder with every log. Without a terminal: plain lines. Everything lives in one temporary
 * folder, which is removed at the end; nothing is left running.
 */
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type DemoBroker, startDemoBroker } from '../../testkit/demo-broker.ts';
import type { GateProcess } from '../../testkit/gate-process.ts';
import { startPostgres } from '../../testkit/postgres.ts';
import { prepareDatabase } from '../../testkit/prepare-database.ts';
import { openStack, type Stack } from '../../testkit/stack.ts';
import { createActions } from './actions.ts';
import { openAccount } from './counts.ts';
import { type Played, playGate } from './guests.ts';
import { type DemoPlan, EVENT_ID, expectedCounts, GATES, planDemo, SITE_ID, ZONES } from './plan.ts';
import { judge } from './result.ts';
import { ENTER_SCREEN, LEAVE_SCREEN } from './screen.ts';
import { runScript } from './script.ts';
import { createShow, type Show } from './view.ts';

const ONCE = (process.env['ONCE'] ?? '') !== '' && process.env['ONCE'] !== '0';
const SEED = process.env['SEED'] ?? 'stile';
const DEFAULT_GUESTS = 200;
/** Rows may take so long to arrive once the last guest is through. */
const SETTLE_MS = 30_000;
const PACE_MS = { once: 0, shown: 900 };

const interactive = process.stdout.isTTY === true && process.stdin.isTTY === true && !ONCE;
const began = performance.now();
const say = (text: string) => process.stdout.write(`${((performance.now() - began) / 1000).toFixed(1).padStart(6)} s  ${text}\n`);

const releases: (() => Promise<void> | void)[] = [];
let ending: Promise<void> | null = null;
/** Gives everything back, in reverse; whoever asks again waits for the same end. */
function end(): Promise<void> {
  ending ??= (async () => {
    for (const release of releases.toReversed())
      await Promise.resolve(release()).catch((error: unknown) => process.stderr.write(`demo: ${(error as Error).message}\n`));
  })();
  return ending;
}

interface DemoParts {
  /** A superuser's login, which sees every tenant's rows. */
  readonly lookUrl: string;
  readonly broker: DemoBroker;
  readonly stack: Stack;
  readonly gates: GateProcess[];
  /** The operators' page, and a token that opens it. */
  readonly operators: { readonly url: string; readonly token: string };
}

async function setUp(dir: string, plan: DemoPlan): Promise<DemoParts> {
  say('starting the database');
  const postgres = await startPostgres();
  releases.push(() => postgres.stop());
  say('starting the broker');
  const broker = await startDemoBroker();
  releases.push(() => broker.close());
  const database = await prepareDatabase(postgres.url);
  const stack = await openStack({ dir, databaseUrl: database.servingUrl, migrateUrl: database.ownerUrl, mqtt: { url: broker.url } });
  releases.push(() => stack.close());
  say('making the tables: stile-cloud migrate');
  await stack.cloud('migrate');
  const policies = join(dir, 'policies.json');
  // A second presentation counts at once here; a venue keeps the default of 10 s.
  writeFileSync(policies, JSON.stringify({ event: { duplicate_window_s: 0 } }));
  await stack.cloud(
    'event',
    'put',
    EVENT_ID,
    '--site',
    SITE_ID,
    '--name',
    'Demo night',
    '--time-zone',
    Intl.DateTimeFormat().resolvedOptions().timeZone,
    '--ends',
    new Date(Date.now() + 24 * 3_600_000).toISOString(),
    '--policies',
    policies,
    '--no-wait',
  );
  const tickets = join(dir, 'tickets.csv');
  writeFileSync(
    tickets,
    ['ticket_id,code,tier,zone,status', ...plan.tickets.map(({ ticket_id, code, tier, zone, status }) => [ticket_id, code, tier, zone, status].join(','))].join(
      '\n',
    ),
  );
  say(`selling ${plan.tickets.length} tickets: stile-cloud import`);
  await stack.cloud('import', EVENT_ID, tickets, '--no-wait');
  const gates: GateProcess[] = [];
  for (const gate of GATES)
    gates.push(
      await stack.addGate(gate, [EVENT_ID], {
        zones: [ZONES.served],
        passageMs: ONCE ? 200 : 500,
        settings: { turnstile: { release: 'pulse', sensor: 'per_direction', repeat_ms: 800, while_open: 'queue' } },
      }),
    );
  say('starting the cloud: stile-cloud all');
  await stack.startCloud();
  say('starting two gates: stile-gate run');
  await Promise.all(gates.map((gate) => gate.start()));
  await Promise.all(gates.map((gate) => gate.until(({ manifests }) => manifests.length > 0, 30_000)));
  say('both gates hold their tickets');
  const { token } = JSON.parse(await stack.cloud('operator', 'add', 'demo', '--actor', 'demo', '--days', '1', '--json')) as { token: string };
  return {
    lookUrl: Object.assign(new URL(postgres.url), { pathname: new URL(database.ownerUrl).pathname }).href,
    broker,
    stack,
    gates,
    operators: { url: `${stack.cloudUrl}/console`, token },
  };
}

/** Compares the expected rows in Postgres with those that are there. */
async function verdict(databaseUrl: string, plan: DemoPlan, played: readonly Played[], gates: readonly GateProcess[]): Promise<boolean> {
  const account = await openAccount(databaseUrl);
  try {
    const deadline = performance.now() + SETTLE_MS;
    const rows = async () => {
      const statuses = await Promise.all(gates.map((gate) => gate.fresh()));
      return statuses.reduce((sum, status) => sum + status.ledger.last_seq, 0);
    };
    const admitted = expectedCounts(plan.guests).get('admitted') ?? 0;
    let [inGates, inPostgres, facts] = [await rows(), await account.rows(), await account.facts()];
    // The last guests are still in the arms of the turnstile, the last rows on their way.
    while ((inGates !== inPostgres || facts.passed < admitted) && performance.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 200));
      [inGates, inPostgres, facts] = [await rows(), await account.rows(), await account.facts()];
    }
    const { right, text } = judge(plan, played, { rows: { gates: inGates, postgres: inPostgres }, verdicts: await account.verdicts(), facts });
    process.stdout.write(text);
    return right;
  } finally {
    await account.close();
  }
}

/** Guests at both gates, each in turn; resolves when all are through, or `signal` aborts. */
async function play(plan: DemoPlan, gates: readonly GateProcess[], show: Show, paused: (gate: GateProcess) => boolean, signal: AbortSignal): Promise<Played[]> {
  const done = new Map(plan.guests.map(({ number }) => [number, Promise.withResolvers<void>()] as const));
  const played: Played[] = [];
  await Promise.all(
    gates.map((gate) =>
      playGate({
        gate,
        guests: plan.guests.filter((guest) => guest.gate === gate.gate),
        through: (number) => done.get(number)?.promise ?? Promise.resolve(),
        played: (result) => {
          played.push(result);
          show.guest(result);
          done.get(result.guest.number)?.resolve();
        },
        paused: () => paused(gate),
        signal,
        paceMs: ONCE ? PACE_MS.once : PACE_MS.shown,
      }),
    ),
  );
  return played;
}

async function main(): Promise<number> {
  const dir = mkdtempSync(join(tmpdir(), 'stile-demo-'));
  chmodSync(dir, 0o755);
  releases.push(() => {
    if (process.env['KEEP'] === undefined) rmSync(dir, { recursive: true, force: true });
    else process.stderr.write(`demo: kept ${dir}\n`);
  });
  const stop = new AbortController();
  let interrupted = false;
  const interrupt = () => {
    interrupted = true;
    stop.abort();
  };
  process.on('SIGINT', interrupt).on('SIGTERM', interrupt).on('SIGHUP', interrupt);

  const plan = planDemo(SEED, Number(process.env['GUESTS'] ?? DEFAULT_GUESTS));
  const parts = await setUp(dir, plan);
  if (interrupted) return 130;
  const account = await openAccount(parts.lookUrl);
  releases.push(() => account.close());
  const actions = createActions(parts);
  if (interactive) {
    process.stdout.write(ENTER_SCREEN);
    releases.push(() => void process.stdout.write(LEAVE_SCREEN));
  }
  const show = createShow({
    ...parts,
    plan,
    account,
    interactive,
    once: ONCE,
    say,
    columns: () => process.stdout.columns ?? 100,
    write: (text) => void process.stdout.write(text),
  });
  releases.push(() => show.close());
  if (interactive) releases.push(actions.listen(process.stdin, interrupt, (text) => show.caption(text)));
  const aborted = new Promise<void>((resolve) => stop.signal.addEventListener('abort', () => resolve(), { once: true }));

  const playing = play(plan, parts.gates, show, actions.paused, stop.signal);
  if (ONCE) {
    const played = await playing;
    show.close();
    return interrupted ? 130 : (await verdict(parts.lookUrl, plan, played, parts.gates)) ? 0 : 1;
  }
  const script = runScript(actions, (text) => show.caption(text), stop.signal);
  await Promise.race([aborted, interactive ? new Promise<void>(() => {}) : Promise.all([playing, script])]);
  return interrupted && !interactive ? 130 : 0;
}

let code = 1;
try {
  code = await main();
} catch (error) {
  process.stderr.write(`demo: ${(error as Error).message}\n`);
} finally {
  await end();
}
process.exit(code);
