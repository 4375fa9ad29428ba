/**
 * What a gate has said of itself so far: from the marks that its process made between its calls. A mark comes after the call that it
 * tells of had answered, so whatever it says must be true after any power cut from then on.
 */
import type { StoredEntry } from '../../daemon/store/ledger.ts';

export type Mark =
  /** A call answered with this row: shown to somebody. */
  | { readonly mark: 'answered'; readonly epoch: number; readonly seq: number }
  /** A row was read. */
  | { readonly mark: 'row'; readonly epoch: number; readonly entry: StoredEntry }
  /** The cloud has the rows up to here: told to the gate before it is marked. */
  | { readonly mark: 'acked'; readonly epoch: number; readonly seq: number }
  /** This ticket was admitted and went through. */
  | { readonly mark: 'used'; readonly code: number }
  /** null: being changed. */
  | { readonly mark: 'mode'; readonly direction: 'in' | 'out'; readonly mode: string | null }
  | { readonly mark: 'transaction'; readonly id: string }
  /** null: being changed. */
  | { readonly mark: 'latch'; readonly latched: boolean | null }
  | { readonly mark: 'manifest'; readonly version: number; readonly overlay: number }
  /** A row that waits for the cloud, whichever database holds it: after a rebuild it must not be forgotten again. */
  | { readonly mark: 'waiting'; readonly epoch: number; readonly seq: number }
  /** The gate says that usage is not complete. */
  | { readonly mark: 'incomplete' }
  /** Everything that a peer's ledger was heard to say, up to here, and a sync of it was not promised. */
  | { readonly mark: 'peer'; readonly epoch: number; readonly seq: number }
  /** What the process is about to do: for counting. */
  | { readonly mark: 'doing'; readonly what: string };

export interface Truth {
  /** Rows by `epoch/seq`; null: answered, and not read yet. */
  readonly rows: Map<string, StoredEntry | null>;
  readonly acked: Map<number, number>;
  readonly used: number[];
  readonly modes: Map<string, string | null>;
  readonly transactions: string[];
  latched: boolean | null;
  /** Versions of the file and of the overlay in force, at least. */
  manifest: { version: number; overlay: number } | null;
  readonly waiting: Set<string>;
  incomplete: boolean;
  /** Rows of before the database was damaged: what could not be read of them is lost by the damage, not by the cut. */
  readonly former: ReadonlyMap<string, StoredEntry | null>;
  peer: readonly [number, number] | null;
  doing: string;
}

export const keyOf = (epoch: number, seq: number): string => `${epoch}/${seq}`;

export const newTruth = (): Truth => ({
  rows: new Map(),
  acked: new Map(),
  used: [],
  modes: new Map(),
  transactions: [],
  latched: false,
  manifest: null,
  waiting: new Set(),
  incomplete: false,
  former: new Map(),
  peer: null,
  doing: 'begin',
});

/** Takes one mark in. A row that was read with two hashes is an error of the gate: said by throwing. */
export function learn(truth: Truth, mark: Mark): void {
  switch (mark.mark) {
    case 'answered': {
      const key = keyOf(mark.epoch, mark.seq);
      if (!truth.rows.has(key)) truth.rows.set(key, null);
      return;
    }
    case 'row': {
      const key = keyOf(mark.epoch, mark.entry.seq);
      const known = truth.rows.get(key);
      if (known != null && known.hash !== mark.entry.hash) throw new Error(`row ${key} was read with two contents`);
      truth.rows.set(key, mark.entry);
      return;
    }
    case 'acked':
      truth.acked.set(mark.epoch, Math.max(mark.seq, truth.acked.get(mark.epoch) ?? 0));
      return;
    case 'used':
      truth.used.push(mark.code);
      return;
    case 'mode':
      truth.modes.set(mark.direction, mark.mode);
      return;
    case 'transaction':
      truth.transactions.push(mark.id);
      return;
    case 'latch':
      truth.latched = mark.latched;
      return;
    case 'manifest':
      truth.manifest = { version: mark.version, overlay: mark.overlay };
      return;
    case 'waiting':
      truth.waiting.add(keyOf(mark.epoch, mark.seq));
      return;
    case 'incomplete':
      truth.incomplete = true;
      return;
    case 'peer':
      truth.peer = [mark.epoch, mark.seq];
      return;
    case 'doing':
      truth.doing = mark.what;
      return;
  }
}

export const marksOf = (data: Buffer): Mark[] =>
  data
    .toString('utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Mark);

/** The truth once the database was damaged: what stood in it may be gone, what the cloud has it has, and who went through went through. */
export const afterDamage = (truth: Truth): Truth => ({ ...newTruth(), former: truth.rows, acked: truth.acked, used: truth.used, latched: truth.latched });
