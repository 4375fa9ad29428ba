/** Tells which rows the gate names and which it sends when the end of the ledger's log is not what was written. */
import { copyFileSync, cpSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { FRAME_HEADER_BYTES, HEADER_BYTES } from '../store/wal-format.ts';
import { openDeciderEngine } from './decider.ts';
import { createSigner, GATE, stampAt, storeFolder } from './testing/store.ts';

const FRAME_BYTES = FRAME_HEADER_BYTES + 4_096;
const endings: (() => void)[] = [];
afterEach(() => {
  for (const end of endings.splice(0).reverse()) end();
});

/** A gate that wrote some rows; in each of these bytes of its log's last frames one bit is then turned; and what the next start says. `copied`: the copy of the rows is that of the pause that followed. */
async function startAfter(
  ...places: readonly ({ readonly back: number; readonly at: number } | 'copied')[]
): Promise<{ readonly notices: string[]; readonly epoch: number; readonly lastSeq: number; readonly seqs: number[]; readonly sent: number[] }> {
  const made = storeFolder('stile-damage-');
  endings.push(made.remove);
  const [lived, found] = [join(made.path, 'lived'), join(made.path, 'found')];
  mkdirSync(lived);
  const notices: string[] = [];
  const open = (path: string) =>
    openDeciderEngine({ path, gate: GATE, verifyKeys: [createSigner().publicKey], notice: (_what, detail) => notices.push(detail) }, stampAt(1));
  const core = await open(lived);
  let row: readonly [number, number] = [0, 0];
  for (let n = 0; n < 12; n++) row = core.record({ kind: 'clock', what: 'tick', detail: `${n} ${'x'.repeat(900)}` }, stampAt(n));
  const [epoch, lastSeq] = row;
  const logBytes = statSync(join(lived, 'ledger.sqlite-wal')).size;
  cpSync(lived, found, { recursive: true });
  if (places.includes('copied')) {
    while (core.idle(stampAt(20), true));
    copyFileSync(join(lived, 'ledger.rows'), join(found, 'ledger.rows'));
  }
  core.close();

  const wal = join(found, 'ledger.sqlite-wal');
  const log = readFileSync(wal);
  let last = Math.floor((logBytes - HEADER_BYTES) / FRAME_BYTES) - 1;
  while (!log.subarray(HEADER_BYTES + last * FRAME_BYTES + 8, HEADER_BYTES + last * FRAME_BYTES + 16).equals(log.subarray(16, 24))) last--;
  for (const one of places) {
    if (one === 'copied') continue;
    const { back, at } = one;
    const place = HEADER_BYTES + (last - back) * FRAME_BYTES + at;
    log[place] = (log[place] as number) ^ 1;
  }
  writeFileSync(wal, log);
  const again = await open(found);
  endings.push(() => again.close());
  const seqs = again
    .rows(null, 100)
    .filter((one) => one.epoch === epoch)
    .map(({ entry }) => entry.seq);
  const sent: number[] = [];
  for (let after: [number, number] | null = null, left = 20; left > 0; left--) {
    const batch = again.nextBatch(after);
    if (batch === null) break;
    after = [batch.epoch, batch.uptoSeq];
    const { entries } = JSON.parse(Buffer.from(batch.payload).toString()) as { entries: { seq: number }[] };
    if (batch.epoch === epoch) sent.push(...entries.map(({ seq }) => seq));
  }
  return { notices, epoch, lastSeq, seqs, sent };
}
const worse = (back: number) => [FRAME_HEADER_BYTES + 4, 1_000, FRAME_BYTES - 900].map((at) => ({ back, at }));
const upTo = (last: number): number[] => Array.from({ length: last }, (_, n) => n + 1);

test('the gate drops a damaged last commit and names its rows, from the first, when the copy of the rows does not have them yet', async () => {
  const { notices, epoch, lastSeq, seqs } = await startAfter({ back: 0, at: FRAME_BYTES - 900 });
  expect(seqs).toEqual([...upTo(lastSeq - 1), lastSeq]);
  expect(notices).toEqual([expect.stringContaining(`then rows from ${epoch}/${lastSeq} on are lost`)]);
});

test.each([
  ['one wrong bit in the last commit', [{ back: 0, at: FRAME_BYTES - 900 }]],
  ['many wrong bits in the last commit', worse(0)],
  ['many wrong bits in the last two commits', [...worse(0), ...worse(1)]],
])('the gate sends every row from the copy after %s, in a new epoch', async (_what, places) => {
  const { notices, lastSeq, seqs, sent } = await startAfter(...places, 'copied');
  expect(seqs).toEqual([]);
  expect(sent).toEqual(upTo(lastSeq));
  expect(notices).toEqual([expect.stringMatching(/12 unacknowledged rows saved, 0 manifests taken up again/)]);
});

test('the gate names the rows that would be missing, from the first, when many bits of the last commit are wrong', async () => {
  const { notices, epoch, lastSeq } = await startAfter(...worse(0));
  expect(notices).toEqual([expect.stringContaining(`then rows from ${epoch}/${lastSeq} on are lost`)]);
});

test('the gate quarantines the ledger and sends every row when one bit before the last commit is wrong', async () => {
  const { notices, lastSeq, seqs, sent } = await startAfter({ back: 1, at: FRAME_BYTES - 900 });
  expect(seqs).toEqual([]);
  expect(sent).toEqual(upTo(lastSeq));
  expect(notices).toEqual([expect.stringMatching(/2 commits lie behind a damaged place of the log.*saved, 0 manifests taken up again; epoch/)]);
});

test('the gate quarantines the ledger, sends what is left and names every other row when two commits are damaged', async () => {
  const { notices, epoch, lastSeq, sent } = await startAfter(...worse(0), ...worse(1));
  expect(notices).toHaveLength(1);
  const [notice = ''] = notices;
  const from = Number(new RegExp(`any from ${epoch}/(\\d+) on;`).exec(notice)?.[1]);
  expect(from).toBeLessThanOrEqual(lastSeq + 1);
  const named = [...notice.matchAll(new RegExp(`${epoch}/(\\d+)–(\\d+)`, 'g'))];
  const missing = upTo(lastSeq).filter((seq) => !sent.includes(seq));
  expect(missing.length).toBeGreaterThan(0);
  expect(missing.filter((seq) => seq < from && !named.some(([, first, last]) => seq >= Number(first) && seq <= Number(last)))).toEqual([]);
});
