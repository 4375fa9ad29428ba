/** Collects the cloud's facts about a scanned code, as a gate collects them from its manifest and ledgers; the same rules then give the same texts. */
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

/** Entries of one ticket that are read, the newest; older ones are ignored. Far more than any allowance. */
const MAX_ENTRIES = 2_000;
/** Longest code, in bytes; a longer one is unreadable: no reader sends it, and no ticket has it. */
const MAX_CODE_CHARS = 1_024;
/** The cloud's own list is current. */
const LIST_LIFE_MS = 24 * 3_600_000;

export interface ScanEvent {
  readonly eventId: string;
  readonly startsAtMs: number | null;
  readonly endsAtMs: number | null;
  readonly timeZone: string;
  readonly version: number;
  readonly salt: Buffer;
  /** As in the event's record, with what each gate serves. */
  readonly policies: unknown;
  readonly keys: readonly PublicKey[];
}

/** Reads the rights that a decision needs; passed in, because another feature owns them. */
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

/** Returns the first 16 bytes of SHA-256(salt ‖ text), lowercase hex. */
export const refOf = (salt: Buffer, text: string): string => createHash('sha256').update(salt).update(text, 'utf8').digest('hex').slice(0, 32);

/** The request has a ref where only the code itself, with its signature, proves the right. */
export class CodeNeededError extends Error {
  override name = 'CodeNeededError';
}

/** Collects the facts. `device` is the place of the scan: its name replaces a gate's in policies and rules. Throws CodeNeededError. */
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

/** Decides by the rules of the gate, with the policies of this tier at this place. Total. */
export function judge({ facts, policies, place }: ScanFacts): Verdict {
  const read = readPolicies(policies);
  // A gate refuses a manifest with unreadable policies; here the scan is refused.
  if (!read.ok) return { kind: 'refusal', reason: 'error', facts: {}, explanation: explain('error'), validAgainAtMs: null };
  return admit(facts, effectivePolicy(read.policies, facts.kind === 'ticket' ? facts.ticket.tier : null, place.gate), place);
}

/** Returns the possible forms of a code, most literal first: the first that is known decides, as at a gate. */
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
    // A ticket id proves nothing by itself: a Stile code needs its signature.
    if (form.form === 'stile' && (form.eventId !== event.eventId || medium !== 'signed')) return unknown();
    ref = refOf(event.salt, form.lookupText);
  } else ref = seen.ref;

  const found = await rights.ticket(client, event.eventId, ref);
  if (typeof found === 'string') return unknown(found);
  if (found !== null && medium !== 'signed' && event.keys.some(({ use }) => use === 'code') && ref === refOf(event.salt, found.ticketId)) {
    // The bare id of a ticket with a signed code: anyone could have written it.
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

/** Returns whether any tier or gate has an occupancy rule. Counting people is expensive, and most events have none. */
const mentionsOccupancy = (policies: unknown): boolean => JSON.stringify(policies ?? {}).includes('"occupancy"');

interface EntryRow {
  readonly gate: string;
  readonly at: Date;
  readonly direction: Direction;
  readonly units: number;
  readonly outcome: Entry['outcome'];
}

/** Returns every grant of the ticket that counts, oldest first. A scanner's has the scanner's own name. */
async function entriesOf(client: DatabaseClient, eventId: string, ticketId: string): Promise<Entry[]> {
  const { rows } = await client.query<EntryRow>(
    `SELECT coalesce(a.scanner, a.gate) AS gate, a.at, a.direction, a.units_used AS units, a.outcome FROM admissions a
     WHERE a.tenant_id = current_tenant_id() AND a.event_id = $1 AND a.ticket_id = $2 AND a.granted AND a.units_used > 0
     ORDER BY a.at DESC, a.gate COLLATE "C" DESC, a.epoch DESC, a.seq DESC LIMIT $3`,
    [eventId, ticketId, MAX_ENTRIES],
  );
  return rows.reverse().map(({ gate, at, direction, units, outcome }) => ({ gate, atMs: at.getTime(), direction, units, outcome }));
}

/** Counts tickets alone, as a gate does for the limit. */
const ticketsInside = ({ entries, exits }: { readonly entries: number; readonly exits: number }): number => entries - exits;
