/** The gate's unit against what docs/spec/LANE.md and the stop step demand (FAULTS M5): a wrong word there is otherwise noticed on a kernel alone. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const settingsOf = (unit: string): ReadonlyMap<string, readonly string[]> => {
  const found = new Map<string, string[]>();
  for (const line of readFileSync(join(import.meta.dirname, '../systemd', unit), 'utf8').split('\n')) {
    const setting = /^([A-Za-z]+)=(.*)$/.exec(line);
    if (setting !== null) found.set(setting[1] as string, [...(found.get(setting[1] as string) ?? []), setting[2] as string]);
  }
  return found;
};
const gate = settingsOf('stile-gate.service');
const one = (name: string): string | undefined => gate.get(name)?.join(' | ');

test("M5: a gate's unit kills a hung process, and runs the stop step however it ended", () => {
  expect([one('WatchdogSignal'), one('WatchdogSec'), one('KillMode')]).toEqual(['SIGKILL', '3', 'mixed']);
  expect(one('ExecStop')).toBeUndefined();
  expect(one('ExecStopPost')).toBe('/run/stile-release/stile-release /run/stile/release.conf');
});

test('M5: the stop step is copied to memory before the gate starts, and may be executed there', () => {
  const [, target = ''] = /install .* (\S+)$/.exec(one('ExecStartPre') ?? '') ?? [];
  expect(one('ExecStartPre')).toMatch(/^\+\/usr\/bin\/install -D -T -m 0755 \/opt\/stile\/libexec\/stile-release /);
  expect(one('ExecStopPost')?.split(' ')[0]).toBe(target);
  expect(one('ExecPaths')?.split(' ')).toContain(target.slice(0, target.lastIndexOf('/')));
});

test('M5: a gate is never given up on, and comes back within the bound', () => {
  expect([one('Restart'), one('RestartSec'), one('StartLimitIntervalSec')]).toEqual(['always', '250ms', '0']);
});
