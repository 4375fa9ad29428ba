/** Publishes decisions and committed entries to subscribers, statistics and the uplink. Never sees a code. */
import type { Direction, RowPosition } from '../../contract/ids.ts';
import type { Severity } from '../../contract/messages.ts';
import { explain, type Reason } from '../../contract/reasons.ts';
import type { Grant } from '../../rules/facts.ts';
import type { Clock, Decision, GrantConflict, Note, Presentation, Uplink } from '../ports.ts';
import type { Report, ShownDecision } from './outcome.ts';
import type { GateStats } from './stats.ts';

/** Bounds the override rows kept, so that their passages are not counted as admissions; the oldest is evicted. */
const MAX_OVERRIDE_ROWS = 64;

export interface Announcer {
  decided(decision: Decision, presentation: Presentation, latencyUs: number): void;
  /** Refused without the decider. */
  refusedLocally(direction: Direction, reason: Reason): void;
  entryCommitted(note: Note, row: RowPosition): void;
  /** Publishes the cloud's verdicts that are newer than those of the call before. The first call after a start publishes none. */
  conflicts(newest: readonly GrantConflict[]): void;
  event(type: string, severity: Severity, detail: Record<string, unknown>): void;
}

export function createAnnouncer(options: {
  readonly clock: Clock;
  readonly uplink: Pick<Uplink, 'event' | 'kick'>;
  readonly stats: GateStats;
  readonly report: Report;
}): Announcer {
  const { clock, uplink, stats, report } = options;
  const overrideRows = new Set<string>();
  /** The cloud's row up to which verdicts were published; null: before the first call. */
  let publishedUpTo: RowPosition | null = null;

  const event: Announcer['event'] = (type, severity, detail) => uplink.event({ type, severity, ts: new Date(clock.wallMs()).toISOString(), detail });
  const show = (decision: Pick<ShownDecision, 'direction' | 'outcome' | 'words'> & Partial<ShownDecision>) =>
    report({
      kind: 'decision_shown',
      decision: {
        wallMs: clock.wallMs(),
        reader: null,
        reason: null,
        eventId: null,
        ticketId: null,
        ticketRef: null,
        units: 0,
        flags: [],
        row: null,
        latencyUs: null,
        stages: null,
        ...decision,
      },
    });

  function rememberOverride(row: RowPosition): void {
    overrideRows.add(row.join('/'));
    const oldest = overrideRows.values().next();
    if (overrideRows.size > MAX_OVERRIDE_ROWS && !oldest.done) overrideRows.delete(oldest.value);
  }

  return {
    event,
    conflicts(newest) {
      const last = newest.at(-1)?.verdictRow ?? [0, 0];
      const before = publishedUpTo;
      publishedUpTo = before === null || after(last, before) ? last : before;
      if (before === null) return;
      for (const conflict of newest.filter((one) => after(one.verdictRow, before))) {
        report({ kind: 'conflict', conflict });
        const { row, verdict, cause, ticketRef, ticketId, eventId, winner, words } = conflict;
        event('conflict', verdict === 'excess' ? 'warning' : 'info', {
          verdict,
          cause,
          words,
          epoch: row[0],
          seq: row[1],
          ...(ticketRef === null ? {} : { ticket_ref: ticketRef }),
          ...(ticketId === null ? {} : { ticket_id: ticketId }),
          ...(eventId === null ? {} : { event_id: eventId }),
          ...(winner === null ? {} : { winner_gate: winner[0], winner_epoch: winner[1], winner_seq: winner[2] }),
        });
      }
    },
    decided({ verdict, row, eventId, ticketId, ticketRef, lastEntry, stages }, { direction, reader, opened }, latencyUs) {
      stats.decided(latencyUs);
      const known = { direction, reader, eventId, ticketId, ticketRef, row, latencyUs: Math.round(latencyUs), stages };
      const detail = { direction, ...(ticketRef === null ? {} : { ticket_ref: ticketRef }), epoch: row[0], seq: row[1] };
      if (verdict.kind === 'refusal' && opened === true) {
        show({ ...known, outcome: 'exit_unmatched', reason: verdict.reason, words: unmatchedWords(verdict.explanation) });
        event('exit_unmatched', 'warning', { ...detail, reason: verdict.reason, words: verdict.explanation });
      } else if (verdict.kind === 'refusal') {
        stats.refused(verdict.reason);
        show({ ...known, outcome: 'refusal', reason: verdict.reason, words: verdict.explanation });
        event('refusal', 'info', { ...detail, reason: verdict.reason, words: verdict.explanation });
      } else {
        const words = grantWords(verdict, lastEntry);
        show({ ...known, outcome: 'grant', words, units: verdict.units, flags: verdict.flags });
        event('grant', 'info', { ...detail, type: verdict.type, units: verdict.units, words, ...(verdict.vip ? { vip: 1 } : {}) });
      }
      uplink.kick();
    },
    refusedLocally(direction, reason) {
      stats.refused(reason);
      const words = explain(reason);
      show({ direction, outcome: 'refusal', reason, words });
      event('refusal', 'info', { direction, reason, words });
    },
    entryCommitted(note, row) {
      if (note.kind === 'passage') stats.passage(note.outcome, note.direction, note.of !== null && !overrideRows.has(note.of.join('/')));
      if (note.kind === 'override') {
        rememberOverride(row);
        if (note.action === 'open')
          show({ direction: note.direction ?? 'in', outcome: 'override', words: `opened by ${note.actor}: ${note.reason}`, units: note.units ?? 1, row });
      }
      if (note.kind === 'exit_unmatched')
        show({ direction: note.direction, outcome: 'exit_unmatched', reason: note.reason, words: unmatchedWords(explain(note.reason)), row });
      // The refusal's event was published when the guest saw it.
      if (note.kind !== 'refusal')
        event(note.kind, note.kind === 'alarm' || note.kind === 'fault' || note.kind === 'exit_unmatched' ? 'warning' : 'info', { ...note });
      uplink.kick();
    },
  };
}

const after = (a: RowPosition, b: RowPosition): boolean => a[0] > b[0] || (a[0] === b[0] && a[1] > b[1]);

const unmatchedWords = (why: string): string => `let out, no admission is known: ${why}`;

function grantWords({ type, units, flags, vip }: Grant, lastEntry: string | undefined): string {
  const what = type === 'first_entry' ? 'admitted' : type === 'reentry' ? 'admitted again' : 'let out';
  return `${what}${vip ? ', VIP' : ''}${units > 1 ? `, ${units} guests` : ''}${lastEntry === undefined ? '' : `, last entry ${lastEntry}`}${flags.length > 0 ? ` (${flags.join(', ')})` : ''}`;
}
