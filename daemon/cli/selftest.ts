/** selftest: the lane tries itself while somebody looks on; the result is a commissioning report, signed by the gate's key. */
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline/promises';
import { UnsafePlaceError, writeSafeFile } from '../../runtime/safe-file.ts';
import { loadConfig } from '../config/load.ts';
import type { GateStatus } from '../control/protocol.ts';
import type { SelftestNews, SelftestStep } from '../gate/selftest.ts';
import { withGate } from './context.ts';
import { CliError, EXIT, print } from './exit-codes.ts';
import { columns } from './format.ts';
import type { CommonOptions } from './options.ts';
import { actorOf } from './override.ts';
import { checkReport, type Signed, signReport } from './signed-report.ts';

export interface SelftestOptions extends CommonOptions {
  readonly reason: string;
  readonly actor?: string;
  /** Folder for the report. */
  readonly report: string;
}

/** The contents of the two files of a self-test. */
export interface SelftestReport extends Signed {
  readonly schema: 1;
  readonly kind: 'selftest';
  readonly gate: string;
  readonly version: string;
  readonly started_at: string;
  readonly ended_at: string;
  readonly actor: string;
  readonly reason: string;
  readonly board: string;
  readonly readers: readonly { readonly name: string; readonly direction: string; readonly path: string }[];
  readonly result: 'ok' | 'warn' | 'fail';
  readonly steps: readonly SelftestStep[];
  /** Were lamps and buzzer seen and heard as they were named? null: nobody was asked. */
  readonly seen: boolean | null;
}

export async function selftest(options: SelftestOptions): Promise<void> {
  const actor = actorOf(options);
  const live = options.json !== true;
  const say = (text: string) => void (live && process.stdout.write(`${text}\n`));
  const report = await withGate(options, async (gate) => {
    const status = await gate.call<GateStatus>('status');
    const startedAt = new Date();
    say(`${status.gate}: self-test; fire, or Ctrl-C here, ends it at once`);
    const { steps } = await gate.call<{ steps: readonly SelftestStep[] }>('selftest', { actor, reason: options.reason }, (item) => {
      const news = item as SelftestNews;
      say('step' in news ? stepWords(news.step) : `      ${news.words}`);
    });
    const seen = live && process.stdin.isTTY === true && process.stdout.isTTY === true ? await askWhetherSeen() : null;
    const failed = seen === false || steps.some(({ result }) => result === 'fail');
    const config = loadConfig(options.config, process.env);
    const bare = {
      schema: 1 as const,
      kind: 'selftest' as const,
      gate: status.gate,
      version: status.version,
      started_at: startedAt.toISOString(),
      ended_at: new Date().toISOString(),
      actor,
      reason: options.reason,
      board: status.board.by,
      readers: status.readers.map(({ name, direction, path }) => ({ name, direction, path })),
      result: failed ? ('fail' as const) : steps.some(({ result }) => result === 'warn') ? ('warn' as const) : ('ok' as const),
      steps,
      seen,
    };
    return signReport(bare, config.ok ? config.config.mqtt : null) as SelftestReport;
  });
  const path = writeReport(report, options.report);
  print(options.json, { ...report, file: `${path}.json` }, () => `${verdict(report)}\nreport: ${path}.txt and .json, ${signedWords(report)}`);
  if (report.result === 'fail') process.exitCode = EXIT.failed;
}

async function askWhetherSeen(): Promise<boolean> {
  const terminal = createInterface({ input: process.stdin, output: process.stdout });
  try {
    return /^\s*(y|yes)?\s*$/i.test(await terminal.question('Was every lamp lit, and the buzzer heard, as it was named? [Y/n] '));
  } finally {
    terminal.close();
  }
}

const stepWords = ({ name, result, detail }: SelftestStep): string => `${result.padEnd(4)}  ${name}: ${detail}`;

const verdict = ({ result, seen }: SelftestReport): string =>
  seen === false
    ? 'FAILED: a lamp or the buzzer was not as it was named; check the wiring and the lines in board.outputs'
    : result === 'ok'
      ? 'passed'
      : result === 'warn'
        ? 'passed, but see the warnings'
        : 'FAILED: see above what to repair';

const signedWords = (report: Signed): string => (report.signature === null ? `NOT SIGNED: ${report.unsigned_because}` : "signed by the gate's key");

/** Answers the path without its extension. */
function writeReport(report: SelftestReport, folder: string): string {
  const path = join(resolve(folder), `selftest-${report.gate.replace('/', '-')}-${report.ended_at.replaceAll(/[-:]|\.\d+/g, '')}`);
  const text = [
    `Self-test of ${report.gate}, Stile ${report.version}`,
    `from ${report.started_at} to ${report.ended_at}, by ${report.actor}: ${report.reason}`,
    `board: ${report.board}; readers: ${report.readers.map(({ name, direction, path: port }) => `${name} (${direction}) at ${port}`).join(', ')}`,
    '',
    columns(report.steps.map(({ name, result, detail }) => [result, name, detail])),
    '',
    `lamps and buzzer as named: ${report.seen === null ? 'nobody was asked' : report.seen ? 'yes' : 'NO'}`,
    `result: ${verdict(report)}`,
    `${signedWords(report)}${report.signature === null ? '' : `; check it with: stile-gate selftest --check ${path}.json`}`,
    '',
  ].join('\n');
  try {
    writeSafeFile(`${path}.json`, `${JSON.stringify(report, null, 2)}\n`, { mode: 0o644 });
    writeSafeFile(`${path}.txt`, text, { mode: 0o644 });
  } catch (error) {
    throw new CliError(
      EXIT.failed,
      `the report could not be written to ${folder} (${error instanceof UnsafePlaceError ? error.message : (error as NodeJS.ErrnoException).code})`,
      'name a folder with --report',
    );
  }
  return path;
}

/** Checks a report's signature, and names the gate that signed it. */
export function checkSelftest(file: string, options: CommonOptions): void {
  let report: Record<string, unknown>;
  try {
    report = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
  } catch (error) {
    throw new CliError(EXIT.failed, `${file} is no report: ${(error as Error).message}`, 'name the .json of a self-test');
  }
  const config = loadConfig(options.config, process.env);
  const caFile = config.ok ? (config.config.mqtt?.ca ?? null) : null;
  const problem = checkReport(report, caFile === null ? null : readFileSync(caFile, 'utf8'));
  const authority = caFile === null ? 'not compared with any authority (mqtt.ca)' : "of this installation's authority";
  print(options.json, { ok: problem === null, gate: report.gate, result: report.result, problem, authority_checked: caFile !== null }, () =>
    problem === null
      ? `signed by ${String(report.gate)}, whose certificate is ${authority}; result ${String(report.result)}, ${String(report.ended_at)}`
      : `do not rely on it: ${problem}`,
  );
  if (problem !== null) process.exitCode = EXIT.failed;
}
