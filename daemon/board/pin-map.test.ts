import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { formatReleaseFile, writeReleaseFile } from './failsafe-file.ts';
import { findChip } from './gpio-chip.ts';
import { drawLamps } from './lamp-line.ts';
import { firmwareLines, normaliseLines, powerOnLevel, safeLevel } from './pin-map.ts';

const lane = normaliseLines({
  outputs: {
    green_in: { line: 22, active: 'high', safe: null },
    release_in: { line: 17, active: 'low', safe: null },
    stop: { line: 5, active: 'high', safe: 'high' },
  },
  inputs: { fire: { line: 19, active: 'low', bias: 'pull-down', debounceMs: null }, passage_in: { line: 20, active: 'low', bias: 'pull-up', debounceMs: 5 } },
});

test('an output without a defined state rests inactive on its wire', () => {
  expect(lane.outputs.map(({ name, safe }) => [name, safe])).toEqual([
    ['release_in', 'high'],
    ['stop', 'high'],
    ['green_in', 'low'],
  ]);
});

test('in a fire releases stand open and stop is let go; lamps keep their state', () => {
  expect(lane.outputs.map((line) => safeLevel(line, true))).toEqual(['low', 'low', 'low']);
  expect(lane.outputs.map((line) => safeLevel(line, false))).toEqual(['high', 'high', 'low']);
});

test('tells the firmware levels and bias', () => {
  expect(firmwareLines(lane)).toEqual(['gpio=17=op,dh', 'gpio=5=op,dh', 'gpio=22=op,dl', 'gpio=20=ip,pu', 'gpio=19=ip,pd']);
  expect([powerOnLevel(8), powerOnLevel(9)]).toEqual(['high', 'low']);
});

test("finds the header's chip by its label, at whatever base, past chips that cannot be read", () => {
  const root = mkdtempSync(join(tmpdir(), 'stile-chips-'));
  try {
    expect(findChip(join(root, 'none'))).toMatchObject({ missing: expect.stringContaining('ENOENT') });
    const add = (name: string, label: string, base: string): void => {
      mkdirSync(join(root, name));
      for (const [attribute, value] of [
        ['label', label],
        ['base', base],
        ['ngpio', '54'],
      ] as const)
        writeFileSync(join(root, name, attribute), `${value}\n`);
    };
    mkdirSync(join(root, 'gpiochip0'));
    add('gpiochip500', 'raspberrypi-exp-gpio', '500');
    expect(findChip(root)).toMatchObject({ missing: expect.stringContaining('raspberrypi-exp-gpio') });
    add('gpiochip513', 'pinctrl-bcm2711', 'rubbish');
    add('gpiochip512', 'pinctrl-bcm2711', '512');
    expect(findChip(root)).toEqual({ label: 'pinctrl-bcm2711', base: 512, lines: 54 });
  } finally {
    rmSync(root, { recursive: true });
  }
});

test("writes the stop step's file whole", () => {
  const folder = mkdtempSync(join(tmpdir(), 'stile-release-'));
  try {
    const path = join(folder, 'run', 'release.conf');
    writeReleaseFile(path, [{ kind: 'sysfs', number: 529, level: 'low' }]);
    writeReleaseFile(path, [
      { kind: 'sysfs', number: 529, level: 'high' },
      { kind: 'chip', path: '/dev/gpiochip0', line: 17, level: 'low' },
      { kind: 'sim', path: '/run/a b', level: 'high' },
    ]);
    expect(readFileSync(path, 'utf8').split('\n').slice(1)).toEqual(['sysfs 529 1', 'chip /dev/gpiochip0 17 0', 'sim /run/a b 1', '']);
    expect(readdirSync(join(folder, 'run'))).toEqual(['release.conf']);
    expect(() => formatReleaseFile([{ kind: 'sim', path: 'a\nsysfs 4 1', level: 'low' }])).toThrow(/line break/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('draws a lane of one set of lamps', () => {
  expect(
    drawLamps(
      new Map([
        ['green_in', true],
        ['red_in', false],
        ['release_in', true],
        ['buzzer', true],
      ]),
    ),
  ).toBe('in: green, open | buzzer');
  expect(
    drawLamps(
      new Map([
        ['red_out', true],
        ['green_in', false],
      ]),
    ),
  ).toBe('in: dark | out: red');
});
