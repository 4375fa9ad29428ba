/** The commands of INSTALL.md can be taken from it, and are the whole way to a guest (prove-install types them). */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { stepsOf } from './document.ts';

const INSTALL = readFileSync(new URL('../../docs/INSTALL.md', import.meta.url), 'utf8');
const MAX_ACTIONS = 20;

test('B6: INSTALL.md leads from an empty server to a gate in few actions, and says where each is done', () => {
  const steps = stepsOf(INSTALL);
  expect(steps.length).toBeLessThanOrEqual(MAX_ACTIONS);
  expect(steps.map((step) => (step.kind === 'run' ? `${step.where}${step.eachGate ? ' each' : ''}` : step.kind))).toEqual(
    expect.arrayContaining(['server', 'server each', 'file', 'carry', 'gate each']),
  );
  // What a person would have to fill in is no command.
  for (const step of steps) if (step.kind === 'run') expect(step.command).not.toMatch(/…|\.example\b|<[a-z]+>/);
});

test('a mark without a block, or of a place that is none, is an error', () => {
  expect(() => stepsOf('<!-- run: server -->\nwords')).toThrow('no block');
  expect(() => stepsOf('<!-- run: moon -->\n```sh\nx\n```')).toThrow('moon');
  expect(() => stepsOf('<!-- run server -->\n```sh\nx\n```')).toThrow('no mark');
  expect(stepsOf('<!-- run: gate -->\n```sh\n# words\na \\\n  b\nc\n```')).toEqual([
    { kind: 'run', where: 'gate', eachGate: true, command: 'a b' },
    { kind: 'run', where: 'gate', eachGate: true, command: 'c' },
  ]);
});
