/** What the proofs in the guest are made of: words on the console, commands, patience, and what the broker brought. */
import { spawnSync } from 'node:child_process';
import { appendFileSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { monotonicMs } from './sim-gpio.ts';

const CONSOLE = '/dev/ttyS0';
/** Where mosquitto_sub writes what it hears: topic, space, payload. */
export const HEARD = '/run/heard';
export const PATIENCE_MS = 60_000;

export const say = (line: string) => appendFileSync(CONSOLE, `\n${line}\n`);
export const short = (text: string) => text.replaceAll(/\s+/g, ' ').slice(-400);
export function run(file: string, ...args: string[]): { readonly code: number; readonly out: string } {
  const { status, stdout, stderr } = spawnSync(file, args, { encoding: 'utf8' });
  return { code: status ?? -1, out: `${stdout}${stderr}`.trim() };
}
export const property = (name: string) => run('systemctl', 'show', '-p', name, '--value', 'stile-gate').out;
export const must = (holds: boolean, otherwise: string): void => {
  if (!holds) throw new Error(otherwise);
};

export async function proof(name: string, step: () => Promise<string> | string): Promise<void> {
  const from = monotonicMs();
  try {
    const detail = short(await step());
    say(`PROOF ${name}: ok ${detail} [${((monotonicMs() - from) / 1_000).toFixed(1)} s]`);
  } catch (error) {
    say(`PROOF ${name}: FAILED ${short((error as Error).message)}`);
    for (const line of run('journalctl', '-u', 'stile-gate', '-n', '12', '--no-pager', '-o', 'cat').out.split('\n')) say(`JOURNAL ${line.slice(0, 300)}`);
  }
}

export async function until(what: string, holds: () => boolean | Promise<boolean>, boundMs = PATIENCE_MS, everyMs = 20): Promise<number> {
  const from = monotonicMs();
  while (!(await holds())) {
    must(monotonicMs() - from <= boundMs, `${what}: not within ${boundMs} ms`);
    await sleep(everyMs);
  }
  return monotonicMs() - from;
}

export interface Row {
  readonly seq: number;
  readonly kind: string;
  readonly outcome?: string;
  readonly actor?: string;
  readonly reason?: string;
  readonly what?: string;
}

/** Returns the messages that the broker delivered, by topic; rows once each. */
export function heard(topic: string): string[] {
  return readFileSync(HEARD, 'utf8')
    .split('\n')
    .filter((line) => line.startsWith(`stile/1/arena/north-03/${topic} `))
    .map((line) => line.slice(line.indexOf(' ') + 1));
}
export function rows(): Row[] {
  const all = new Map<string, Row>();
  for (const text of heard('ledger')) {
    const message = JSON.parse(text) as { epoch: number; entries: Row[] };
    for (const entry of message.entries) all.set(`${message.epoch} ${entry.seq}`, entry);
  }
  return [...all.values()];
}
export const count = (fits: (row: Row) => boolean) => rows().filter(fits).length;
/** Waits for one row more than there was of this kind. */
export const oneMore = (fits: (row: Row) => boolean) => {
  const before = count(fits);
  return (what: string) => until(what, () => count(fits) > before, 20_000, 100);
};
