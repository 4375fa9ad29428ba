/**
 * Imports the tickets of one event from a file, in batches: hashes codes on arrival, reports every error with its line, and changes nothing when
 * the same file is imported again. A bad line does not lose the others, unless `strict`.
 */
import type { Database, DatabaseClient } from '../../db/database.ts';
import { sqlState } from '../../db/database.ts';
import { notACode, tooPlain, watchZeros } from '../codes/code-floor.ts';
import { codeBits, MIN_CODE_BITS, sharedPrefixChars } from '../codes/code-hash.ts';
import { type FieldProblem, KNOWN_FIELDS, readTicketFields, type TicketFields } from '../ticket-fields.ts';
import { lockEvent, notifyGates, writeTickets } from '../write-tickets.ts';
import { openTicketSource, type SourceFormat } from './import-source.ts';
import { createOnceOnly } from './unique-ids.ts';

/** Tickets of one file; later ones are refused, because repeats could no longer be recognised. */
const MAX_FILE_TICKETS = 10_000_000;
/** Tickets of one transaction. */
const BATCH_TICKETS = 5_000;
/** Errors that are listed; further ones are counted. */
export const MAX_REPORTED = 100;
/** Attempts at a batch that conflicts with another transaction; then the import fails. */
const MAX_ATTEMPTS = 5;
/** Delay of the import's outbox mark, in seconds, so that gates fetch once at its end; an interrupted import notifies them then. */
const MARK_WAITS_S = 600;

export interface ImportOptions {
  readonly database: Database;
  readonly tenantId: string;
  readonly eventId: string;
  readonly path: string;
  readonly format?: SourceFormat | undefined;
  /** Nothing is imported unless everything can be. */
  readonly strict?: boolean;
  /** Imports guessable codes too. */
  readonly allowWeakCodes?: boolean;
  readonly onProgress?: (progress: ImportProgress) => void;
}

export interface ImportProgress {
  readonly lines: number;
  readonly created: number;
  readonly updated: number;
  readonly unchanged: number;
  readonly refused: number;
}

export interface ImportReport extends ImportProgress {
  /** `file:line: field: what: hint`, the first MAX_REPORTED. */
  readonly errors: readonly string[];
  /** Unknown columns of the file. */
  readonly ignored: readonly string[];
  /** `file:line: field: what`: imported, but to be checked. */
  readonly warnings: readonly string[];
  /** True where `strict` prevented the import. */
  readonly rolledBack: boolean;
}

/** There is no such event: make it first. */
export class UnknownEventError extends Error {
  override name = 'UnknownEventError';
}

/** Rolls back a strict import's transaction. */
class Refused extends Error {}

interface Line {
  readonly line: number;
  readonly ticket: TicketFields;
}

/** Throws SourceError for a file that can't be used, UnknownEventError, and PostgreSQL's errors. */
export async function importTickets(options: ImportOptions): Promise<ImportReport> {
  const { database, tenantId, eventId } = options;
  const source = await openTicketSource(options.path, options.format);
  const exists = await database.withTenant(tenantId, (client) => client.query('SELECT 1 FROM events WHERE event_id = $1', [eventId]));
  if (exists.rowCount === 0) throw new UnknownEventError(`there is no event ${eventId}: make it first with stile-cloud event put ${eventId}`);

  const totals = { lines: 0, created: 0, updated: 0, unchanged: 0, refused: 0 };
  const reported: { readonly line: number; readonly text: string }[] = [];
  const errors = () => reported.toSorted((a, b) => a.line - b.line).map(({ text }) => text);
  const ignored = new Set<string>(source.columns.filter((name) => !(KNOWN_FIELDS as readonly string[]).includes(name)));
  const refuse = (line: number, problem: FieldProblem, counts = true) => {
    if (counts) totals.refused++;
    if (reported.length < MAX_REPORTED) reported.push({ line, text: `${options.path}:${line}: ${problem.field}: ${problem.what}: ${problem.hint}` });
  };
  const add = (result: { created: number; updated: number; unchanged: number }) => {
    totals.created += result.created;
    totals.updated += result.updated;
    totals.unchanged += result.unchanged;
  };

  async function each(write: (batch: readonly Line[]) => Promise<void>): Promise<void> {
    let batch: Line[] = [];
    for await (const record of source.records()) {
      totals.lines++;
      if ('problem' in record) {
        refuse(record.line, record.problem);
        continue;
      }
      if (source.format === 'jsonl')
        for (const name of Object.keys(record.raw)) if (ignored.size < 50 && !(KNOWN_FIELDS as readonly string[]).includes(name)) ignored.add(name);
      const read = readTicketFields(record.raw, eventId);
      if (!read.ok) {
        for (const [index, problem] of read.problems.entries()) refuse(record.line, problem, index === 0);
        continue;
      }
      batch.push({ line: record.line, ticket: read.ticket });
      if (batch.length < BATCH_TICKETS) continue;
      await write(batch);
      batch = [];
      options.onProgress?.({ ...totals });
    }
    if (batch.length > 0) await write(batch);
    options.onProgress?.({ ...totals });
  }

  const zeros = watchZeros();
  const warnings = () => {
    const lost = zeros.warning();
    return lost === null ? [] : [`${options.path}:${lost.line}: ${lost.text}`];
  };
  /** Leaves out texts that are no code at all, whatever the options. */
  const real = (batch: readonly Line[]): readonly Line[] =>
    batch.filter(({ line, ticket: { code } }) => {
      const problem = code === undefined ? null : (notACode(code) ?? (options.allowWeakCodes === true ? tooPlain(code) : null));
      if (problem !== null) refuse(line, problem);
      else if (code !== undefined) zeros.look(code, line);
      return problem === null;
    });
  /** Leaves out guessable codes. A common beginning does not count. */
  const strong = (batch: readonly Line[]): readonly Line[] => {
    if (options.allowWeakCodes === true) return batch;
    const shared = sharedPrefixChars(batch.flatMap(({ ticket }) => (ticket.code === undefined ? [] : [ticket.code])));
    return batch.filter(({ line, ticket }) => {
      if (ticket.code === undefined) return true;
      const bits = Math.floor(codeBits(ticket.code, shared));
      if (bits < MIN_CODE_BITS)
        refuse(line, {
          field: 'code',
          what: `has at most ${bits} random bits, at least ${MIN_CODE_BITS} are needed, for a shorter code can be found from its hash or guessed at a gate`,
          hint: 'issue longer random codes (16 letters and digits hold 96), or pass --allow-weak-codes',
        });
      return bits >= MIN_CODE_BITS;
    });
  };
  const ids = createOnceOnly(MAX_FILE_TICKETS);
  /** Leaves out a ticket that the file held before, however far away. */
  const once = (batch: readonly Line[]): readonly Line[] =>
    batch.filter(({ line, ticket: { ticket_id } }) => {
      const found = ids.add(ticket_id);
      if (found === 'again') refuse(line, { field: 'ticket_id', what: `${JSON.stringify(ticket_id)} was given before`, hint: 'name each ticket once' });
      if (found === 'full') refuse(line, { field: '(line)', what: `is behind ${MAX_FILE_TICKETS} tickets`, hint: 'import the rest of the file by itself' });
      return found === 'first';
    });
  const taken = (batch: readonly Line[]): readonly Line[] => once(strong(real(batch)));

  const writeIn = async (client: DatabaseClient, batch: readonly Line[]) => {
    const event = await lockEvent(client, eventId);
    if (event === null) throw new UnknownEventError(`event ${eventId} went away`);
    return writeTickets(
      client,
      tenantId,
      event,
      batch.map(({ ticket }) => ticket),
    );
  };

  if (options.strict === true) {
    const rolledBack = await database
      .withTenant(tenantId, async (client) => {
        await each(async (batch) => {
          const good = taken(batch);
          const result = await writeIn(client, good);
          add(result);
          for (const [index, problem] of result.problems) refuse((good[index] as Line).line, problem);
        });
        if (totals.refused > 0) throw new Refused();
        if (totals.created + totals.updated > 0) await notifyGates(client, tenantId, eventId, false);
      })
      .then(
        () => false,
        (error: unknown) => {
          if (error instanceof Refused) return true;
          throw error;
        },
      );
    if (rolledBack) Object.assign(totals, { created: 0, updated: 0, unchanged: 0 });
    return { ...totals, errors: errors(), ignored: [...ignored], warnings: warnings(), rolledBack };
  }

  let mark: number | null = null;
  /** Halves a set that Postgres refuses for one of its rows until that row is found. */
  const writeBatch = async (batch: readonly Line[], attempt = 1): Promise<void> => {
    if (batch.length === 0) return;
    try {
      const result = await database.withTenant(tenantId, async (client) => {
        const written = await writeIn(client, batch);
        if (mark !== null || written.created + written.updated === 0) return { ...written, mark };
        const marked = await client.query<{ id: number }>(
          "INSERT INTO outbox (tenant_id, kind, key, build, due_at) VALUES ($1, 'event', $2, false, now() + make_interval(secs => $3)) RETURNING id",
          [tenantId, eventId, MARK_WAITS_S],
        );
        return { ...written, mark: marked.rows[0]?.id ?? null };
      });
      mark = result.mark;
      add(result);
      for (const [index, problem] of result.problems) refuse((batch[index] as Line).line, problem);
    } catch (error) {
      const state = sqlState(error);
      // Gates' rows are judged at the same time, and PostgreSQL chose this transaction as the victim.
      if (state === '40P01' && attempt < MAX_ATTEMPTS) return writeBatch(batch, attempt + 1);
      if (state === null || !(state.startsWith('22') || state.startsWith('23'))) throw error;
      if (batch.length === 1) {
        refuse((batch[0] as Line).line, { field: '(line)', what: 'does not fit what is known of this ticket', hint: (error as Error).message });
        return;
      }
      const middle = Math.ceil(batch.length / 2);
      await writeBatch(batch.slice(0, middle));
      await writeBatch(batch.slice(middle));
    }
  };
  await each((batch) => writeBatch(taken(batch)));
  if (mark !== null) {
    await database.withTenant(tenantId, async (client) => {
      await client.query('DELETE FROM outbox WHERE id = $1', [mark]);
      await notifyGates(client, tenantId, eventId, false);
    });
  }
  return { ...totals, errors: errors(), ignored: [...ignored], warnings: warnings(), rolledBack: false };
}
