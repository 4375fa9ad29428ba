/**
 * Runs the checks and tests that a newcomer runs, and says at the end what came out.
 *
 *   node test/run.ts check   types, lint and unit tests, beside each other
 *   node test/run.ts all     the same, then everything with real servers: parts, the whole system, the gate on a kernel of its own
 *
 * A skipped test fails the run unless test/skips names it with a reason: `<name of the test> — <reason>`.
 * The last line is `N passed, N failed` (`, N skipped` where there are any); exit code 0 or 1.
 */
import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import { arch } from 'node:os';
import { fileURLToPath } from 'node:url';

/** Tests with servers wait for each other's processes most of the time: three at once keep two processors busy. */
const SERVER_WORKERS = 3;

const root = fileURLToPath(new URL('..', import.meta.url));

interface Result {
  readonly name: string;
  readonly status: 'passed' | 'failed' | 'skipped';
}
/** The part of vitest's JSON report that is read here. */
interface Report {
  readonly testResults: readonly {
    readonly name: string;
    readonly status: string;
    readonly message?: string;
    readonly assertionResults: readonly { readonly fullName: string; readonly status: string }[];
  }[];
}

/** Names of tests that may be skipped, from test/skips: one a line, `name — reason`; `#` begins a comment. */
export function namedSkips(text: string): ReadonlyMap<string, string> {
  const skips = new Map<string, string>();
  for (const line of text.split('\n')) {
    if (line.trim() === '' || line.startsWith('#')) continue;
    const [name, reason] = line.split(' — ');
    if (name === undefined || reason === undefined || reason.trim() === '') throw new Error(`test/skips: "${line}" gives no reason: write "name — reason"`);
    skips.set(name.trim(), reason.trim());
  }
  return skips;
}

/** Tests of a vitest report; a file that did not load counts as one failed test. */
export function resultsOf(file: Report): Result[] {
  return file.testResults.flatMap((suite): Result[] => {
    if (suite.assertionResults.length === 0) return suite.status === 'failed' ? [{ name: suite.name, status: 'failed' }] : [];
    const tests = suite.assertionResults.map(
      (test): Result => ({ name: test.fullName, status: test.status === 'passed' ? 'passed' : test.status === 'failed' ? 'failed' : 'skipped' }),
    );
    // A hook that failed leaves no failed test behind.
    if (suite.status === 'failed' && !tests.some((test) => test.status === 'failed'))
      tests.push({ name: `${suite.name} (outside any test)`, status: 'failed' });
    return tests;
  });
}

/** Runs one program to its end. What a quiet one says is shown when it has ended. */
async function run(name: string, command: string, args: readonly string[], how: { readonly quiet?: boolean } = {}): Promise<Result> {
  const began = performance.now();
  if (how.quiet !== true) process.stdout.write(`\n== ${name}\n`);
  const child = spawn(command, args, { cwd: root, stdio: ['ignore', how.quiet === true ? 'pipe' : 'inherit', how.quiet === true ? 'pipe' : 'inherit'] });
  const said: Buffer[] = [];
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (bytes: Buffer) => void said.push(bytes));
  const code = await new Promise<number | null>((resolve) => child.on('error', () => resolve(null)).on('close', resolve));
  const lines = said.length === 0 ? '' : `\n== ${name}\n${Buffer.concat(said).toString('utf8')}`;
  process.stdout.write(`${lines}== ${name}: ${code === 0 ? 'ok' : 'FAILED'} (${((performance.now() - began) / 1000).toFixed(1)} s)\n`);
  return { name, status: code === 0 ? 'passed' : 'failed' };
}

async function runTests(projects: readonly string[], workers: number): Promise<Result[]> {
  const report = `${root}.tools/vitest-report-${projects.join('-')}.json`;
  rmSync(report, { force: true });
  const name = `${projects.join(', ')} tests`;
  const whole = await run(name, process.execPath, [
    'node_modules/vitest/vitest.mjs',
    'run',
    ...projects.flatMap((project) => ['--project', project]),
    `--maxWorkers=${workers}`,
    '--reporter=default',
    '--reporter=json',
    `--outputFile.json=${report}`,
  ]);
  let results: Result[];
  try {
    results = resultsOf(JSON.parse(readFileSync(report, 'utf8')) as Report);
  } catch {
    return [{ name, status: 'failed' }];
  }
  // The runner failed though every test passed (an error outside the tests, no test at all): that is a failure.
  return whole.status === 'failed' && !results.some((result) => result.status === 'failed') ? [...results, whole] : results;
}

/** Begins to bring packages while other tests run: the kernel's take minutes the first time. The test itself says what could not be had. */
function beginFetching(script: string, ...args: readonly string[]): Promise<void> {
  const fetching = spawn(`${root}${script}`, args, { stdio: 'ignore' });
  return new Promise((resolve) => fetching.on('error', () => resolve()).on('exit', () => resolve()));
}

async function main(what: string): Promise<number> {
  if (what !== 'check' && what !== 'all') {
    process.stderr.write('usage: node test/run.ts check|all\n');
    return 2;
  }
  mkdirSync(`${root}.tools`, { recursive: true });
  process.stdout.write(`Stile: ${what === 'check' ? 'types, lint, unit tests' : 'every test'}, Node ${process.version} on ${arch()}\n`);
  const all = what === 'all';
  const fetched = all
    ? Promise.all([beginFetching('test/postgres/fetch', '15').then(() => beginFetching('test/postgres/fetch', '17')), beginFetching('test/kernel/fetch')])
    : Promise.resolve();
  const beside = [
    run('types', `${root}node_modules/.bin/tsc`, ['-p', '.'], { quiet: true }),
    run('lint', `${root}node_modules/.bin/biome`, ['check', '.'], { quiet: true }),
  ];
  const results = [...(await runTests(['unit'], 2)), ...(await Promise.all(beside))];
  if (all) {
    await fetched;
    results.push(...(await runTests(['real', 'system', 'kernel'], SERVER_WORKERS)));
  }

  const allowed = namedSkips(readFileSync(`${root}test/skips`, 'utf8'));
  const skipped = results.filter((result) => result.status === 'skipped');
  const unnamed = skipped.filter((result) => !allowed.has(result.name));
  for (const { name } of skipped) process.stdout.write(`SKIPPED: ${name} — ${allowed.get(name) ?? 'no reason in test/skips'}\n`);
  const failed = [...results.filter((result) => result.status === 'failed'), ...unnamed];
  for (const { name, status } of failed) process.stdout.write(`FAILED: ${name}${status === 'skipped' ? ' (skipped, and not named in test/skips)' : ''}\n`);
  const counts = [`${results.filter((result) => result.status === 'passed').length} passed`, `${failed.length} failed`];
  if (skipped.length > unnamed.length) counts.push(`${skipped.length - unnamed.length} skipped`);
  process.stdout.write(`\n${counts.join(', ')}\n`);
  return failed.length === 0 ? 0 : 1;
}

if (import.meta.main) process.exitCode = await main(process.argv[2] ?? 'all');
