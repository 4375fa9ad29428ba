import { expect, test } from 'vitest';
import { beforeChecked } from './doctor-store.ts';

test.each([
  [{ epoch: 1, last_seq: 5 }, null],
  [{ epoch: 1_780_333_201, last_seq: 5 }, [1_780_333_200, Number.MAX_SAFE_INTEGER - 1]],
  [{ epoch: 1_780_333_201, last_seq: 2_001 }, [1_780_333_200, Number.MAX_SAFE_INTEGER - 1]],
  [{ epoch: 1_780_333_201, last_seq: 5_000 }, [1_780_333_201, 2_999]],
] as const)('L6 the check of %j leaves no row out that it counts', (ledger, after) => {
  expect(beforeChecked(ledger)).toEqual(after);
});
