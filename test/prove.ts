/**
 * Runs the long proofs of the promises (test/promises.ts), one after another, and prints them as a table.
 *
 *   node test/prove.ts              every row
 *   node test/prove.ts 1 7          these rows
 *   node test/prove.ts --write …    writes the table into docs/PROMISES.md as well
 *
 * Exit code 0: every promise that was run held. 1: one did not. 2: usage.
 */
import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { stripVTControlCharacters } from 'node:util';

import { type Promised, type Proof, promises } from './promises.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const table = `${root}docs/PROMISES.md`;
const BEGIN = '<!-- the table: node test/prove.ts --write -->';
const END = '<!-- the table ends -->';

/** The bounds are those of a quiet machine; a proof is stopped after so many times its bound. */
const PATIENCE = 5;
/** After its bound a proof may clean up for so long, ms; then it is killed. */
const CLEANING_MS = 5_000;

/** The outcome of one row: its figures, what could not be shown, and its duration. */
export interface Outcome {
  readonly row: number;
  readonly held: boolean;
  readonly figures: readonly string[];
  readonly notShown: readonly string[];
  readonly seconds: number;
}

/** Figures and gaps in what a proof printed. A line counts wherever it stands, colours removed. */
export function readFigures(output: string): { figures: string[]; notShown: string[] } {
  const lines = stripVTControlCharacters(output).split('\n');
  const after = (mark: string): string[] => lines.filter((line) => line.trimStart().startsWith(mark)).map((line) => line.trimStart().slice(mark.length).trim());
  return { figures: after('figure:'), notShown: after('not shown:') };
}

/** The command as a reader types it in the checkout. */
export function asTyped(proof: Proof): string {
  const env = Object.entries(proof.env ?? {}).map(([name, value]) => `${name}=${value} `);
  return `${env.join('')}${proof.command.join(' ')}`.replace('node node_modules/vitest/vitest.mjs', 'npx vitest');
}

async function runProof(proof: Proof): Promise<{ ok: boolean; output: string }> {
  const [command = '', ...args] = proof.command;
  const child = spawn(command === 'node' ? process.execPath : command, args, {
    cwd: root,
    env: { ...process.env, ...proof.env },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString();
      process.stdout.write(chunk);
    });
  // The proof has children of its own (gates, brokers): the whole group goes. First it may clean up: one has mounted a file system.
  const end = (signal: NodeJS.Signals) => {
    try {
      if (child.pid !== undefined) process.kill(-child.pid, signal);
    } catch {
      /* It is gone. */
    }
  };
  const timers = [
    setTimeout(
      () => {
        process.stdout.write(`\nstopped after ${proof.boundS * PATIENCE} s, ${PATIENCE} times its bound\n`);
        end('SIGTERM');
      },
      proof.boundS * PATIENCE * 1000,
    ),
    setTimeout(() => end('SIGKILL'), proof.boundS * PATIENCE * 1000 + CLEANING_MS),
  ];
  const status = await new Promise<number | null>((resolve) => {
    child.on('error', (error) => {
      output += `${error.message}\n`;
      resolve(1);
    });
    child.on('close', resolve);
  });
  for (const timer of timers) clearTimeout(timer);
  return { ok: status === 0, output };
}

async function proveRow(row: Promised): Promise<Outcome> {
  process.stdout.write(`\n== ${row.row}. ${row.promise}\n`);
  const began = performance.now();
  const figures: string[] = [];
  const notShown: string[] = [];
  let held = true;
  for (const proof of row.proofs) {
    process.stdout.write(`$ ${asTyped(proof)}\n`);
    const { ok, output } = await runProof(proof);
    const read = readFigures(output);
    figures.push(...read.figures);
    notShown.push(...read.notShown);
    if (!ok) {
      held = false;
      figures.push(`BROKEN: ${asTyped(proof)}`);
    } else if (read.figures.length + read.notShown.length === 0) {
      held = false;
      figures.push(`BROKEN: ${asTyped(proof)} printed no figure`);
    }
  }
  if (row.proofs.length === 0) notShown.push('no proof has been built yet');
  return { row: row.row, held, figures, notShown, seconds: (performance.now() - began) / 1000 };
}

/** The table of docs/PROMISES.md: a row a promise, its figures, its commands. */
export function asTable(rows: readonly Promised[], outcomes: readonly Outcome[]): string {
  const lines = ['| # | Promise | Figures | Commands (short form) | s |', '|---|---|---|---|---|'];
  for (const outcome of outcomes) {
    const row = rows.find((one) => one.row === outcome.row);
    if (row === undefined) continue;
    const figures = [...outcome.figures, ...outcome.notShown.map((reason) => `*not shown: ${reason}*`)].join('<br>').replaceAll('|', '\\|');
    const commands = row.proofs.map((proof) => `\`${asTyped(proof)}\``).join('<br>');
    const verdict = outcome.held ? '' : '**BROKEN** ';
    lines.push(
      `| ${row.row} | ${row.promise} | ${verdict}${figures} | ${commands}${row.short === '' ? '' : ` (\`${row.short}\`)`} | ${outcome.seconds.toFixed(0)} |`,
    );
  }
  return lines.join('\n');
}

/** Rows of the table that stands, with those that were run now in their places. */
export function merged(standing: string, made: string): string {
  const rowsOf = (text: string): Map<number, string> =>
    new Map(text.split('\n').flatMap((line) => (/^\| \d+ \|/.test(line) ? [[Number(line.split('|')[1]), line] as const] : [])));
  const rows = new Map([...rowsOf(standing), ...rowsOf(made)]);
  const head = made.split('\n').slice(0, 2);
  return [...head, ...[...rows].sort(([a], [b]) => a - b).map(([, line]) => line)].join('\n');
}

async function main(args: readonly string[]): Promise<number> {
  const write = args.includes('--write');
  const wanted = args.filter((arg) => arg !== '--write');
  const known = promises.map(({ row }) => String(row));
  const stranger = wanted.find((arg) => !known.includes(arg));
  if (stranger !== undefined) {
    process.stderr.write(`there is no row "${stranger}": say any of ${known.join(', ')}, and --write to keep the table\n`);
    return 2;
  }
  const rows = promises.filter(({ row }) => wanted.length === 0 || wanted.includes(String(row)));
  const outcomes: Outcome[] = [];
  for (const row of rows) outcomes.push(await proveRow(row));
  const made = asTable(promises, outcomes);
  process.stdout.write(`\n${made}\n\non ${availableParallelism()} cores, Node ${process.version}\n`);
  if (write) {
    const text = readFileSync(table, 'utf8');
    const [before = '', rest = ''] = text.split(BEGIN);
    const [standing = '', after = ''] = rest.split(END);
    writeFileSync(table, `${before}${BEGIN}\n${merged(standing, made)}\n${END}${after}`);
  }
  const broken = outcomes.filter(({ held }) => !held);
  const without = rows.filter(({ proofs }) => proofs.length === 0);
  if (without.length > 0) process.stdout.write(`without a proof: row ${without.map(({ row }) => row).join(', ')}\n`);
  process.stdout.write(broken.length === 0 ? 'every promise that was run held\n' : `broken: row ${broken.map(({ row }) => row).join(', ')}\n`);
  return broken.length === 0 ? 0 : 1;
}

if (import.meta.main) process.exitCode = await main(process.argv.slice(2));
