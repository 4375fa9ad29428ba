/** Builds the rows that the decider writes: decisions, notes, and at start the outcomes that were never reported. */
import { statfsSync } from 'node:fs';
import { againOf, originalOf } from '../../contract/identity.ts';
import type { LedgerVector, RowPosition } from '../../contract/ids.ts';
import type { PassageOutcome } from '../../contract/ledger.ts';
import { MAX_TEXT_CHARS } from '../../contract/limits.ts';
import { explain } from '../../contract/reasons.ts';
import { cutText } from '../../contract/text.ts';
import type { Verdict } from '../../rules/facts.ts';
import type { Note, Presentation } from '../ports.ts';
import { type AppendedRow, type Ledger, parseEntry, type RowBody, type Stamp, type StoredEntry } from '../store/ledger.ts';
import type { Resolved } from './resolve-ticket.ts';

/** Own rows looked through at start for grants that never heard how they ended. A lane has a few grants open at once; each writes its outcome soon. */
export const OUTCOME_SCAN_ROWS = 1_000;
/** `what` of faults, alarms and clock rows, in characters. */
const MAX_WHAT_CHARS = 64;

export const noteBody = (kind: 'fault' | 'alarm' | 'clock', what: string, detail: string): RowBody => ({
  kind,
  what: cutText(what, MAX_WHAT_CHARS),
  detail: cutText(detail, MAX_TEXT_CHARS),
});

/** The row of a decision. A refusal names the ticket where it is known; an unknown code leaves nothing of itself. Who was let out already is not refused. */
export function decisionEntry(verdict: Verdict, { facts }: Resolved, presentation: Presentation, latencyUs: number, seen: LedgerVector): RowBody {
  const ticket: { readonly event_id?: string; readonly ticket_id?: string; readonly ticket_ref?: string } =
    facts.kind === 'ticket' ? { event_id: facts.ticket.eventId, ticket_id: facts.ticket.ticketId, ticket_ref: facts.ticket.ticketRef } : {};
  if (verdict.kind === 'refusal' && presentation.opened === true) {
    const { event_id, ticket_ref } = ticket;
    return { kind: 'exit_unmatched', direction: presentation.direction, reason: verdict.reason, event_id, ticket_ref };
  }
  if (verdict.kind === 'refusal') {
    return {
      kind: 'refusal',
      reason: verdict.reason,
      explanation: cutText(verdict.explanation, MAX_TEXT_CHARS),
      ...ticket,
      direction: presentation.direction,
      facts: Object.keys(verdict.facts).length === 0 ? undefined : clipped(verdict.facts),
      valid_again_at: verdict.validAgainAtMs === null ? undefined : new Date(verdict.validAgainAtMs).toISOString(),
    };
  }
  if (facts.kind !== 'ticket') throw new Error('a grant needs a ticket');
  return {
    kind: 'grant',
    ...ticket,
    direction: verdict.direction,
    type: verdict.type,
    units: verdict.units,
    medium: facts.medium,
    manifest_version: facts.event.manifestVersion,
    online: presentation.online,
    latency_us: latencyUs,
    seen,
    flags: verdict.flags.length === 0 ? undefined : verdict.flags,
  };
}

const MAX_FACT_CHARS = 128;
const clipped = (facts: Readonly<Record<string, string | number>>): Record<string, string | number> =>
  Object.fromEntries(Object.entries(facts).map(([key, value]) => [key, typeof value === 'string' ? cutText(value, MAX_FACT_CHARS) : value]));

/**
 * Returns the row of a passage. One of a grant repeats what the grant says of its ticket, so that anyone can apply it alone; one of an unmatched exit, its
 * event. `of` carries the hash of the row that it ends, while that row is kept: two lives of a store may each have a grant under one number.
 */
function passageBody(
  ledger: string,
  of: RowPosition | null,
  grant: StoredEntry | null,
  direction: string,
  unit: number | null,
  outcome: PassageOutcome,
): RowBody {
  const ticket =
    grant?.kind === 'grant'
      ? { event_id: grant['event_id'], ticket_id: grant['ticket_id'], ticket_ref: grant['ticket_ref'] }
      : grant?.kind === 'exit_unmatched'
        ? { event_id: grant['event_id'] }
        : {};
  const named = of === null || grant === null ? of : againOf({ ledger, epoch: of[0], seq: of[1], hash: grant.hash, again: grant['again'] });
  return { kind: 'passage', of: named ?? undefined, ...ticket, direction, unit: unit ?? undefined, outcome };
}

export const returnedBodies = (ledger: string, row: AppendedRow): RowBody[] =>
  Array.from({ length: Number(row.entry['units']) }, (_, n) => passageBody(ledger, row.position, row.entry, String(row.entry['direction']), n + 1, 'returned'));

/** The row of a note. A passage of a row that is no longer here is written without its ticket: the cloud knows the grant by its place. */
export function noteRow(ledger: Ledger, note: Note): RowBody {
  switch (note.kind) {
    case 'passage': {
      const text = note.of === null ? undefined : ledger.read(note.of[0], note.of[1], 1)[0];
      const grant = text === undefined || note.of === null || text.seq !== note.of[1] ? null : (JSON.parse(text.entry) as StoredEntry);
      return passageBody(ledger.name, note.of, grant, note.direction, note.unit, note.outcome);
    }
    case 'refusal':
      return { kind: 'refusal', reason: note.reason, explanation: explain(note.reason), direction: note.direction };
    case 'exit_unmatched':
      return { ...note };
    case 'override':
      return { ...note, reason: cutText(note.reason, MAX_TEXT_CHARS) };
    case 'mode':
      return { ...note, reason: cutText(note.reason, MAX_TEXT_CHARS) };
    default:
      return noteBody(note.kind, note.what, note.detail);
  }
}

/** Grants, and overrides that released, whose outcome was never written (a crash between release and passage): `unknown`, one row a unit. */
export function markUnknownOutcomes(ledger: Ledger, write: (bodies: readonly RowBody[], stamp: Stamp) => unknown, stamp: Stamp): void {
  const open = new Map<string, { readonly position: RowPosition; readonly entry: StoredEntry; readonly units: Set<number> }>();
  const seen = new Set<string>();
  let budget = OUTCOME_SCAN_ROWS;
  const parts = [...ledger.epochs()].reverse().flatMap((own) => {
    const limit = Math.min(budget, own.lastSeq - own.firstSeq + 1);
    budget -= limit;
    return limit > 0 ? [{ epoch: own.epoch, from: own.lastSeq - limit + 1, limit }] : [];
  });
  for (const part of parts.reverse())
    for (const row of ledger.read(part.epoch, part.from, part.limit)) take(ledger.name, seen, open, part.epoch, parseEntry(ledger, part.epoch, row));
  const bodies = [...open.values()].flatMap(({ position, entry, units }) =>
    [...units].map((unit) => passageBody(ledger.name, position, entry, String(entry['direction'] ?? 'in'), unit, 'unknown')),
  );
  if (bodies.length > 0) write(bodies, stamp);
}

function take(
  ledger: string,
  seen: Set<string>,
  open: Map<string, { readonly position: RowPosition; readonly entry: StoredEntry; readonly units: Set<number> }>,
  epoch: number,
  entry: StoredEntry,
): void {
  const releases = entry.kind === 'grant' || (entry.kind === 'override' && entry['units'] !== undefined);
  if (releases) {
    const units = new Set(Array.from({ length: Number(entry['units']) }, (_, n) => n + 1));
    // A row that was written again stands for its original, which may have ended already.
    const original = originalOf({ ledger, epoch, seq: entry.seq, hash: entry.hash, again: entry['again'] });
    const place = `${original.epoch} ${original.seq}`;
    if (seen.has(place)) return;
    seen.add(place);
    open.set(place, { position: [epoch, entry.seq], entry, units });
    return;
  }
  const of = entry['of'];
  if (entry.kind !== 'passage' || !Array.isArray(of)) return;
  const key = `${of[0]} ${of[1]}`;
  const grant = open.get(key);
  grant?.units.delete(typeof entry['unit'] === 'number' ? entry['unit'] : 1);
  if (grant !== undefined && grant.units.size === 0) open.delete(key);
}

export const freeBytes = (folder: string): number => {
  const disk = statfsSync(folder);
  return disk.bavail * disk.bsize;
};
