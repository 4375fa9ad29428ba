import { expect, test } from 'vitest';
import { parseRunArgs } from './parse-run-args.ts';

test('run with at most a configuration is known at sight', () => {
  expect(parseRunArgs(['run'], {})).toEqual({ config: undefined });
  expect(parseRunArgs(['run'], { STILE_CONFIG: '/a' })).toEqual({ config: '/a' });
  for (const line of [['--config', '/b'], ['-c', '/b'], ['--config=/b']])
    expect(parseRunArgs(['run', ...line], { STILE_CONFIG: '/a' })).toEqual({ config: '/b' });
});

test('whatever else is asked is read by the library', () => {
  for (const line of [
    [],
    ['status'],
    ['run', '--help'],
    ['run', '--config'],
    ['run', '--config', '--help'],
    ['run', '-c', '/b', 'more'],
    ['run', '/b'],
    ['--config', '/b', 'run'],
  ])
    expect(parseRunArgs(line, {})).toBeNull();
});
