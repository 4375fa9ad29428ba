import { writeFileSync } from 'node:fs';
import { afterEach, expect, test } from 'vitest';
import { storeFolder } from '../decider/testing/store.ts';
import { ledgersOf } from './offline-reader.ts';
import { quarantineFile } from './quarantine-file.ts';

const endings: (() => void)[] = [];
afterEach(() => {
  for (const end of endings.splice(0).reverse()) end();
});

test('the database that was quarantined last sorts last when an earlier one was quarantined under a clock that was ahead (T3)', () => {
  const made = storeFolder('stile-quarantine-');
  endings.push(made.remove);
  const path = `${made.path}/ledger.sqlite`;
  const names = [Date.UTC(2026, 5, 1), Date.UTC(2036, 0, 1), Date.UTC(2026, 5, 2), Date.UTC(2026, 5, 2), Date.UTC(2026, 5, 3)].map((wallMs) => {
    writeFileSync(path, '');
    return quarantineFile(path, wallMs);
  });
  expect(ledgersOf(made.path).quarantine).toEqual(names);
});
