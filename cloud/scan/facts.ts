/**
 * What the cloud knows of a code that a scanner saw, as the facts that the rules judge by: the same that a gate gathers from its
 * manifest and ledgers. Then the same rules, and the same words.
 */
import { createHash } from 'node:crypto';
import type { Direction, Medium } from '../../contract/ids.ts';
import type { PublicKey } from '../../contract/manifest.ts';
import { explain } from '../../contract/reasons.ts';
import { admit } from '../../rules/admission.ts';
import { readCode, recogniseReadings } from '../../rules/code.ts';
import type { CodeForm, SignedForm } from '../../rules/code-forms.ts';
import type { Entry, PlaceFacts, Recognised, TicketFacts, Verdict } from '../../rules/facts.ts';
import { effectivePolicy, readPolicies } from '../../rules/policy.ts';
import { checkSignature, ticketFromSignature, type VerifySignature } from '../../rules/signature-check.ts';
import type { DatabaseClient } from '../db/database.ts';
import { occupancy } from '../reconcile/queries.ts';

/** Entries of one ticket that are looked at, the newest: far more than any allowance. */
const MAX_ENTRIES = 2_000;
/** No reader sends a longer code, and no ticket has one. */
const MAX_CODE_CHARS = 1_024;
/** The cloud's own list is of this moment. */
const LIST_LIFE_MS = 24 * 3_600_000;

export interface ScanEvent {
  readonly eventId: string;
  readonly startsAtMs: number | null;
  readonly endsAtMs: number | null;
  readonly timeZone: string;
  readonly version: number;
  readonly salt: Buffer;
  /** As they stand in the event's record, with what each gate serves. */
  readonly policies: unknown;
  readonly keys: readonly PublicKey[];
}

/** The ledger of rights, as a decision needs it; handed in, for it belongs to another part of the cloud. */
export interface ScanRights {
  readonly event: (client: DatabaseClient, eventId: string) => Promise<ScanEvent | null>;
  readonly ticket: (client: DatabaseClient, eventId: string, ref: string) => Promise<TicketFacts | 'invalid' | 'revoked' | 'canceled' | null>;
}

export type Seen = { readonly code: string } | { readonly ticketRef: string };

export interface ScanFacts {
  readonly facts: Recognised;
  readonly policies: unknown;
  readonly place: PlaceFacts;
}

export interface ScanSources {
  readonly rights: ScanRights;
  readonly verify: VerifySignature;
}

/** First 16 bytes of SHA-256(salt ‖ text), lowercase hex. */
export const refOf = (salt: Buffer, text: string): string => createHash('sha256').update(salt).update(text, 'utf8').digest('hex').slice(0, 32);

/** A ref was given where only the code itself, with its signature, proves anything. */
export class CodeNeededError extends Error {
  override name = 'CodeNeededError';
}

/** Gathers. `device` is where the guest stands: its name as a gate's in policies and rules. Throws CodeNeededError. */
export async function scanFacts(
  client: DatabaseClient,
  sources: ScanSources,
  event: ScanEvent,
  scan: {
    readonly device: string;
    readonly seen: Seen;
    readonly direction: Direction;
    readonly nowMs: number;
    readonly units?: number | undefined;
    readonly several?: 'chosen' | 'ambiguous' | null;
  },
): Promise<ScanFacts> {
  const place: PlaceFacts = {
    gate: scan.device,
    direction: scan.direction,
    mode: 'controlled',
    nowMs: scan.nowMs,
    clockTrusted: true,
    online: true,
    usageComplete: true,
    ...(scan.units === undefined ? {} : { units: scan.units }),
  };
  if (scan.several === 'ambiguous') return { facts: { kind: 'ambiguous' }, policies: event.policies, place };
  const facts = await recognise(client, sources, event, scan.seen, scan.nowMs);
  return { facts: facts.kind === 'ticket' && scan.several === 'chosen' ? { ...facts, chosenOfSeveral: true } : facts, policies: event.policies, place };
}

/** The decision: the rules of the gate, with the policies that hold for this tier at this place. Total. */
export function judge({ facts, policies, place }: ScanFacts): Verdict {
  const read = readPolicies(policies);
  // A gate refuses a manifest with policies that it cannot read; here nobody is let in by halves of them.
  if (!read.ok) return { kind: 'refusal', reason: 'error', facts: {}, explanation: explain('error'), validAgainAtMs: null };
  return admit(facts, effectivePolicy(read.policies, facts.kind === 'ticket' ? facts.ticket.tier : null, place.gate), place);
}

/** What a code may be, most literal form first: the first that is known decides, as at a gate. */
async function recognise(client: DatabaseClient, sources: ScanSources, event: ScanEvent, seen: Seen, nowMs: number): Promise<Recognised> {
  if (!('code' in seen)) return recogniseForm(client, sources, event, { form: null, ref: seen.ticketRef }, nowMs);
  if (seen.code.length > MAX_CODE_CHARS) return { kind: 'unreadable' };
  const code = readCode(Buffer.from(seen.code, 'utf8'));
  if (code.kind === 'unreadable') return { kind: 'unreadable' };
  for (const form of recogniseReadings(code.text)) {
    const found = await recogniseForm(client, sources, event, { form }, nowMs);
    if (found.kind !== 'unknown' || found.removed !== null) return found;
  }
  return unknown();
}

const unknown = (removed: 'invalid' | 'revoked' | 'canceled' | null = null): Recognised => ({ kind: 'unknown', removed, asked: true });

async function recogniseForm(
  client: DatabaseClient,
  { rights, verify }: ScanSources,
  event: ScanEvent,
  seen: { readonly form: CodeForm } | { readonly form: null; readonly ref: string },
  nowMs: number,
): Promise<Recognised> {
  const { form } = seen;
  let ref: string;
  let medium: Medium = 'opaque';
  if (form !== null) {
    if (form.form !== 'opaque' && checkSignature(form, event.keys, verify, nowMs).ok) medium = 'signed';
    // A ticket id proves nothing by itself: without its signature a Stile code is nobody's.
    if (form.form === 'stile' && (form.eventId !== event.eventId || medium !== 'signed')) return unknown();
    ref = refOf(event.salt, form.lookupText);
  } else ref = seen.ref;

  const found = await rights.ticket(client, event.eventId, ref);
  if (typeof found === 'string') return unknown(found);
  if (found !== null && medium !== 'signed' && event.keys.some(({ use }) => use === 'code') && ref === refOf(event.salt, found.ticketId)) {
    // The bare id of a ticket whose code is signed: anyone could have written it.
    if (form === null) throw new CodeNeededError('the codes of this event are signed: send the code itself, a ticket_ref proves nothing');
    return unknown();
  }
  const ticket = found ?? (medium === 'signed' ? ticketFromSignature(form as SignedForm, event.eventId, ref) : null);
  if (ticket === null) return unknown();
  return {
    kind: 'ticket',
    // With the date that a signed code names.
    ticket: medium === 'signed' && form?.form === 'pretix' ? { ...ticket, subevent: form.subevent } : ticket,
    medium,
    entries: await entriesOf(client, event.eventId, ticket.ticketId),
    event: {
      eventId: event.eventId,
      startsAtMs: event.startsAtMs,
      endsAtMs: event.endsAtMs,
      timeZone: event.timeZone,
      manifestVersion: event.version,
      manifestGeneratedAtMs: nowMs,
      manifestExpiresAtMs: nowMs + LIST_LIFE_MS,
      inside: mentionsOccupancy(event.policies) ? ticketsInside(await occupancy(client, event.eventId)) : null,
    },
  };
}

/** Is any occupancy rule written down, for whatever tier or gate? Counting the house costs, and most events have none. */
const mentionsOccupancy = (policies: unknown): boolean => JSON.stringify(policies ?? {}).includes('"occupancy"');

interface EntryRow {
  readonly gate: string;
  readonly at: Date;
  readonly direction: Direction;
  readonly units: number;
  readonly outcome: Entry['outcome'];
}

/** Every grant of the ticket that counts, oldest first. A scanner's is told by the scanner's own name. */
async function entriesOf(client: DatabaseClient, eventId: string, ticketId: string): Promise<Entry[]> {
  const { rows } = await client.query<EntryRow>(
    `SELECT coalesce(s.device, a.gate) AS gate, a.at, a.direction, a.units_used AS units, a.outcome FROM admissions a
     LEFT JOIN LATERAL (SELECT x.device FROM device_scans x WHERE x.tenant_id = a.tenant_id AND x.gate = a.gate AND x.epoch = a.epoch AND x.seq = a.seq LIMIT 1) AS s ON a.gate LIKE '%/cloud'
     WHERE a.tenant_id = current_tenant_id() AND a.event_id = $1 AND a.ticket_id = $2 AND a.granted AND a.units_used > 0
     ORDER BY a.at DESC, a.gate COLLATE "C" DESC, a.epoch DESC, a.seq DESC LIMIT $3`,
    [eventId, ticketId, MAX_ENTRIES],
  );
  return rows.reverse().map(({ gate, at, direction, units, outcome }) => ({ gate, atMs: at.getTime(), direction, units, outcome }));
}

/** As a gate counts for the limit: tickets alone. Who passed without one is nobody's ticket. */
const ticketsInside = ({ entries, exits }: { readonly entries: number; readonly exits: number }): number => entries - exits;
