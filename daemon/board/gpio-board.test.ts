/** Which driver is taken: from what the kernel shows. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Fault } from '../ports.ts';
import { createGpioBoard } from './gpio-board.ts';
import { createSimBoard } from './sim-board.ts';
import { CONTRACT_LANE } from './testing/board-conformance.ts';

const clock = { boottimeMs: () => performance.now() };
const nothing = () => {};
let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'stile-choice-'));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

function chip(label: string): void {
  mkdirSync(join(root, 'gpiochip512'));
  for (const [name, value] of Object.entries({ label, base: 512, ngpio: 54 })) writeFileSync(join(root, 'gpiochip512', name), `${value}\n`);
}
const named = (name: string) => () => ({ ...createSimBoard({ config: { ...CONTRACT_LANE, simGuest: false } }, clock), describe: () => name });
const choice = async (hasDevice: boolean): Promise<string> => {
  const board = createGpioBoard({ config: CONTRACT_LANE, root, onoff: named('onoff'), cdev: named('cdev'), hasDevice: () => hasDevice, openWaitMs: 0 }, clock);
  expect([board.describe(), board.has('fire'), board.has('red_out'), board.ok()]).toEqual(['gpio', true, false, false]);
  expect(() => board.write('release_in', true)).toThrow('not open');
  await board.open(nothing, nothing);
  const by = board.describe();
  board.write('release_in', true);
  expect([board.ok(), board.read('button')]).toEqual([true, false]);
  await board.close({ releaseOpen: false });
  return by;
};

test("onoff, where sysfs shows the header's chip", async () => {
  chip('pinctrl-rp1');
  expect(await choice(true)).toBe('onoff');
});

test('the character device, where sysfs shows another chip, or there is no sysfs GPIO', async () => {
  chip('gpio-brcmstb');
  expect(await choice(true)).toBe('cdev');
  rmSync(root, { recursive: true });
  expect(await choice(true)).toBe('cdev');
});

test('neither: one clear fault', async () => {
  rmSync(root, { recursive: true });
  const board = createGpioBoard({ config: CONTRACT_LANE, root, hasDevice: () => false, openWaitMs: 0 }, clock);
  const fault = await board.open(nothing, nothing).then(nothing, (error: { fault?: Fault }) => error.fault);
  expect(fault).toMatchObject({ hint: expect.stringContaining('board.driver: sim') });
});
