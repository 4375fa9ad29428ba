import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, expect, test } from 'vitest';
import { entryHash, firstPredecessor } from '../../contract/hash-chain.ts';
import { stampAt, storeFolder } from '../decider/testing/store.ts';
import { type Ledger, openLedger, type StoredEntry, sha256Text } from './ledger.ts';
import { deleteChecksums } from './page-checksums.ts';
import { assertDurable, CHECKPOINT_AFTER_COMMITS, lockStore, openForSalvage, StoreError } from './sqlite.ts';
import { inspectWal } from './wal-inspect.ts';
import { LOG_ROOM_BYTES } from './wal-preallocate.ts';

const NAME = 'arena/north-01';
const endings: (() => void)[] = [];
afterEach(() => {
  for (const end of endings.splice(0).reverse()) end();
});

function folder(): string {
  const made = storeFolder('stile-ledger-');
  endings.push(made.remove);
  return made.path;
}
function opened(path: string, change: Partial<Parameters<typeof openLedger>[0]> = {}): Ledger {
  const ledger = openLedger({ path, name: NAME, stamp: stampAt(1_000), ...change });
  endings.push(() => ledger.close());
  return ledger;
}
const note = (detail: string) => ({ kind: 'clock', what: 'test', detail });
const all = (ledger: Ledger): StoredEntry[] =>
  ledger.epochs().flatMap((own) => ledger.read(own.epoch, own.firstSeq, 1_000_000).map((row) => JSON.parse(row.entry) as StoredEntry));

test('a thousand rows are one chain, as the contract says it, also over a restart', () => {
  const path = join(folder(), 'ledger.sqlite');
  const ledger = opened(path);
  for (let n = 0; n < 500; n++) ledger.append([note(`${n}`)], stampAt(n));
  ledger.append(
    Array.from({ length: 100 }, (_, n) => note(`together ${n}`)),
    stampAt(500),
  );
  endings.pop();
  ledger.close();
  const again = opened(path, { stamp: stampAt(9_000) });
  expect(again.fresh).toBe(false);
  for (let n = 600; n < 1_000; n++) again.append([note(`${n}`)], stampAt(n));
  const rows = all(again);
  expect(rows).toHaveLength(1_000);
  let previous = firstPredecessor(sha256Text, NAME, again.epoch());
  rows.forEach((row, n) => {
    expect(row.seq).toBe(n + 1);
    expect(entryHash(sha256Text, previous, row)).toBe(row.hash);
    previous = row.hash;
  });
  while (again.verifyNext(300)) {
    /* every step must hold */
  }
});

test('a changed row, a missing row and a swapped row are each found', () => {
  for (const harm of [
    "UPDATE rows SET entry = replace(entry, 'row 7', 'row 8') WHERE id = 7",
    'DELETE FROM rows WHERE id = 7',
    'UPDATE rows SET entry = (SELECT entry FROM rows WHERE id = 8) WHERE id = 7',
  ]) {
    const path = join(folder(), 'ledger.sqlite');
    const ledger = openLedger({ path, name: NAME, stamp: stampAt(1) });
    for (let n = 1; n <= 300; n++) ledger.append([note(`row ${n}`)], stampAt(n));
    ledger.close();
    deleteChecksums(path);
    const db = openForSalvage(path);
    db.exec(harm);
    db.close();
    const again = opened(path);
    expect(() => {
      while (again.verifyNext(50)) {
        /* until found */
      }
    }).toThrow(/does not follow/);
  }
});

test('a change within the newest rows is found before the first decision', () => {
  const path = join(folder(), 'ledger.sqlite');
  const ledger = openLedger({ path, name: NAME, stamp: stampAt(1) });
  for (let n = 1; n <= 30; n++) ledger.append([note(`row ${n}`)], stampAt(n));
  ledger.close();
  deleteChecksums(path);
  const db = openForSalvage(path);
  db.exec("UPDATE rows SET entry = replace(entry, 'row 29', 'row 92') WHERE id = 29");
  db.close();
  expect(() => openLedger({ path, name: NAME, stamp: stampAt(1) })).toThrow(expect.objectContaining({ damaged: true, code: 'STORE_CHAIN' }));
});

test('epochs: above the acknowledged one, the own last one and the Unix seconds; an unused one leaves no trace', () => {
  const path = join(folder(), 'ledger.sqlite');
  const stamp = stampAt(0);
  const seconds = Math.floor(stamp.wallMs / 1000);
  const ledger = opened(path, { stamp });
  expect(ledger.epoch()).toBe(seconds + 1);
  expect(ledger.startEpoch(seconds + 100, stamp)).toBe(seconds + 101);
  ledger.append([note('a'), note('b')], stamp);
  expect(ledger.startEpoch(5, stamp)).toBe(seconds + 102);
  ledger.append([note('c')], stamp);
  expect(ledger.epochs()).toEqual([
    { epoch: seconds + 101, firstSeq: 1, lastSeq: 2 },
    { epoch: seconds + 102, firstSeq: 1, lastSeq: 1 },
  ]);
  expect(ledger.lastSeqOf(seconds + 101)).toBe(2);
  expect(ledger.lastSeqOf(seconds + 1)).toBeNull();
  while (ledger.verifyNext(1)) {
    /* the chain begins anew with each epoch */
  }
});

test('pruned from the front alone; what is kept stays one chain, and numbers go on', () => {
  const path = join(folder(), 'ledger.sqlite');
  const ledger = openLedger({ path, name: NAME, stamp: stampAt(1) });
  for (let n = 1; n <= 20; n++) ledger.append([note(`${n}`)], stampAt(n));
  expect(ledger.prune(ledger.epoch(), 10, 4)).toBe(4);
  expect(ledger.prune(ledger.epoch(), 10, 100)).toBe(6);
  expect(ledger.prune(ledger.epoch(), 100, 100)).toBe(9);
  ledger.close();
  const again = opened(path);
  expect(again.epochs()).toEqual([{ epoch: again.epoch(), firstSeq: 20, lastSeq: 20 }]);
  expect(again.append([note('next')], stampAt(30))[0]?.position).toEqual([again.epoch(), 21]);
  while (again.verifyNext(5)) {
    /* from the pruned row's hash on */
  }
});

test('a commit that failed leaves the ledger as it was', () => {
  const ledger = opened(join(folder(), 'ledger.sqlite'));
  ledger.append([note('1')], stampAt(1));
  expect(() =>
    ledger.append([note('2'), note('3')], stampAt(2), () => {
      throw new Error('no');
    }),
  ).toThrow(StoreError);
  expect(ledger.lastSeq()).toBe(1);
  expect(ledger.append([note('2')], stampAt(3))[0]?.position[1]).toBe(2);
  expect(all(ledger).map((row) => row['detail'])).toEqual(['1', '2']);
});

test('synchronous reads FULL, and a connection that reads anything else is refused', () => {
  const ledger = opened(join(folder(), 'ledger.sqlite'));
  expect(ledger.db.pragma('synchronous', { simple: true })).toBe(2);
  expect(ledger.db.pragma('journal_mode', { simple: true })).toBe('wal');
  ledger.db.pragma('synchronous = NORMAL');
  expect(() => assertDurable(ledger.db, 'ledger.sqlite')).toThrow(/synchronous reads 1, not 2/);
});

test('a newer schema and another gate: the one is opened, the other refused, neither is damage', () => {
  const path = join(folder(), 'ledger.sqlite');
  const ledger = openLedger({ path, name: NAME, stamp: stampAt(1) });
  ledger.append([note('1')], stampAt(1));
  ledger.db.exec('CREATE TABLE of_a_later_release (x)');
  ledger.db.pragma('user_version = 99');
  ledger.close();
  const again = openLedger({ path, name: NAME, stamp: stampAt(2) });
  expect(again.append([note('2')], stampAt(2))[0]?.position[1]).toBe(2);
  again.close();
  expect(() => openLedger({ path, name: 'arena/south-01', stamp: stampAt(1) })).toThrow(
    expect.objectContaining({ damaged: false, message: expect.stringContaining('ledger of arena/north-01') }),
  );
});

test("a file that is no database, or another program's, is damage", () => {
  const home = folder();
  writeFileSync(join(home, 'rubbish.sqlite'), Buffer.alloc(8_192, 'x'));
  expect(() => openLedger({ path: join(home, 'rubbish.sqlite'), name: NAME, stamp: stampAt(1) })).toThrow(
    expect.objectContaining({ damaged: true, code: 'SQLITE_NOTADB' }),
  );
  writeFileSync(join(home, 'other.sqlite'), '');
  const other = openForSalvage(join(home, 'other.sqlite'));
  other.exec('CREATE TABLE rows (a)');
  other.pragma('application_id = 7');
  other.close();
  expect(() => openLedger({ path: join(home, 'other.sqlite'), name: NAME, stamp: stampAt(1) })).toThrow(expect.objectContaining({ damaged: true }));
});

test('one process at a time', () => {
  const path = join(folder(), 'lock.sqlite');
  const lock = lockStore(path);
  expect(() => lockStore(path)).toThrow(
    expect.objectContaining({ damaged: false, fault: expect.objectContaining({ cause: expect.stringContaining('another program') }) }),
  );
  lock.close();
  lockStore(path).close();
});

test('killed in a loop of commits, nothing that was answered is lost', { timeout: 60_000 }, async () => {
  const path = join(folder(), 'ledger.sqlite');
  let answered: [number, number] = [0, 0];
  for (let round = 0; round < (process.env['STILE_PROVE'] === '1' ? 10 : 2); round++) {
    const child = spawn(process.execPath, [fileURLToPath(new URL('./testing/ledger-writer.ts', import.meta.url)), path, NAME], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let said = '';
    child.stdout.on('data', (chunk: Buffer) => {
      said += chunk.toString();
      if (said.length > 800 * (round + 1)) child.kill('SIGKILL');
    });
    await once(child, 'close');
    const lines = said.split('\n');
    // The last line may have been cut; the one before it was answered.
    const [epoch = 0, seq = 0] = (lines.at(-2) ?? '').split(' ').map(Number);
    expect(seq).toBeGreaterThan(answered[1]);
    answered = [epoch, seq];
    const ledger = openLedger({ path, name: NAME, stamp: stampAt(1) });
    expect(ledger.epoch()).toBe(epoch);
    expect(ledger.lastSeq()).toBeGreaterThanOrEqual(seq);
    while (ledger.verifyNext(1_000)) {
      /* whole */
    }
    ledger.close();
  }
});

const mounted = ((): string | null => {
  const at = join('/tmp', `stile-full-${process.pid}`);
  try {
    mkdirSync(at);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', at], { stdio: 'ignore' });
    return at;
  } catch {
    rmSync(at, { recursive: true, force: true });
    return null;
  }
})();

test.skipIf(mounted === null)('a full disk rejects and heals; the account goes on without a gap (needs root to mount a small file system)', () => {
  const at = mounted as string;
  try {
    const ledger = openLedger({ path: join(at, 'ledger.sqlite'), name: NAME, stamp: stampAt(1) });
    ledger.append([note('first')], stampAt(1));
    // Everything but one page is taken by something else.
    let size = 1024 * 1024;
    for (; size > 1_024; size = Math.floor(size / 2)) {
      for (let n = 0; ; n++) {
        try {
          writeFileSync(join(at, `other-${size}-${n}`), Buffer.alloc(size));
        } catch {
          rmSync(join(at, `other-${size}-${n}`), { force: true });
          break;
        }
      }
    }
    let refused: unknown;
    let committed = 1;
    for (let n = 0; n < 100 && refused === undefined; n++) {
      try {
        ledger.append([note('x'.repeat(400))], stampAt(n));
        committed++;
      } catch (error) {
        refused = error;
      }
    }
    expect(refused).toMatchObject({ damaged: false, fault: { healsItself: true } });
    expect(ledger.lastSeq()).toBe(committed);
    expect(() => ledger.append([note('still full')], stampAt(5))).toThrow(StoreError);
    execFileSync('sh', ['-c', `rm -f ${at}/other-*`]);
    expect(ledger.append([note('room again')], stampAt(6))[0]?.position[1]).toBe(committed + 1);
    ledger.close();
    const again = openLedger({ path: join(at, 'ledger.sqlite'), name: NAME, stamp: stampAt(7) });
    expect(all(again).map((row) => row.seq)).toEqual(Array.from({ length: committed + 1 }, (_, n) => n + 1));
    while (again.verifyNext(50)) {
      /* whole */
    }
    again.close();
  } finally {
    execFileSync('umount', [at]);
    rmSync(at, { recursive: true, force: true });
  }
});

test('the log is folded when idle once it is worth it, and is written over from then on', () => {
  const path = join(folder(), 'ledger.sqlite');
  const ledger = opened(path);
  const size = (file: string) => readFileSync(file).length;
  const write = (rows: number) => {
    for (let n = 0; n < rows; n++) ledger.append([note('x'.repeat(400))], stampAt(n));
  };
  write(CHECKPOINT_AFTER_COMMITS / 2);
  const unfolded = size(path);
  ledger.maybeCheckpoint('idle');
  // A pause between two guests is no reason: the next one would wait for two syncs.
  expect(size(path)).toBe(unfolded);
  write(CHECKPOINT_AFTER_COMMITS / 2);
  const grown = size(`${path}-wal`);
  ledger.maybeCheckpoint('idle');
  expect(size(path)).toBeGreaterThan(unfolded + CHECKPOINT_AFTER_COMMITS * 400);
  write(40);
  expect(size(`${path}-wal`)).toBe(grown);
  expect(ledger.read(ledger.epoch(), 1, 1_000)).toHaveLength(CHECKPOINT_AFTER_COMMITS + 40);
});

test('the log is laid out while idle: no commit makes it longer, its zeros are nobody’s rows, and a log that was cut is laid out again', () => {
  const path = join(folder(), 'ledger.sqlite');
  const ledger = opened(path);
  const logBytes = () => statSync(`${path}-wal`).size;
  const preallocateWal = () => {
    let steps = 0;
    while (ledger.preallocateWal()) steps++;
    return steps;
  };
  expect(preallocateWal()).toBeGreaterThan(1);
  expect(logBytes()).toBe(LOG_ROOM_BYTES);
  for (let n = 0; n < 100; n++) ledger.append([note('x'.repeat(400))], stampAt(n));
  expect(logBytes()).toBe(LOG_ROOM_BYTES);
  expect(preallocateWal()).toBe(0);

  // As a power cut leaves it: the file and its log, read anew.
  const copy = join(folder(), 'ledger.sqlite');
  for (const suffix of ['', '-wal']) copyFileSync(path + suffix, copy + suffix);
  expect(inspectWal(copy)).toEqual({ headless: false, commitsBehind: 0 });
  const again = opened(copy);
  expect(again.endTruncated).toBe(false);
  expect(again.read(again.epoch(), 1, 1_000)).toEqual(ledger.read(ledger.epoch(), 1, 1_000));
  again.close();

  ledger.checkpointAll();
  expect(logBytes()).toBe(0);
  expect(preallocateWal()).toBeGreaterThan(1);
  expect(logBytes()).toBe(LOG_ROOM_BYTES);
  ledger.append([note('after')], stampAt(200));
  while (ledger.verifyNext(50)) {
    /* whole */
  }
  expect(ledger.lastSeq()).toBe(101);
  ledger.close();
});

test('while another program writes to the log it is not laid out', () => {
  const path = join(folder(), 'ledger.sqlite');
  const ledger = opened(path);
  ledger.append([note('first')], stampAt(1));
  const other = openForSalvage(path);
  other.exec('BEGIN IMMEDIATE');
  const before = statSync(`${path}-wal`).size;
  expect(ledger.preallocateWal()).toBe(false);
  expect(statSync(`${path}-wal`).size).toBe(before);
  other.close();
  ledger.close();
});

test('T12: a row whose words cannot be written is written without what cannot be said', () => {
  const ledger = opened(join(folder(), 'ledger.sqlite'));
  const odd = { kind: 'refusal', reason: 'blocked', explanation: `${'x'.repeat(9)}\ud83d`, facts: { note: 'a\udc00', wait_s: Number.NaN }, of: undefined };
  const [row] = ledger.append([odd, note('the next')], stampAt(1));
  expect(row?.entry).toMatchObject({ kind: 'refusal', reason: 'blocked', explanation: `${'x'.repeat(9)}\ufffd`, facts: { note: 'a\ufffd' } });
  const rows = all(ledger);
  expect(rows.map(({ kind }) => kind)).toEqual(['refusal', 'clock']);
  expect(entryHash(sha256Text, firstPredecessor(sha256Text, NAME, ledger.epoch()), rows[0] as StoredEntry)).toBe(rows[0]?.hash);
});
