/**
 * Runs the checks and tests that a newcomer runs, one step after another, and says at the end what came out.
 *
 *   node test/run.ts check   types, lint, unit tests
 *   node test/run.ts all     the same, then the tests with real servers, then the whole system, then the gate on a kernel of its own
 *
 * A skipped test fails the run unless test/skips names it with a reason: `<name of the test> — <reason>`.
 * The last line is `N passed, N failed` (`, N skipped` where there are any); exit code 0 or 1.
 */
import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import { arch } from 'node:os';
import { fileURLToPath } from 'node:url';

/** Test projects that run one after another; those named together share the workers. */
const STEPS = { check: [['unit']], all: [['unit'], ['real'], ['system', 'kernel']] } as const;

const root = fileURLToPath(new URL('..', import.meta.url));
const report = `${root}.tools/vitest-report.json`;

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

function run(name: string, command: string, args: readonly string[]): Result {
  process.stdout.write(`\n== ${name}\n`);
  const began = performance.now();
  const { status } = spawnSync(command, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] });
  process.stdout.write(`== ${name}: ${status === 0 ? 'ok' : 'FAILED'} (${((performance.now() - began) / 1000).toFixed(1)} s)\n`);
  return { name, status: status === 0 ? 'passed' : 'failed' };
}

function runTests(projects: readonly string[]): Result[] {
  rmSync(report, { force: true });
  const name = `${projects.join(' and ')} tests`;
  const whole = run(name, process.execPath, [
    'node_modules/vitest/vitest.mjs',
    'run',
    ...projects.flatMap((project) => ['--project', project]),
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
  const servers = all ? beginFetching('test/postgres/fetch', '15').then(() => beginFetching('test/postgres/fetch', '17')) : Promise.resolve();
  const kernel = all ? beginFetching('test/kernel/fetch') : Promise.resolve();
  const results = [run('types', `${root}node_modules/.bin/tsc`, ['-p', '.']), run('lint', `${root}node_modules/.bin/biome`, ['check', '.'])];
  for (const projects of STEPS[what]) {
    if ((projects as readonly string[]).includes('real')) await servers;
    if ((projects as readonly string[]).includes('kernel')) await kernel;
    results.push(...runTests(projects));
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
