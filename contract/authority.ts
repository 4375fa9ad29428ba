/**
 * Defines from whose ledger a row of each kind counts. Gate and cloud both read this table, and nothing else decides it.
 *
 * Closed by default: a kind that is not listed has no effect, whoever wrote it. A row without authority is stored as it came, keeps its place in
 * the sequence, and counts for nothing.
 */

import { readReference } from './identity.ts';
import { CLOUD_GATE, splitGateName } from './ids.ts';
import type { LedgerEntryKind } from './ledger.ts';

/** `own`: any ledger, about its own rows alone. `cloud`: the cloud's ledger of a site alone, about rows of that site's ledgers. */
export type Authority = 'own' | 'cloud';

export const ROW_AUTHORITY: Readonly<Record<LedgerEntryKind, Authority>> = {
  grant: 'own',
  refusal: 'own',
  claim: 'own',
  passage: 'own',
  settlement: 'cloud',
  conflict: 'cloud',
  override: 'own',
  mode: 'own',
  fault: 'own',
  alarm: 'own',
  clock: 'own',
  exit_unmatched: 'own',
};

/** Returns whether this row has authority in this ledger. `ledger` is its source, never a claim of the row itself. Total. */
export function maySay(ledger: string, entry: Readonly<Record<string, unknown>>): boolean {
  const kind = entry['kind'];
  if (typeof kind !== 'string' || !Object.hasOwn(ROW_AUTHORITY, kind)) return false;
  if (ROW_AUTHORITY[kind as LedgerEntryKind] === 'own') return true;
  const of = entry['of'];
  return splitGateName(ledger).gate === CLOUD_GATE && Array.isArray(of) && typeof of[0] === 'string' && readReference(ledger, of) !== null;
}
