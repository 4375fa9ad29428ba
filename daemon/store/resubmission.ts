/**
 * Sends the rows of a store that went back in time once more, under a new epoch.
 *
 * The store cannot know where the cloud's copy of its ledger parts from its own. So it writes every row that it still holds again, each original
 * once, with `again: [epoch, seq, hash]` of the original and otherwise unchanged; identity is the original's, so a row that the cloud holds already
 * counts once. The earlier epochs are closed: they are neither judged nor sent any more. The steps go on after a crash.
 */
import { againOf, originalOf } from '../../contract/identity.ts';
import { type AppendedRow, type Ledger, parseEntry, type RowBody, type Stamp, type StoredEntry } from './ledger.ts';

/** Rows written again in one transaction, so that a decision waits for no more than that. */
export const RESUBMIT_STEP_ROWS = 100;
/** New epochs in a day that a store begins because it went back in time; then no further one begins, because two devices may share one identity. */
export const MAX_EPOCHS_A_DAY = 3;
const DAY_MS = 24 * 3_600_000;
/** Setting of the ledger: the state below, as JSON. */
const META = 'resubmission';

interface State {
  /** Epochs below this one are closed. */
  readonly closedBelow: number;
  /** The next row to look at; null: everything was written again. */
  readonly next: { readonly epoch: number; readonly seq: number } | null;
  /** The newest row that was written again: with it at the cloud, the closed epochs' rows are not needed any more. */
  readonly written: { readonly epoch: number; readonly seq: number } | null;
  /** Rows written again since the store last went back. */
  readonly rows: number;
  /** Wall times, Unix ms, at which the newest of these epochs began; at most MAX_EPOCHS_A_DAY. */
  readonly begun: readonly number[];
}
const NONE: State = { closedBelow: 0, next: null, written: null, rows: 0, begun: [] };

export interface Resubmission {
  closedBelow(): number;
  /** Rows that still have to be written again, about; 0: none. */
  left(): number;
  /** Rows written again since the store last went back in time. */
  rows(): number;
  /** Returns whether another epoch may begin: fewer than MAX_EPOCHS_A_DAY did within a day. */
  mayBegin(wallMs: number): boolean;
  /** Begins an epoch above `aboveEpoch` and closes every earlier one, in one transaction with `also`. Returns the new epoch. Throws StoreError. */
  begin(aboveEpoch: number, stamp: Stamp, also: () => void): number;
  /** Writes the next rows again by `write`, which runs `also` in the same transaction; false: nothing is left. Throws StoreError. */
  step(stamp: Stamp, write: (bodies: readonly RowBody[], stamp: Stamp, also: () => void) => readonly AppendedRow[]): boolean;
  /** The closed epochs' rows may be pruned from here on: everything was written again, up to this row. null: not yet, or nothing was closed. */
  written(): { readonly epoch: number; readonly seq: number } | null;
}

export function createResubmission(ledger: Ledger): Resubmission {
  let state = readState(ledger);
  const named = (epoch: number, entry: StoredEntry) => ({ ledger: ledger.name, epoch, seq: entry.seq, hash: entry.hash, again: entry['again'] });
  /** Hashes of originals that stand in the current epoch already; null: not read yet. */
  let standing: Set<string> | null = null;

  const readStanding = (): Set<string> => {
    const found = new Set<string>();
    const lastSeq = ledger.lastSeq();
    for (let from = 1; from <= lastSeq; from += RESUBMIT_STEP_ROWS)
      for (const row of ledger.read(ledger.epoch(), from, RESUBMIT_STEP_ROWS)) {
        const entry = parseEntry(ledger, ledger.epoch(), row);
        if (entry['again'] !== undefined) found.add(originalOf(named(ledger.epoch(), entry)).hash);
      }
    return found;
  };
  /** Rows of closed epochs from the cursor on, oldest first. */
  const nextRows = (from: NonNullable<State['next']>) => {
    for (const { epoch, firstSeq, lastSeq } of ledger.epochs()) {
      if (epoch >= state.closedBelow || epoch < from.epoch) continue;
      const seq = Math.max(firstSeq, epoch === from.epoch ? from.seq : 1);
      if (seq <= lastSeq) return { epoch, rows: ledger.read(epoch, seq, RESUBMIT_STEP_ROWS) };
    }
    return null;
  };
  const keep = (next: State): void => {
    ledger.putMeta(META, JSON.stringify(next));
  };

  return {
    closedBelow: () => state.closedBelow,
    rows: () => state.rows,
    written: () => (state.next === null ? state.written : null),
    left() {
      const { next } = state;
      if (next === null) return 0;
      return ledger
        .epochs()
        .reduce(
          (sum, { epoch, firstSeq, lastSeq }) =>
            epoch >= state.closedBelow || epoch < next.epoch ? sum : sum + Math.max(0, lastSeq - Math.max(firstSeq, epoch === next.epoch ? next.seq : 1) + 1),
          0,
        );
    },
    mayBegin: (wallMs) => state.begun.filter((atMs) => Math.abs(wallMs - atMs) < DAY_MS).length < MAX_EPOCHS_A_DAY,
    begin(aboveEpoch, stamp, also) {
      let next = state;
      const epoch = ledger.startEpoch(aboveEpoch, stamp, (begun) => {
        next = {
          closedBelow: begun,
          next: { epoch: 0, seq: 1 },
          written: null,
          rows: 0,
          begun: [...state.begun, stamp.wallMs].slice(-MAX_EPOCHS_A_DAY),
        };
        keep(next);
        also();
      });
      state = next;
      standing = null;
      return epoch;
    },
    step(stamp, write) {
      if (state.next === null) return false;
      standing ??= readStanding();
      const found = nextRows(state.next);
      if (found === null) {
        const next = { ...state, next: null };
        ledger.change('end sending rows again', () => keep(next));
        state = next;
        standing = null;
        return false;
      }
      const { epoch, rows } = found;
      const known = standing;
      const fresh: { readonly hash: string; readonly body: RowBody }[] = [];
      for (const row of rows) {
        const entry = parseEntry(ledger, epoch, row);
        const one = named(epoch, entry);
        const { hash } = originalOf(one);
        if (known.has(hash) || fresh.some((other) => other.hash === hash)) continue;
        fresh.push({ hash, body: bodyOf(entry, againOf(one)) });
      }
      const cursor = { epoch, seq: (rows.at(-1)?.seq ?? 0) + 1 };
      const at = { epoch: ledger.epoch(), seq: ledger.lastSeq() + fresh.length };
      const next: State = { ...state, next: cursor, written: fresh.length > 0 ? at : state.written, rows: state.rows + fresh.length };
      if (fresh.length === 0) ledger.change('go on sending rows again', () => keep(next));
      // The writer's clock is not these rows': each keeps its own times, or none.
      else
        write(
          fresh.map(({ body }) => body),
          { ...stamp, offset: null },
          () => keep(next),
        );
      state = next;
      for (const { hash } of fresh) known.add(hash);
      return true;
    },
  };
}

/** The row as it was, but for its place, and with the name of its original. */
function bodyOf({ seq: _seq, hash: _hash, ...rest }: StoredEntry, again: ReturnType<typeof againOf>): RowBody {
  return { ...rest, kind: String(rest.kind), again };
}

/** A state that cannot be read closes nothing: the next acknowledgement that differs begins anew. */
function readState(ledger: Ledger): State {
  try {
    const kept = JSON.parse(ledger.meta(META) ?? 'null') as State | null;
    return kept === null || !Number.isSafeInteger(kept.closedBelow) || !Array.isArray(kept.begun) ? NONE : kept;
  } catch {
    return NONE;
  }
}
