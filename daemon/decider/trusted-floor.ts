/**
 * The newest row whose time was trusted: what a later start may believe the time not to be before. Rows do not say whether their time was, so
 * it is remembered beside them, seldom, for a floor that lags by a minute does as well; a row with the cloud's offset says it by itself.
 */
import type { RowPosition } from '../../contract/ids.ts';
import { type AppendedRow, type Ledger, parseEntry, type Stamp } from '../store/ledger.ts';

/** A kept time that lies less than this from the newest is not written again, in milliseconds. */
const KEEP_STEP_MS = 60_000;
/** Rows at the ledger's end that are looked at for an offset, at start. */
const LOOK_ROWS = 100;
/** An offset with a larger bound makes no time trusted (clock.ts), in milliseconds. */
const MAX_BOUND_MS = 2_000;
const META = 'trusted_row';

interface TrustedRow {
  readonly at: RowPosition;
  readonly wallMs: number;
}

export interface TrustedTime {
  /** Takes notice of rows that were written. */
  wrote(rows: readonly AppendedRow[], stamp: Stamp): void;
  /** Unix ms; null: no trusted row is known. */
  lastRowMs(): number | null;
  /** Writes what is not kept yet; `now` however little it is. Throws StoreError. */
  keep(now: boolean): void;
}

export function createTrustedTime(ledger: Ledger): TrustedTime {
  let kept = readKept(ledger);
  let last = newer(kept, lastWithOffset(ledger));
  return {
    wrote(rows, stamp) {
      const row = rows.at(-1);
      if (stamp.trusted && row !== undefined) last = { at: row.position, wallMs: stamp.wallMs };
    },
    lastRowMs: () => last?.wallMs ?? null,
    keep(now) {
      if (last === null || last === kept) return;
      if (!now && kept !== null && Math.abs(last.wallMs - kept.wallMs) < KEEP_STEP_MS) return;
      ledger.setMeta(META, JSON.stringify(last));
      kept = last;
    },
  };
}

function readKept(ledger: Ledger): TrustedRow | null {
  try {
    const { at, wallMs } = JSON.parse(ledger.meta(META) ?? 'null') as TrustedRow;
    return [...at, wallMs].every(Number.isFinite) && at.length === 2 ? { at, wallMs } : null;
  } catch {
    return null;
  }
}

function lastWithOffset(ledger: Ledger): TrustedRow | null {
  const own = ledger.epochs().at(-1);
  if (own === undefined) return null;
  const rows = ledger.read(own.epoch, Math.max(own.firstSeq, own.lastSeq - LOOK_ROWS + 1), LOOK_ROWS);
  for (const row of rows.toReversed()) {
    const entry = parseEntry(ledger, own.epoch, row);
    // Written again with the times of its original, which is older than its place says.
    if (entry['again'] !== undefined) continue;
    const [boottimeMs, offsetMs, boundMs] = [entry['boottime_ms'], entry['clock_offset_ms'], entry['clock_bound_ms']].map(Number) as [number, number, number];
    if (Number.isFinite(boottimeMs + offsetMs) && boundMs <= MAX_BOUND_MS) return { at: [own.epoch, row.seq], wallMs: boottimeMs + offsetMs };
  }
  return null;
}

function newer(a: TrustedRow | null, b: TrustedRow | null): TrustedRow | null {
  if (a === null || b === null) return a ?? b;
  return a.at[0] - b.at[0] || a.at[1] - b.at[1] > 0 ? a : b;
}
