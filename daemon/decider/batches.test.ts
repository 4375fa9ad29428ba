/** What the gate sends of its ledger: every row once and in order, in messages that every broker takes. */
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { MAX_LEDGER_ENTRIES, MAX_PAYLOAD_BYTES } from '../../contract/limits.ts';
import { openDeciderEngine } from './decider.ts';
import { createSigner, GATE, stampAt, storeFolder } from './testing/store.ts';

test.each([
  ['small rows', 'x', 10, 350, MAX_LEDGER_ENTRIES],
  ['rows of three bytes a character', '漢', 512, 350, MAX_LEDGER_ENTRIES],
  ['rows of six bytes a character', '\u0001', 512, 350, 79],
])('a batch of %s is within the bounds of a message, and every row is sent once', async (_name, letter, length, rows, most) => {
  const folder = storeFolder('stile-batches-');
  const notice = () => undefined;
  const engine = await openDeciderEngine({ path: join(folder.path, 'store'), gate: GATE, verifyKeys: [createSigner().publicKey], notice }, stampAt(1));
  try {
    for (let n = 0; n < rows; n++) engine.record({ kind: 'fault', what: 'other', detail: `${n} ${letter.repeat(length)}` }, stampAt(n));
    const sent: number[] = [];
    const sizes: number[] = [];
    for (let after: [number, number] | null = null; ; ) {
      const batch = engine.nextBatch(after);
      if (batch === null) break;
      const { entries } = JSON.parse(Buffer.from(batch.payload).toString()) as { entries: { seq: number }[] };
      if (entries.length > 1) expect(batch.payload.length).toBeLessThanOrEqual(MAX_PAYLOAD_BYTES);
      expect([entries[0]?.seq, entries.at(-1)?.seq]).toEqual([batch.fromSeq, batch.uptoSeq]);
      sent.push(...entries.map(({ seq }) => seq));
      sizes.push(entries.length);
      after = [batch.epoch, batch.uptoSeq];
    }
    expect(sent).toEqual(Array.from({ length: rows }, (_, n) => n + 1));
    // As full as they may be, not one row a message.
    expect(Math.max(...sizes)).toBeLessThanOrEqual(most);
    expect(Math.max(...sizes)).toBeGreaterThanOrEqual(most - 1);
  } finally {
    engine.close();
    folder.remove();
  }
});
