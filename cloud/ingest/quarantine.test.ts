/** Quarantine's bound on messages that no tenant owns. */
import { expect, test } from 'vitest';
import type { Database } from '../db/database.ts';
import { createQuarantine } from './quarantine.ts';

const MAX_UNKNOWN_PER_MINUTE = 120;

test('S5: quarantine keeps 120 messages of unknown senders a minute, and drops the rest without an error', async () => {
  let kept = 0;
  const query = async (_sql: string, values: readonly unknown[]) => {
    kept += (values[0] as readonly string[]).length;
    return { rows: [], rowCount: 0 };
  };
  const database = { withoutTenant: (work: (client: { query: typeof query }) => Promise<unknown>) => work({ query }) } as unknown as Database;
  let nowMs = 60_000;
  const quarantine = createQuarantine(database, () => nowMs);
  const flood = (minute: string) =>
    Promise.all(
      Array.from({ length: 500 }, (_, n) =>
        quarantine.put(null, { topic: `stile/1/x/y/${minute}/${n}`, reason: 'unknown_device', detail: '', payload: Buffer.from(String(n)) }),
      ),
    );
  await flood('first');
  expect(kept).toBe(MAX_UNKNOWN_PER_MINUTE);
  nowMs += 60_000;
  await flood('second');
  expect(kept).toBe(2 * MAX_UNKNOWN_PER_MINUTE);
});
