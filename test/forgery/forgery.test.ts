/** Row 6 of the promises, short: forged codes never open, and a gate whose check is broken is found by them. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { expect, test } from 'vitest';
import { FORGERIES } from './forgeries.ts';
import { runForgeries } from './run.ts';

test('no forged code is admitted, and every genuine one in between is', async () => {
  const result = await runForgeries({ count: 2_000, seed: 7 });
  expect({ ...result, broken: [...result.broken] }).toMatchObject({ forged: 2_000, admitted: 0, broken: [], genuine: 40, genuineAdmitted: 40, examples: [] });
  expect(result.kinds).toBe(Object.keys(FORGERIES).length);
  expect(result.frames).toBeGreaterThan(1_900);
});

test('a gate that believes any signature, or reads no list of revoked codes, is found', async () => {
  const found = async (fault: string) => {
    const child = spawn(process.execPath, [join(import.meta.dirname, 'prove.ts'), '--count', '120', '--plant', fault]);
    const ended = new Promise<number | null>((resolve) => child.on('close', resolve));
    return { told: await text(child.stdout), code: await ended };
  };
  const broken = await Promise.all(['any signature is right', 'the list of revoked codes is not read'].map(found));
  for (const one of broken) expect(one).toEqual({ code: 1, told: expect.stringMatching(/admitted: .*\n[\s\S]*figure: 120 forged/) });
});
