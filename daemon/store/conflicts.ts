/**
 * Stores the cloud's verdicts on this gate's own grants that were beyond the ticket's right: the latest on each, kept
 * beside usage; where that is lost, the cloud's ledger is read again. Changes no usage: the guest is inside.
 */
import type { RowPosition } from '../../contract/ids.ts';
import { ConflictEntry } from '../../contract/ledger.ts';
import type { Sqlite } from './sqlite.ts';

/** Kept; of more, the oldest are forgotten. */
export const MAX_CONFLICTS = 1_000;

export interface StoredConflict {
  /** The cloud's row, by which news is known. */
  readonly verdictRow: RowPosition;
  /** The grant, a row of this gate. */
  readonly of: RowPosition;
  readonly verdict: 'excess' | 'withdrawn';
  readonly cause: string;
  readonly eventId: string | null;
  readonly ticketId: string | null;
  readonly ticketRef: string | null;
  readonly direction: 'in' | 'out' | null;
  readonly winner: readonly [gate: string, epoch: number, seq: number] | null;
}

export interface Conflicts {
  /** Takes in a row of the cloud's ledger; any other says nothing. Never throws for what a row says. */
  take(epoch: number, entry: Readonly<Record<string, unknown>>): void;
  /** Grants that are beyond their right now. */
  standing(): number;
  /** Returns the newest words, the newest last; withdrawn ones too. */
  newest(limit: number): readonly StoredConflict[];
  /** Returns the word on one grant; null: none, or withdrawn. */
  on(of: RowPosition): StoredConflict | null;
}

interface Row {
  epoch: number;
  seq: number;
  told_epoch: number;
  told_seq: number;
  detail: string;
}

/** `own`: name of the gate's ledger; verdicts on other gates' grants are theirs to show. */
export function createConflicts(db: Sqlite, own: string): Conflicts {
  const put = db.prepare<[number, number, number, number, string, string]>(
    'INSERT INTO conflicts (epoch, seq, told_epoch, told_seq, verdict, detail) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (epoch, seq) DO UPDATE SET told_epoch = excluded.told_epoch, told_seq = excluded.told_seq, verdict = excluded.verdict, detail = excluded.detail WHERE (excluded.told_epoch, excluded.told_seq) > (told_epoch, told_seq)',
  );
  const prune = db.prepare<[number]>(
    'DELETE FROM conflicts WHERE (epoch, seq) IN (SELECT epoch, seq FROM conflicts ORDER BY told_epoch DESC, told_seq DESC LIMIT -1 OFFSET ?)',
  );
  const count = db.prepare<[], { n: number }>("SELECT count(*) AS n FROM conflicts WHERE verdict = 'excess'");
  const last = db.prepare<[number], Row>('SELECT epoch, seq, told_epoch, told_seq, detail FROM conflicts ORDER BY told_epoch DESC, told_seq DESC LIMIT ? + 0');
  const one = db.prepare<[number, number], Row>(
    "SELECT epoch, seq, told_epoch, told_seq, detail FROM conflicts WHERE epoch = ? AND seq = ? AND verdict = 'excess'",
  );
  const read = ({ epoch, seq, told_epoch, told_seq, detail }: Row): StoredConflict => ({
    ...(JSON.parse(detail) as Omit<StoredConflict, 'verdictRow' | 'of'>),
    verdictRow: [told_epoch, told_seq],
    of: [epoch, seq],
  });
  return {
    take(publishedEpoch, value) {
      if (value['kind'] !== 'conflict') return;
      const parsed = ConflictEntry.safeParse(value);
      if (!parsed.success || parsed.data.of[0] !== own) return;
      const { of, seq, verdict, cause, event_id, ticket_id, ticket_ref, direction, winner } = parsed.data;
      if (verdict !== 'excess' && verdict !== 'withdrawn') return;
      const detail: Omit<StoredConflict, 'verdictRow' | 'of'> = {
        verdict,
        cause,
        eventId: event_id ?? null,
        ticketId: ticket_id ?? null,
        ticketRef: ticket_ref ?? null,
        direction: direction ?? null,
        winner: winner === undefined ? null : [winner[0], winner[1], winner[2]],
      };
      put.run(of[1], of[2], publishedEpoch, seq, verdict, JSON.stringify(detail));
      prune.run(MAX_CONFLICTS);
    },
    standing: () => count.get()?.n ?? 0,
    newest: (limit) => last.all(limit).map(read).reverse(),
    on([epoch, seq]) {
      const row = one.get(epoch, seq);
      return row === undefined ? null : read(row);
    },
  };
}
