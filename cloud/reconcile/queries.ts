/** Queries the reconciled ledger for gates and operators. All in the client's tenant; every list is bounded. */

import type { z } from 'zod';
import type { ConflictView, HistoryItem, RefusalView, SiteLedgerResponse } from '../../contract/http.ts';
import { CLOUD_GATE, scannerLedger, splitGateName } from '../../contract/ids.ts';
import { explain, Reason } from '../../contract/reasons.ts';
import type { AnyVector } from '../../contract/references.ts';
import type { DatabaseClient } from '../db/database.ts';

/** Rows in one answer of the site's ledger; `more` is set beyond it. */
export const MAX_SITE_LEDGER_ROWS = 1_000;
/** Items in any other answer: the newest; older ones are left out. */
export const MAX_ANSWER_ITEMS = 1_000;

export type SiteLedger = Pick<z.infer<typeof SiteLedgerResponse>, 'rows' | 'more'>;

/**
 * Returns rows of the site's ledgers after a vector, as they were written, in order per ledger, without gaps: of each epoch the contiguous prefix.
 * A ledger that the vector does not name is served from its beginning; so is an epoch of which it names another hash than the stored one (its holder's
 * copy went another way), and of a vector with hashes every epoch that it does not name. `more`: ask again from the last rows on.
 */
export async function siteLedger(client: DatabaseClient, site: string, after: AnyVector, limit = MAX_SITE_LEDGER_ROWS): Promise<SiteLedger> {
  const bounded = Math.min(Math.max(1, limit), MAX_SITE_LEDGER_ROWS);
  const { rows } = await client.query<KeptLine & { readonly hash: string }>(
    `SELECT r.gate, r.epoch, r.seq, r.entry, r.from_seq, r.received_at::text AS received_at, encode(r.hash, 'hex') AS hash
     FROM ledgers l JOIN ledger_epochs e ON e.tenant_id = l.tenant_id AND e.gate = l.gate
     LEFT JOIN jsonb_each($2::jsonb) AS v ON v.key = l.gate
     CROSS JOIN LATERAL (
       SELECT CASE WHEN v.key IS NULL THEN 0
         WHEN jsonb_typeof(v.value) = 'array' THEN CASE WHEN e.epoch > (v.value ->> 0)::bigint THEN 0 ELSE (v.value ->> 1)::bigint END
         WHEN v.value -> e.epoch::text ->> 1 IS NULL OR encode(stored_hash(l.gate, e.epoch, (v.value -> e.epoch::text ->> 0)::bigint), 'hex') = v.value -> e.epoch::text ->> 1
           THEN coalesce((v.value -> e.epoch::text ->> 0)::bigint, 0)
         ELSE 0 END AS seq) AS held
     CROSS JOIN LATERAL (
       SELECT x.* FROM ledger_lines x WHERE x.tenant_id = l.tenant_id AND x.gate = l.gate AND x.epoch = e.epoch AND x.seq <= e.upto_seq AND x.seq > held.seq
       ORDER BY x.seq LIMIT $3) AS r
     WHERE l.tenant_id = current_tenant_id() AND l.site_id = $1 AND (l.gate NOT LIKE '%/@%' OR v.key IS NOT NULL OR ledger_in_use(l.tenant_id, l.gate)) AND (v.key IS NULL OR jsonb_typeof(v.value) = 'object' OR e.epoch >= (v.value ->> 0)::bigint)
     ORDER BY l.gate COLLATE "C", e.epoch, r.seq LIMIT $3`,
    [site, JSON.stringify(after), bounded + 1],
  );
  const served = rows.slice(0, bounded);
  const textOf = await textsOf(client, served);
  return {
    rows: served.map((line) => ({
      gate: line.gate,
      epoch: line.epoch,
      entry: { ...(JSON.parse(textOf(line)) as { seq: number; kind: string }), hash: line.hash },
    })),
    more: rows.length > bounded,
  };
}

/** A line of a ledger: with its text, or with the message that holds it. */
interface KeptLine {
  readonly gate: string;
  readonly epoch: number;
  readonly seq: number;
  readonly entry: string | null;
  readonly from_seq: number | null;
  /** As PostgreSQL writes it: a Date has no microseconds. */
  readonly received_at: string;
}

/** Reads each message that holds texts of these lines once. */
async function textsOf(client: DatabaseClient, lines: readonly KeptLine[]): Promise<(line: KeptLine) => string> {
  const key = ({ gate, epoch, from_seq, received_at }: Pick<KeptLine, 'gate' | 'epoch' | 'from_seq' | 'received_at'>) =>
    `${gate} ${epoch} ${from_seq} ${received_at}`;
  const wanted = [...new Map(lines.filter(({ entry }) => entry === null).map((line) => [key(line), line])).values()];
  const { rows } = await client.query<{ gate: string; epoch: number; from_seq: number; received_at: string; entries: string[] }>(
    `SELECT m.gate, m.epoch, m.from_seq, m.received_at::text AS received_at, m.entries FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::timestamptz[]) AS k (gate, epoch, from_seq, received_at)
     CROSS JOIN LATERAL (SELECT * FROM ledger_messages x WHERE x.tenant_id = current_tenant_id() AND x.gate = k.gate AND x.epoch = k.epoch AND x.from_seq = k.from_seq AND x.received_at = k.received_at LIMIT 1) AS m`,
    [wanted.map(({ gate }) => gate), wanted.map(({ epoch }) => epoch), wanted.map(({ from_seq }) => from_seq), wanted.map(({ received_at }) => received_at)],
  );
  const messages = new Map(rows.map((row) => [key(row), row.entries]));
  return (line) => line.entry ?? (messages.get(key(line))?.[line.seq - (line.from_seq as number)] as string);
}

/**
 * Selects the rows whose boot measured no offset: their place comes from their neighbours in the chain, or from the gate's wall clock, and every
 * answer that shows their time marks it.
 */
async function unmeasured(
  client: DatabaseClient,
  rows: readonly { readonly gate: string; readonly entry: string }[],
): Promise<(row: { gate: string; entry: string }) => boolean> {
  const { rows: boots } = await client.query<{ gate: string; boot_id: string }>(
    'SELECT gate, boot_id FROM boots WHERE tenant_id = current_tenant_id() AND gate = ANY ($1) AND offset_ms IS NULL',
    [[...new Set(rows.map(({ gate }) => gate))]],
  );
  const without = new Set(boots.map(({ gate, boot_id }) => `${gate} ${boot_id}`));
  return ({ gate, entry }) => {
    const { boot_id } = JSON.parse(entry) as { readonly boot_id?: unknown };
    return without.has(`${gate} ${String(boot_id)}`);
  };
}
/** Selects the scanner that sent a row of the cloud's ledger. */
function scannerIn(entry: string): { device?: string } {
  const { device } = JSON.parse(entry) as { readonly device?: unknown };
  return typeof device === 'string' ? { device } : {};
}
/** Returns the row's time; for a machine whose clock was never set (it shows 1970) nor measured, its arrival, marked. */
export const shownAt = (at: string, came: string): string => `CASE WHEN ${at} < '2000-01-01Z' THEN ${came} ELSE ${at} END`;
const marked = (is: boolean): { unmeasured?: true } => (is ? { unmeasured: true } : {});

type Refusal = z.infer<typeof RefusalView>;

/**
 * Returns refusals since a time, of one gate or of all, newest first; those of a gate without any clock since their arrival. Reason and explanation
 * are the gate's own.
 */
export async function refusals(client: DatabaseClient, gate: string | null, since: Date, limit = MAX_ANSWER_ITEMS): Promise<Refusal[]> {
  const { rows } = await client.query<{ gate: string; epoch: number; seq: number; at: Date; entry: string; event_id: string | null; ticket_id: string | null }>(
    // A claim that waits is a refusal that no ticket has yet.
    `SELECT gate, epoch, seq, ${shownAt('at', 'received_at')} AS at, entry, event_id, ticket_id FROM (
       SELECT * FROM ledger_rows x WHERE x.tenant_id = current_tenant_id() AND x.kind = 'refusal'
       UNION ALL SELECT c.* FROM pending_scans p JOIN ledger_rows c ON c.tenant_id = p.tenant_id AND c.gate = p.gate AND c.epoch = p.epoch AND c.seq = p.seq WHERE p.tenant_id = current_tenant_id() AND p.result = 'DENY') AS r
     WHERE readable AND (at >= $2 OR (at < '2000-01-01Z' AND received_at >= $2)) AND ($1::text IS NULL OR gate = $1 OR gate = $5 OR (gate = $4 AND scanner_of(entry) = $1)) ORDER BY 4 DESC, gate COLLATE "C", epoch DESC, seq DESC LIMIT $3`,
    [
      gate,
      since,
      Math.min(limit, MAX_ANSWER_ITEMS),
      gate === null ? null : `${splitGateName(gate).site}/${CLOUD_GATE}`,
      gate === null ? null : scannerLedger(gate),
    ],
  );
  const isUnmeasured = await unmeasured(client, rows);
  return rows.map(({ entry, at, ...row }) => {
    const { kind, ...given } = JSON.parse(entry) as { kind: string; reason?: string; explanation?: string };
    const reason = Reason.safeParse(given.reason).data ?? (kind === 'claim' ? 'invalid' : 'error');
    const explanation = given.explanation ?? given.reason ?? explain(reason);
    return { ...row, ...scannerIn(entry), at: at.toISOString(), reason, explanation, ...marked(isUnmeasured({ gate: row.gate, entry })) };
  });
}

type Conflict = z.infer<typeof ConflictView>;

/** Returns admissions beyond a ticket's right, of one event or of all, newest first. */
export async function conflicts(client: DatabaseClient, eventId: string | null = null, limit = MAX_ANSWER_ITEMS): Promise<Conflict[]> {
  const { rows } = await client.query<ConflictRow>(
    `SELECT c.*, encode(a.ticket_ref, 'hex') AS ticket_ref, a.scanner AS loser_device, w.scanner AS winner_device, ${shownAt('c.loser_at', 'c.found_at')} AS loser_shown_at, ${shownAt('c.winner_at', 'c.found_at')} AS winner_shown_at, NOT (a.placed AND coalesce(w.placed, true)) AS unmeasured FROM conflicts c
     JOIN admissions a ON a.tenant_id = c.tenant_id AND a.gate = c.loser_gate AND a.epoch = c.loser_epoch AND a.seq = c.loser_seq
     LEFT JOIN admissions w ON w.tenant_id = c.tenant_id AND w.gate = c.winner_gate AND w.epoch = c.winner_epoch AND w.seq = c.winner_seq
     WHERE c.tenant_id = current_tenant_id() AND ($1::text IS NULL OR c.event_id = $1) ORDER BY c.loser_at DESC, c.loser_gate COLLATE "C", c.loser_epoch, c.loser_seq LIMIT $2`,
    [eventId, Math.min(limit, MAX_ANSWER_ITEMS)],
  );
  return rows.map((row) => ({
    event_id: row.event_id,
    ticket_id: row.ticket_id,
    ticket_ref: row.ticket_ref,
    cause: row.cause,
    winner: row.winner_gate === null ? null : [row.winner_gate, row.winner_epoch as number, row.winner_seq as number],
    loser: [row.loser_gate, row.loser_epoch, row.loser_seq],
    winner_at: row.winner_shown_at?.toISOString() ?? null,
    loser_at: row.loser_shown_at.toISOString(),
    overlapping: row.overlapping,
    ...(row.winner_device === null ? {} : { winner_device: row.winner_device }),
    ...(row.loser_device === null ? {} : { loser_device: row.loser_device }),
    ...marked(row.unmeasured),
  }));
}
interface ConflictRow {
  readonly winner_device: string | null;
  readonly loser_device: string | null;
  readonly unmeasured: boolean;
  readonly event_id: string;
  readonly ticket_id: string;
  readonly ticket_ref: string;
  readonly cause: string;
  readonly overlapping: boolean;
  readonly loser_shown_at: Date;
  readonly winner_shown_at: Date | null;
  readonly loser_gate: string;
  readonly loser_epoch: number;
  readonly loser_seq: number;
  readonly winner_gate: string | null;
  readonly winner_epoch: number | null;
  readonly winner_seq: number | null;
}

export interface Occupancy {
  readonly event_id: string;
  /**
   * Counts people: entries − exits of tickets, plus everybody whom the sensors saw pass without one: by an override, freely or by force, inwards
   * less outwards (I7). `uncertain` of them may or may not have passed. Below 0: more left than came.
   */
  readonly inside: number;
  readonly entries: number;
  readonly exits: number;
  readonly uncertain: number;
  /** Both ways; `…_out`: those of them outwards. */
  readonly free_passages: number;
  readonly forced_passages: number;
  readonly overrides: number;
  readonly free_out: number;
  readonly forced_out: number;
  readonly overrides_out: number;
}

/** Returns the people inside: sums of the gates' rows. Passages without an event count at the gates that are assigned to this one. */
export async function occupancy(client: DatabaseClient, eventId: string): Promise<Occupancy> {
  const { rows } = await client.query<Omit<Occupancy, 'event_id'>>(
    `SELECT coalesce(sum(entered - exited + free_passages + forced_passages + overrides - 2 * (free_out + forced_out + overrides_out)), 0)::bigint AS inside, coalesce(sum(entered), 0)::bigint AS entries, coalesce(sum(exited), 0)::bigint AS exits, coalesce(sum(uncertain), 0)::bigint AS uncertain,
       coalesce(sum(free_passages), 0)::bigint AS free_passages, coalesce(sum(forced_passages), 0)::bigint AS forced_passages, coalesce(sum(overrides), 0)::bigint AS overrides,
       coalesce(sum(free_out), 0)::bigint AS free_out, coalesce(sum(forced_out), 0)::bigint AS forced_out, coalesce(sum(overrides_out), 0)::bigint AS overrides_out
     FROM gate_counts c WHERE c.tenant_id = current_tenant_id()
       AND (c.event_id = $1 OR (c.event_id = '' AND EXISTS (SELECT FROM gate_assignments g WHERE g.tenant_id = c.tenant_id AND g.gate = c.gate AND g.event_id = $1)))`,
    [eventId],
  );
  return { event_id: eventId, ...(rows[0] as Omit<Occupancy, 'event_id'>) };
}

type Item = z.infer<typeof HistoryItem>;
export interface TicketHistory {
  readonly eventId: string;
  readonly ticketId: string;
  /** null: the cloud does not know the ticket; only rows of gates do. */
  readonly status: string | null;
  /** Oldest first, at most MAX_ANSWER_ITEMS, the newest of them. */
  readonly history: Item[];
}

/** Returns a ticket's history from the ledgers, with the verdicts of its grants; the ticketing side's own actions are elsewhere. null: unknown. */
export async function history(client: DatabaseClient, eventId: string, ticketId: string): Promise<TicketHistory | null> {
  const ticket = await client.query<{ status: string; units: number }>(
    'SELECT status, units FROM tickets WHERE tenant_id = current_tenant_id() AND event_id = $1 AND ticket_id = $2',
    [eventId, ticketId],
  );
  const { rows } = await client.query<HistoryRow>(
    // A ticket's grants are found by its admissions, its other rows by themselves.
    `SELECT r.kind, r.gate, r.epoch, r.seq, r.entry, r.at, r.verdict, r.cause, r.outcome, r.conflict FROM (
       SELECT g.kind, g.gate, g.epoch, g.seq, g.entry, ${shownAt('a.at', 'g.received_at')} AS at, a.verdict, a.cause, a.outcome, k.cause AS conflict FROM admissions a
       LEFT JOIN conflicts k ON k.tenant_id = a.tenant_id AND k.loser_gate = a.gate AND k.loser_epoch = a.epoch AND k.loser_seq = a.seq
       CROSS JOIN LATERAL (SELECT * FROM ledger_rows x WHERE x.tenant_id = a.tenant_id AND x.gate = a.gate AND x.epoch = a.epoch AND x.seq = a.seq LIMIT 1) AS g
       WHERE a.tenant_id = current_tenant_id() AND a.event_id = $1 AND a.ticket_id = $2 AND a.granted
       UNION ALL
       SELECT o.kind, o.gate, o.epoch, o.seq, o.entry, ${shownAt('o.at', 'o.received_at')} AS at, NULL, NULL, NULL, NULL FROM ledger_rows o
       WHERE o.tenant_id = current_tenant_id() AND o.event_id = $1 AND o.ticket_id = $2 AND o.kind <> 'grant') AS r
     ORDER BY r.at DESC, r.gate COLLATE "C" DESC, r.epoch DESC, r.seq DESC LIMIT $3`,
    [eventId, ticketId, MAX_ANSWER_ITEMS],
  );
  if (ticket.rows.length === 0 && rows.length === 0) return null;
  const isUnmeasured = await unmeasured(client, rows);
  return {
    eventId,
    ticketId,
    status: ticket.rows[0]?.status ?? null,
    history: rows.reverse().map((row) => ({
      at: row.at.toISOString(),
      kind: row.kind,
      gate: row.gate,
      epoch: row.epoch,
      seq: row.seq,
      ...scannerIn(row.entry),
      text: describe(row, ticket.rows[0]?.units ?? 1),
      ...marked(isUnmeasured(row)),
    })),
  };
}
interface HistoryRow {
  readonly kind: string;
  readonly gate: string;
  readonly epoch: number;
  readonly seq: number;
  readonly entry: string;
  readonly at: Date;
  readonly verdict: string | null;
  readonly cause: string | null;
  readonly outcome: string | null;
  /** The conflict of a grant beyond the ticket's right. */
  readonly conflict: string | null;
}

function describe(row: HistoryRow, units: number): string {
  const entry = JSON.parse(row.entry) as Record<string, unknown>;
  switch (row.kind) {
    case 'grant':
      return `${entry['direction'] === 'out' ? 'let out' : 'admitted'} (${judgementOf(row, entry['type'], units)}), ${row.outcome ?? 'open'}`;
    case 'conflict':
      return entry['verdict'] === 'withdrawn'
        ? `published to the gates: within its right after all (${String(entry['cause'])})`
        : `published to the gates: beyond its right (${String(entry['cause'])})`;
    case 'refusal':
      return `refused: ${String(entry['explanation'])} (${String(entry['reason'])})`;
    case 'claim':
      return `reported before the ticket was known: ${entry['result'] === 'ALLOW' ? 'admitted' : 'refused'}`;
    case 'passage':
      return `passage: ${String(entry['outcome'])}`;
    case 'settlement':
      return `settled as ${String(entry['outcome'])} by ${String(entry['actor'])}: ${String(entry['reason'])}`;
    default:
      return row.kind;
  }
}
/** Describes a verdict. A ticket that was revoked before its use has no other winner: its grant is beyond its right all the same. */
function judgementOf({ verdict, cause, conflict }: HistoryRow, type: unknown, units: number): string {
  const why = cause ?? conflict;
  if (conflict !== null) return `${VERDICTS['excess']}: ${why}`;
  const text =
    verdict === 'reentry' && type === 'first_entry' && units > 1 ? 'first entry, later ones of a party' : (VERDICTS[verdict ?? ''] ?? verdict ?? 'not judged');
  return `${text}${why === null ? '' : `: ${why}`}`;
}
const VERDICTS: Readonly<Record<string, string>> = {
  winner: 'first entry',
  reentry: 're-entry',
  exit: 'exit',
  excess: 'beyond its right',
  annulled: 'given back',
};
