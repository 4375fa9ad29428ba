/** What is typed wrong is an error of usage (2), named, with what would be right; nothing of it reaches a gate. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { LEDGER_KINDS } from '../../contract/ledger.ts';

const PROGRAM = join(import.meta.dirname, '..', 'stile-gate');
const run = (...args: readonly string[]) => {
  const { status, stdout, stderr } = spawnSync(PROGRAM, [...args], { encoding: 'utf8' });
  return { code: status, stdout, stderr };
};

test('a kind that is none names those that are: all that a gate writes', () => {
  const { code, stderr } = run('ledger', 'ls', '--kind', 'nope');
  expect(code).toBe(2);
  const named = /Allowed choices are ([^.]+)\./.exec(stderr)?.[1]?.split(', ');
  // Settlements, conflicts and the claims of scanners are the cloud's rows.
  const cloudKinds: readonly string[] = ['settlement', 'conflict', 'claim'];
  expect(named?.toSorted()).toEqual(LEDGER_KINDS.filter((kind) => !cloudKinds.includes(kind)).toSorted());
});

test('a reason that no row could hold is an error of usage', () => {
  for (const command of [['open'], ['mode', 'free'], ['selftest']])
    expect(run(...command, '--reason', ' '), command.join(' ')).toMatchObject({ code: 2, stderr: expect.stringContaining('must not be empty') });
  expect(run('reset-emergency', '--reason', 'x'.repeat(513))).toMatchObject({ code: 2, stderr: expect.stringContaining('at most 512') });
});

test('--version says which Stile this is', () => {
  expect(run('--version')).toMatchObject({ code: 0, stdout: expect.stringMatching(/^stile-gate \d+\.\d+\.\d+ \([0-9a-f]{12}|unknown\)\n$/), stderr: '' });
});
