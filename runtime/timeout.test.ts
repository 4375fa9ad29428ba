import { expect, test } from 'vitest';
import { withTimeout } from './timeout.ts';

test('withTimeout returns what the work returns when it finishes in time', async () => {
  expect(await withTimeout(Promise.resolve('done'), 60_000, null)).toBe('done');
});

test('withTimeout returns the alternative when the work never finishes', async () => {
  expect(await withTimeout(new Promise(() => undefined), 1, 'late')).toBe('late');
});

test('withTimeout rejects when the work rejects', async () => {
  await expect(withTimeout(Promise.reject(new Error('broken')), 60_000, null)).rejects.toThrow('broken');
});
