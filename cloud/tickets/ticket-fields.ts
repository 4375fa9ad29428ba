/** Reads one ticket as other people's files and programs write it: checked fields, or the error of each. Pure. */

import { ExternalId } from '../../contract/ids.ts';
import { MAX_PRICE_CENTS, MAX_TEXT_CHARS, MAX_TIME_MS, MAX_UNITS, MIN_TIME_MS } from '../../contract/limits.ts';
import { TICKET_STATES, type TicketState } from '../../contract/manifest.ts';
import { unstorable } from '../../contract/parse.ts';
import { cutText } from '../../contract/text.ts';
import { recogniseCode, withoutMarks } from '../../rules/code.ts';
import { MAX_CODE_CHARS } from './codes/code-hash.ts';

/** Fields of a ticket; an absent field leaves a known ticket unchanged. */
export interface TicketFields {
  readonly ticket_id: string;
  /** Hashed before anything is written; not stored. */
  readonly code?: string;
  readonly tier?: string;
  readonly zone?: string | null;
  readonly status?: TicketState;
  readonly blocked?: boolean;
  readonly approved?: boolean;
  readonly max_scans?: number | null;
  readonly units?: number;
  readonly valid_from?: string | null;
  readonly valid_until?: string | null;
  readonly vip?: boolean;
  readonly note?: string | null;
  readonly ticket_number?: string | null;
  readonly user_id?: string | null;
  readonly price_cents?: number | null;
  readonly section?: string | null;
  readonly seat_row?: string | null;
  readonly seat?: string | null;
}

/** `field: what: hint`, for people. Never holds a code. */
export interface FieldProblem {
  readonly field: string;
  readonly what: string;
  readonly hint: string;
}

export const KNOWN_FIELDS = [
  'ticket_id',
  'code',
  'tier',
  'zone',
  'status',
  'blocked',
  'approved',
  'max_scans',
  'units',
  'valid_from',
  'valid_until',
  'vip',
  'note',
  'ticket_number',
  'user_id',
  'price_cents',
  'section',
  'seat_row',
  'seat',
  'event_id',
] as const;
/** Longest number, seat and the like, in characters; a longer one is refused. */
const MAX_LABEL_CHARS = 64;

/** Other systems' names of our states. */
const STATE_NAMES: Readonly<Record<string, { readonly status?: TicketState; readonly blocked?: boolean; readonly approved?: boolean }>> = {
  ...Object.fromEntries(TICKET_STATES.map((status) => [status, { status }])),
  valid: { status: 'sold' },
  paid: { status: 'sold' },
  unpaid: { status: 'reserved' },
  pending: { status: 'reserved' },
  canceled: { status: 'cancelled' },
  blocked: { status: 'sold', blocked: true },
  unapproved: { status: 'sold', approved: false },
};
const TRUE = new Set(['true', 'yes', 'y', '1', 't', 'x']);
const FALSE = new Set(['false', 'no', 'n', '0', 'f', '']);
const DATE_TIME = /^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:?\d{2})$/;
const UNREADABLE = /[\u0000-\u001f\u007f\ufffd]/;

/**
 * Checks one ticket. Values may be text (CSV) or JSON. An empty text is "nothing": null where a field may be empty, absent elsewhere. Names every
 * problem.
 */
export function readTicketFields(
  raw: Readonly<Record<string, unknown>>,
  eventId: string,
): { readonly ok: true; readonly ticket: TicketFields } | { readonly ok: false; readonly problems: readonly FieldProblem[] } {
  const unfit = unstorable(raw);
  if (unfit !== null) return { ok: false, problems: [{ field: unfit.field || '(line)', what: unfit.why, hint: 'leave it out' }] };
  const problems: FieldProblem[] = [];
  const bad = (field: string, what: string, hint: string): undefined => {
    problems.push({ field, what, hint });
    return undefined;
  };
  const given = (field: string): string | null | undefined => {
    const value = raw[field];
    if (value === undefined) return undefined;
    if (value === null) return null;
    if (typeof value !== 'string' && typeof value !== 'number' && typeof value !== 'boolean')
      return bad(field, 'is a list or an object', 'give plain text, a number or true/false');
    const text = String(value).trim();
    return text === '' ? null : text;
  };
  const id = (field: string, nullable: boolean): string | null | undefined => {
    const value = given(field);
    if (value === undefined || value === null) return nullable ? value : undefined;
    return ExternalId.safeParse(value).success
      ? value
      : bad(field, `${quote(value)} is not an id`, 'use 1 to 64 letters, digits or . _ : @ -, beginning with a letter or digit');
  };
  const whole = (field: string, max: number, min = 1): number | null | undefined => {
    const value = given(field);
    if (value === undefined || value === null) return value;
    const number = Number(value);
    return Number.isInteger(number) && number >= min && number <= max
      ? number
      : bad(field, `${quote(value)} is not a whole number from ${min} to ${max}`, 'correct the number, or leave it empty');
  };
  const flag = (field: string): boolean | undefined => {
    const value = given(field);
    if (value === undefined || value === null) return undefined;
    const text = value.toLowerCase();
    return TRUE.has(text) ? true : FALSE.has(text) ? false : bad(field, `${quote(value)} is neither true nor false`, 'write true or false');
  };
  const time = (field: string): string | null | undefined => {
    const value = given(field);
    if (value === undefined || value === null) return value;
    const at = DATE_TIME.test(value) ? Date.parse(value.replace(' ', 'T')) : Number.NaN;
    return !(at >= MIN_TIME_MS && at <= MAX_TIME_MS)
      ? bad(field, `${quote(value)} is not a time with its zone`, 'write it such as 2026-07-01T18:00:00Z or 2026-07-01T20:00+02:00')
      : new Date(at).toISOString();
  };

  const label = (field: string): string | null | undefined => {
    const value = given(field);
    if (value === undefined || value === null) return value;
    return value.length <= MAX_LABEL_CHARS && !UNREADABLE.test(value)
      ? value
      : bad(field, `${quote(value)} is no plain text of at most ${MAX_LABEL_CHARS} characters`, 'shorten it, or leave it empty');
  };

  const ticketId = id('ticket_id', false);
  if (ticketId === undefined && !problems.some(({ field }) => field === 'ticket_id')) bad('ticket_id', 'is missing', 'every ticket needs its own id');
  const event = given('event_id');
  if (typeof event === 'string' && event !== eventId)
    bad('event_id', `is ${quote(event)}, but these are tickets of ${quote(eventId)}`, 'import each event by itself');
  const code = raw['code'] === null || raw['code'] === '' ? undefined : raw['code'];
  if (code !== undefined && (typeof code !== 'string' || code.length > MAX_CODE_CHARS || code !== code.trim() || UNREADABLE.test(code)))
    bad('code', 'is not a text that a reader could send', `1 to ${MAX_CODE_CHARS} printable characters in UTF-8, without spaces around it`);
  const bare = typeof code === 'string' ? withoutMarks(code) : null;
  if (bare === '') bad('code', "is a scanner's mark and no code behind it", 'give what is printed on the ticket');
  const form = bare === null ? null : recogniseCode(bare);
  if (form?.form === 'stile' && (form.eventId !== eventId || form.ticketId !== ticketId))
    bad('code', `is the signed code of ticket ${quote(form.ticketId)} of ${quote(form.eventId)}`, 'give each ticket its own');
  const state = given('status');
  const named =
    state === undefined || state === null
      ? {}
      : (STATE_NAMES[state.toLowerCase()] ?? bad('status', `${quote(state)} is not a status`, `use one of ${Object.keys(STATE_NAMES).join(', ')}`));
  const note = given('note');
  if (typeof note === 'string' && note !== cutText(note, note.length)) bad('note', 'holds U+0000 or half a character', 'leave that out');
  if (typeof note === 'string' && note.length > MAX_TEXT_CHARS) bad('note', `has ${note.length} characters`, `at most ${MAX_TEXT_CHARS}`);
  const fields = {
    tier: id('tier', false),
    zone: id('zone', true),
    max_scans: whole('max_scans', 1_000_000),
    units: whole('units', MAX_UNITS) ?? undefined,
    valid_from: time('valid_from'),
    valid_until: time('valid_until'),
    vip: flag('vip'),
    note,
    ticket_number: label('ticket_number'),
    user_id: label('user_id'),
    price_cents: whole('price_cents', MAX_PRICE_CENTS, 0),
    section: label('section'),
    seat_row: label('seat_row'),
    seat: label('seat'),
    ...named,
    ...present({ blocked: flag('blocked'), approved: flag('approved') }),
  };
  if (fields.valid_from && fields.valid_until && fields.valid_from > fields.valid_until)
    bad('valid_until', `${fields.valid_until} is before valid_from ${fields.valid_from}`, 'put them in order');
  if (problems.length > 0) return { ok: false, problems };
  return { ok: true, ticket: { ticket_id: ticketId as string, ...present({ code: code as string | undefined, ...fields }) } as TicketFields };
}

/** Removes undefined fields. */
function present<T extends object>(fields: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as { [K in keyof T]: Exclude<T[K], undefined> };
}

const quote = (value: string): string => JSON.stringify(value.length > 40 ? `${cutText(value, 40)}…` : value);
