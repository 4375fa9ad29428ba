/**
 * Seeded simulation of a fleet and its cloud: gates (rules, loop, lane, decider on SQLite, uplink), broker, cloud, under one clock.
 *
 *   node test/simulation/main.ts [--seed 1] [--histories 20000] [--workers 2] [--sql-every 25]   many histories
 *   node test/simulation/main.ts --seed 1 --history 123 [--alone] [--gates 1] [--steps 0,4,7]    one again, told step by step
 *   node test/simulation/main.ts --mutants [--mutant NAME] [--seed 1]                            the table of planted faults
 *
 * The same seed gives the same trace hash, whatever the number of workers. Exit code 1 where an invariant broke or a mutant lived.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { createHash } from 'node:crypto';
import { parseArgs } from 'node:util';
import { freshDatabase } from '../../testkit/database.ts';
import { HISTORIES_A_FLEET, openFixture } from './fixture.ts';
import { hunt, inOneLine, MUTANTS } from './mutants.ts';
import { inWords } from './plan.ts';
import { commandOf, type Failure, type FleetResult, type Replay, replay, runFleet, shrink } from './run.ts';
import { openRealAccount, type RealAccount } from './sql.ts';
import type { MutantName } from './types.ts';

const DEFAULT_HISTORIES = 20_000;
const DEFAULT_WORKERS = 2;
/** Every so many fleets are also reckoned by the real SQL: every 50th history. */
const SQL_EVERY_FLEETS = 50;
/** Fleets that a worker has in hand: as soon as one ends the next begins, and all workers end together. */
const FLEETS_AHEAD = 2;
/** Most of what a fleet makes is forgotten with it: room for some fleets, so that little is left when it is swept. */
const WORKER_FLAGS = ['--min-semi-space-size=64', '--max-semi-space-size=64'];
/** Failures that are gathered before a run gives up. */
const MAX_FAILURES = 3;

const options = {
  seed: { type: 'string', default: '1' },
  histories: { type: 'string', default: String(DEFAULT_HISTORIES) },
  workers: { type: 'string', default: String(DEFAULT_WORKERS) },
  'sql-every': { type: 'string', default: String(SQL_EVERY_FLEETS) },
  history: { type: 'string' },
  alone: { type: 'boolean', default: false },
  gates: { type: 'string' },
  steps: { type: 'string' },
  mutants: { type: 'boolean', default: false },
  mutant: { type: 'string' },
  worker: { type: 'string' },
} as const;
/** What the histories must have met, or they show little. */
const KINDS = ['first entries', 're-entries', 'exits', 'excess', 'returned', 'unknown', 'stuck', 'settled', 'free', 'forced', 'epochs'] as const;
const number = (text: string | undefined): number | null => (text === undefined || text === '' ? null : Number(text));
const say = (line: string): void => void process.stdout.write(`${line}\n`);

/** A message of the parent to a worker: the database's address, and the next fleet (null: none). */
type Order = { readonly url: string } | { readonly fleet: number | null };

/** One of several processes: takes fleets as the parent gives them, results to the parent as they come. */
async function work(values: Values): Promise<void> {
  const below = Number(values.histories);
  const fixture = openFixture();
  const every = Number(values['sql-every']);
  // PostgreSQL starts while the first fleets run already.
  const database = Promise.withResolvers<string>();
  const orders: (number | null)[] = [];
  let ordered = (): void => undefined;
  process.on('message', (order: Order) => {
    if ('url' in order) return database.resolve(order.url);
    orders.push(order.fleet);
    ordered();
  });
  const next = async (): Promise<number | null> => {
    while (orders.length === 0) {
      await new Promise<void>((resolve) => {
        ordered = resolve;
      });
    }
    return orders.shift() as number | null;
  };
  let real: RealAccount | null = null;
  // Told to end, or left alone: the files in memory go with it.
  const leave = (): void => {
    fixture.close();
    process.exit(1);
  };
  process.once('SIGTERM', leave).once('disconnect', leave);
  try {
    for (let fleet = await next(); fleet !== null; fleet = await next()) {
      const isCompared = every > 0 && fleet % every === every - 1;
      if (isCompared) real ??= openRealAccount(await database.promise, null);
      const mutant = (values.mutant ?? null) as MutantName | null;
      process.send?.(await runFleet(fixture, { seed: Number(values.seed), fleet, below, mutant, real: isCompared ? real : null }));
    }
  } finally {
    await real?.close();
    fixture.close();
  }
  process.off('disconnect', leave);
  process.disconnect?.();
}

const order = (child: ChildProcess, what: Order): void => {
  if (child.connected) child.send(what, () => undefined);
};

async function many(values: Values): Promise<number> {
  const seed = Number(values.seed);
  const histories = Number(values.histories);
  const began = performance.now();
  const starting = Number(values['sql-every']) > 0 ? freshDatabase() : Promise.resolve(null);
  void starting.then((fresh) => {
    for (const child of children) if (fresh !== null) order(child, { url: fresh.url });
  });
  const results: FleetResult[] = [];
  const failures: Failure[] = [];
  const children = new Set<ChildProcess>();
  const workers = Number(values.workers);
  let broken = '';
  let given = 0;
  await Promise.all(
    Array.from(
      { length: workers },
      () =>
        new Promise<void>((resolve) => {
          const args = [...process.argv.slice(2), '--worker', 'yes'];
          const child = fork(import.meta.filename, args, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'], execArgv: WORKER_FLAGS });
          children.add(child);
          let dismissed = false;
          // Told once that there is no more, it goes; whether one that ended was told is seen in its exit code.
          const giveNext = (): void => {
            if (dismissed) return;
            dismissed = given * HISTORIES_A_FLEET >= histories;
            order(child, { fleet: dismissed ? null : given++ });
          };
          for (let n = 0; n < FLEETS_AHEAD; n++) giveNext();
          child.on('message', (result: FleetResult) => {
            results.push(result);
            giveNext();
            if (result.failure === null) return;
            failures.push(result.failure);
            if (failures.length >= MAX_FAILURES) for (const one of children) one.kill();
          });
          child.on('exit', (code, signal) => {
            children.delete(child);
            if (code !== 0 && failures.length < MAX_FAILURES) broken = `a worker ended with ${code ?? signal}`;
            resolve();
          });
        }),
    ),
  );
  const seconds = (performance.now() - began) / 1000;
  const fresh = await starting;
  results.sort((a, b) => a.fleet - b.fleet);
  const hash = createHash('sha256');
  for (const { fleet, traceHash } of results) hash.update(`${fleet} ${traceHash}\n`);
  const sum = (of: (result: FleetResult) => number): number => results.reduce((all, result) => all + of(result), 0);
  const lived = sum((result) => result.histories);
  say(
    `figure: ${lived} histories of seed ${seed} in ${seconds.toFixed(0)} s on ${workers} processes: ${sum((one) => one.counts.grants)} grants, ${sum((one) => one.counts.refusals)} refusals, ${sum((one) => one.counts.releases)} releases, ${sum((one) => one.counts.lives)} lives of gates; ${failures.length} broke an invariant (I1 to I10)`,
  );
  say(`figure: among them ${KINDS.map((kind) => `${sum((one) => one.met[kind] ?? 0)} ${kind}`).join(', ')}`);
  if (fresh !== null)
    say(`figure: ${sum((one) => (one.comparedInSql ? one.histories : 0))} of these histories gave the same tables in PostgreSQL as in the reference account`);
  say(`trace ${hash.digest('hex')}`);
  for (const failure of failures) await tell(seed, failure, values, fresh?.url);
  await fresh?.drop();
  if (broken !== '') say(broken);
  return failures.length === 0 && broken === '' && lived === histories ? 0 : 1;
}

/** A failing history, made small, with the command that shows it. */
async function tell(seed: number, { history, violations }: Failure, values: Values, url: string | undefined): Promise<void> {
  const mutant = (values.mutant ?? null) as MutantName | null;
  for (const violation of violations.slice(0, 3)) say(`history ${history}: ${violation.invariant} ${violation.what}`);
  const fixture = openFixture();
  const real = violations[0]?.what.startsWith('PostgreSQL') === true && url !== undefined ? openRealAccount(url, mutant) : null;
  try {
    const small = await shrink(fixture, { seed, history, alone: false, gates: null, steps: null }, mutant, violations[0]?.invariant ?? '', real);
    say(`again: ${commandOf(small, mutant)}`);
  } finally {
    await real?.close();
    fixture.close();
  }
}

async function again(values: Values): Promise<number> {
  const one: Replay = {
    seed: Number(values.seed),
    history: Number(values.history),
    alone: values.alone,
    gates: number(values.gates),
    steps: values.steps === undefined ? null : values.steps === 'none' ? [] : values.steps.split(',').map(Number),
  };
  const fixture = openFixture();
  const fresh = await freshDatabase();
  const mutant = (values.mutant ?? null) as MutantName | null;
  const real = openRealAccount(fresh.url, mutant);
  try {
    const { violations, lines, steps } = await replay(fixture, one, mutant, { keepTrace: true, real });
    for (const step of steps) say(`step at ${inWords(step)}`);
    say(lines.join('').trimEnd());
    for (const violation of violations) say(`${violation.invariant} at ${violation.atMs.toFixed(0)} ms: ${violation.what}`);
    say(violations.length === 0 ? 'every invariant holds' : commandOf(one, mutant));
    return violations.length === 0 ? 0 : 1;
  } finally {
    await real.close();
    await fresh.drop();
    fixture.close();
  }
}

async function table(values: Values): Promise<number> {
  const names = (values.mutant === undefined ? Object.keys(MUTANTS) : [values.mutant]) as MutantName[];
  const fixture = openFixture();
  let most = 0;
  let lived = 0;
  try {
    for (const name of names) {
      const caught = await hunt(fixture, Number(values.seed), name);
      say(inOneLine(caught));
      if (caught.after === null) lived += 1;
      most = Math.max(most, caught.after ?? 0);
    }
  } finally {
    fixture.close();
  }
  say(`figure: ${names.length - lived} of ${names.length} mutants were caught, each within ${most} histories`);
  return lived === 0 ? 0 : 1;
}

type Values = ReturnType<typeof parseArgs<{ options: typeof options }>>['values'];
const { values } = parseArgs({ options });
if (values.worker !== undefined) await work(values);
else process.exitCode = values.mutants ? await table(values) : values.history !== undefined ? await again(values) : await many(values);
if (values.worker === undefined) process.exit();
