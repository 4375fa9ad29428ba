/**
 * Resolves a scanned code to a ticket and collects the facts that the rules judge by, from overlay, manifest files, signatures and usage.
 *
 * The code's text stays inside this file's calls: it is hashed, compared and forgotten.
 */
import { hash } from 'node:crypto';
import type { Medium } from '../../contract/ids.ts';
import { vectorOf } from '../../contract/references.ts';
import type { Candidate } from '../../rules/choose.ts';
import type { CodeForm, SignedForm } from '../../rules/code-forms.ts';
import type { Recognised, RecognisedTicket, TicketFacts } from '../../rules/facts.ts';
import { checkSignature, ticketFromSignature, type VerifySignature } from '../../rules/signature-check.ts';
import type { EventManifest, Manifests } from '../store/manifest-store.ts';
import { countEntries, type SnapshotEntry } from '../store/usage-merge.ts';
import type { UsageStore } from '../store/usage-store.ts';

/** Bytes of SHA-256 that name a ticket. */
const REF_BYTES = 16;
/** Refs of one question to the cloud (contract/manifest.ts); those of further events are not asked. */
const MAX_REFS_ASKED = 64;

export type RemovedReason = 'invalid' | 'revoked' | 'canceled';

/** The cloud's answer on one code, in place of a manifest: facts, never a grant. */
export interface CloudTicket {
  readonly eventId: string;
  readonly ticketRef: string;
  readonly found: TicketFacts | RemovedReason;
  readonly usage: readonly SnapshotEntry[];
}

export interface FactsSources {
  readonly manifests: Manifests;
  readonly usage: UsageStore;
  readonly verify: VerifySignature;
  /** Unix ms by which a signing key's end is judged; null: the clock is not trusted. */
  readonly keyNowMs: number | null;
  /** Returns a cloud's answer that came too late for an earlier try; null: none. Asked only where nothing else knows the code. */
  readonly late: (event: EventManifest, ticketRef: string) => CloudTicket | null;
  /** Returns the number of people inside, where an occupancy rule is in force. */
  readonly inside: (event: EventManifest) => number | null;
  /** Chooses the event of a code that several events know. */
  readonly choose: (tickets: readonly RecognisedTicket[]) => Candidate | 'ambiguous' | null;
}

/** `refs`: the code's ticket_ref per event, for the question to the cloud. */
export interface Resolved {
  readonly facts: Recognised;
  readonly event: EventManifest | null;
  readonly refs: readonly { readonly event_id: string; readonly ticket_ref: string }[];
}

interface Hit {
  readonly event: EventManifest;
  readonly ticket: TicketFacts;
  readonly medium: Medium;
  readonly snapshot: readonly SnapshotEntry[] | null;
}

export function ticketRefOf(salt: Buffer, lookupText: string): Buffer {
  return hash('sha256', Buffer.concat([salt, Buffer.from(lookupText, 'utf8')]), 'buffer').subarray(0, REF_BYTES);
}

/** Finds the ticket of a code, most literal form first: the first form that a list knows decides. `asked`: the cloud's answer; null: not asked. */
export function resolveTicket(forms: readonly CodeForm[] | null, sources: FactsSources, asked: readonly CloudTicket[] | null): Resolved {
  if (forms === null) return gatherForm(null, sources, asked);
  const refs: Resolved['refs'][number][] = [];
  let gathered: Resolved | null = null;
  for (const form of forms) {
    const next = gatherForm(form, sources, asked);
    if (next.facts.kind !== 'unknown' || next.facts.removed !== null) return next;
    gathered ??= next;
    refs.push(...next.refs);
  }
  return { ...(gathered ?? gatherForm(null, sources, asked)), refs: refs.slice(0, MAX_REFS_ASKED) };
}

function gatherForm(form: CodeForm | null, sources: FactsSources, asked: readonly CloudTicket[] | null): Resolved {
  const events = sources.manifests.current();
  if (form === null) return { facts: { kind: 'unreadable' }, event: events[0] ?? null, refs: [] };
  if (events.length === 0) return { facts: { kind: 'no_manifest' }, event: null, refs: [] };
  const hits: Hit[] = [];
  const refs: { event_id: string; ticket_ref: string }[] = [];
  let removed: RemovedReason | null = null;
  for (const event of events) {
    const found = findIn(event, form, sources, asked);
    if (found === null) continue;
    refs.push({ event_id: event.eventId, ticket_ref: found.ref });
    if (typeof found.what === 'string') removed ??= found.what;
    else if (found.what !== null) hits.push(found.what);
  }
  // What a manifest holds goes before what only a signature says: a key may sign for several events.
  const held = hits.filter((hit) => hit.ticket.source !== 'signature');
  const chosen = held.length > 0 ? held : hits;
  const hit = chosen[0];
  if (hit === undefined) return { facts: { kind: 'unknown', removed, asked: asked !== null }, event: events[0] ?? null, refs: removed === null ? refs : [] };
  if (chosen.length === 1) return { facts: ticketFacts(hit, sources), event: hit.event, refs: [] };
  const one = sources.choose(chosen.map((each) => ticketFacts(each, sources)));
  if (one === 'ambiguous' || one === null) return { facts: { kind: 'ambiguous' }, event: events[0] ?? null, refs: [] };
  return { facts: one.facts, event: events.find(({ eventId }) => eventId === one.facts.event.eventId) ?? hit.event, refs: [] };
}

function ticketFacts({ event, ticket, medium, snapshot }: Hit, sources: FactsSources): RecognisedTicket {
  const { head } = event.file;
  const ref = Buffer.from(ticket.ticketRef, 'hex');
  const states = sources.usage.ofTicket(ticket.ticketRef).filter((state) => state.eventId === event.eventId);
  const counted = snapshot === null ? event.file.usageOf(ref) : joined(event.file.usageOf(ref), snapshot);
  return {
    kind: 'ticket',
    ticket,
    medium,
    entries: countEntries(sources.usage.proven(vectorOf(head.upto)), counted, states),
    event: {
      eventId: event.eventId,
      startsAtMs: timeOf(head.starts_at),
      endsAtMs: timeOf(head.ends_at),
      timeZone: head.time_zone,
      manifestVersion: event.overlayVersion,
      manifestGeneratedAtMs: event.file.generatedAtMs,
      manifestExpiresAtMs: event.file.expiresAtMs,
      inside: sources.inside(event),
    },
  };
}

const timeOf = (time: string | null): number | null => (time === null ? null : Date.parse(time));

/** Returns the cloud's usage of a ticket that it was asked for, besides the manifest's. */
function joined(own: readonly SnapshotEntry[], asked: readonly SnapshotEntry[]): readonly SnapshotEntry[] {
  const known = new Set(asked.map((entry) => `${entry.gate} ${entry.epoch} ${entry.seq}`));
  return [...own.filter((entry) => !known.has(`${entry.gate} ${entry.epoch} ${entry.seq}`)), ...asked];
}

/** Returns what one event knows of the code; null: the code cannot be of this event. */
function findIn(
  event: EventManifest,
  form: CodeForm,
  sources: FactsSources,
  asked: readonly CloudTicket[] | null,
): { readonly ref: string; readonly what: Hit | RemovedReason | null } | null {
  const { file, eventId } = event;
  if (form.form === 'stile' && form.eventId !== eventId) return null;
  const signed = form.form !== 'opaque' && checkSignature(form, file.head.keys, sources.verify, sources.keyNowMs).ok;
  // A ticket id proves nothing by itself: without its signature a Stile code is nobody's.
  if (form.form === 'stile' && !signed) return null;
  const key = ticketRefOf(file.salt, form.lookupText);
  const ref = key.toString('hex');
  const medium: Medium = signed ? 'signed' : 'opaque';
  const overlay = sources.manifests.overlays.find(eventId, key);
  if (overlay?.kind === 'removed') return { ref, what: overlay.reason };
  // The bare id of a ticket whose code is signed would find it too: where codes are signed, it opens nothing.
  const bareId = (ticket: TicketFacts | RemovedReason | null): boolean =>
    ticket !== null &&
    typeof ticket !== 'string' &&
    form.form === 'opaque' &&
    form.lookupText === ticket.ticketId &&
    file.head.keys.some((one) => one.use === 'code');
  /** Adds the date that a signed code names. */
  const dated = (ticket: TicketFacts): TicketFacts => (signed && form.form === 'pretix' ? { ...ticket, subevent: form.subevent } : ticket);
  const said = ({ found, usage }: CloudTicket) => {
    if (bareId(found)) return { ref, what: null };
    return { ref, what: typeof found === 'string' ? found : { event, ticket: dated(found), medium, snapshot: usage } };
  };
  const answer = asked?.find((one) => one.eventId === eventId && one.ticketRef === ref);
  if (answer !== undefined) return said(answer);
  if (overlay === null && file.revoked(ref)) return { ref, what: 'revoked' };
  const held = overlay?.ticket ?? file.find(key);
  const late = held === null ? sources.late(event, ref) : null;
  if (late !== null) return said(late);
  const ticket = held ?? (signed ? ticketFromSignature(form as SignedForm, eventId, ref) : null);
  if (bareId(ticket)) return { ref, what: null };
  return { ref, what: ticket === null ? null : { event, ticket: dated(ticket), medium, snapshot: null } };
}
