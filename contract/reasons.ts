/**
 * Defines the reasons of refusals and their texts, for the gate, the cloud and the console.
 *
 * The reasons are the field's (pretix's offline provider where they mean the same). Texts are templates: `{name}` is replaced from the refusal's
 * `facts`; times are already formatted in the venue's time zone. A text whose fact is missing falls back to the short text.
 */
import { z } from 'zod';

export const REASONS = [
  'invalid',
  'unreadable',
  'unpaid',
  'blocked',
  'invalid_time',
  'canceled',
  'already_redeemed',
  'already_inside',
  'product',
  'zone',
  'rules',
  'ambiguous',
  'revoked',
  'unapproved',
  'gap',
  'max_entries',
  'passback',
  'capacity',
  'gate_locked',
  'see_staff',
  'busy',
  'manifest_stale',
  'usage_lost',
  'clock_untrusted',
  'error',
] as const;

export const Reason = z.enum(REASONS);
export type Reason = z.infer<typeof Reason>;

/** The facts that a text may use. All values are ready to be shown; none may hold a code or personal data. */
export type ReasonFacts = Readonly<Record<string, string | number>>;

/** `short` always holds; `long` is used when every fact that it uses is known. Tried in order. */
export interface ReasonText {
  readonly short: string;
  readonly long: readonly string[];
}

export const LANGUAGES = ['en', 'de'] as const;
export type Language = (typeof LANGUAGES)[number];

export const REASON_TEXTS: Readonly<Record<Language, Readonly<Record<Reason, ReasonText>>>> = {
  en: {
    invalid: { short: 'not a ticket for this event', long: [] },
    unreadable: { short: 'the code could not be read', long: [] },
    unpaid: { short: 'the ticket is not paid', long: [] },
    blocked: { short: 'the ticket is blocked', long: ['the ticket is blocked: {note}'] },
    invalid_time: { short: 'not valid at this time', long: ['valid from {valid_from}', 'was valid until {valid_until}', 'valid again at {valid_again_at}'] },
    canceled: { short: 'the ticket was cancelled', long: [] },
    already_redeemed: {
      short: 'already used',
      long: [
        'already used at {used_at}, gate {used_gate}',
        'already used at {used_at}',
        'already used at {used_at}, gate {used_gate}; re-entry ended at {reentry_until}',
      ],
    },
    already_inside: { short: 'already inside', long: ['already inside since {inside_since}, gate {inside_gate}', 'already inside since {inside_since}'] },
    product: {
      short: 'this ticket type is not admitted here',
      long: ['ticket type {tier} is not admitted here', 'the ticket is for another date of this series (date {subevent})'],
    },
    zone: {
      short: "this entrance does not lead to the ticket's zone",
      long: ['the ticket is for zone {zone}', 'the ticket is for zone {zone}, use {other_gate}'],
    },
    rules: {
      short: "the venue's rule does not admit this ticket",
      long: [
        'admitted before {rule_before} only',
        'admitted after {rule_after} only',
        "ticket type {rule_tier} is not admitted by the venue's rule",
        "the venue's rule does not admit this ticket at gate {rule_gate}",
        "the venue's rule does not admit this ticket while it is {rule_entry_status}",
        "{rule_entries} of {rule_limit} entries of the venue's rule used",
        '{rule_entries_today} of {rule_limit_today} entries a day used',
        '{rule_days} of {rule_limit_days} days used',
        'valid again at {valid_again_at}',
      ],
    },
    ambiguous: { short: 'the code fits more than one ticket', long: [] },
    revoked: { short: 'the code was revoked or replaced by a newer one', long: ['the ticket {ticket} was revoked'] },
    unapproved: { short: 'the order is not approved yet', long: [] },
    gap: { short: 'scanned again too soon', long: ['scanned {seconds_ago} s ago', 'valid again at {valid_again_at}'] },
    max_entries: {
      short: 'no entries left',
      long: [
        '{entries} of {max_entries} entries used',
        'no entries left today, valid again at {valid_again_at}',
        'used on all of its {days} days',
        '{gate_entries} of {max_gate_entries} entries at this gate used',
      ],
    },
    passback: {
      short: 'no exit was recorded since the last entry',
      long: ['no exit was recorded since the entry at {inside_since}, gate {inside_gate}', 'no entry was recorded before this exit'],
    },
    capacity: { short: 'the venue is full', long: ['the venue is full ({inside} of {capacity})'] },
    see_staff: { short: 'please see the staff', long: [] },
    gate_locked: { short: 'this lane is closed', long: ['this lane is closed: {mode}'] },
    busy: { short: 'please wait for the guest before you', long: [] },
    manifest_stale: { short: 'the ticket list is too old', long: ['the ticket list is from {generated_at}', 'gate {gate} has no ticket list yet'] },
    usage_lost: { short: 'this gate does not yet know who is inside', long: [] },
    clock_untrusted: { short: 'this gate does not know the time', long: [] },
    error: { short: 'fault, please ask the staff', long: [] },
  },
  de: {
    invalid: { short: 'kein Ticket für diese Veranstaltung', long: [] },
    unreadable: { short: 'der Code war nicht lesbar', long: [] },
    unpaid: { short: 'das Ticket ist nicht bezahlt', long: [] },
    blocked: { short: 'das Ticket ist gesperrt', long: ['das Ticket ist gesperrt: {note}'] },
    invalid_time: { short: 'jetzt nicht gültig', long: ['gültig ab {valid_from}', 'war gültig bis {valid_until}', 'wieder gültig um {valid_again_at}'] },
    canceled: { short: 'das Ticket wurde storniert', long: [] },
    already_redeemed: {
      short: 'schon benutzt',
      long: [
        'schon benutzt um {used_at}, Eingang {used_gate}',
        'schon benutzt um {used_at}',
        'schon benutzt um {used_at}, Eingang {used_gate}; Wiedereintritt war bis {reentry_until} möglich',
      ],
    },
    already_inside: { short: 'schon drinnen', long: ['drinnen seit {inside_since}, Eingang {inside_gate}', 'drinnen seit {inside_since}'] },
    product: {
      short: 'diese Ticketart gilt hier nicht',
      long: ['Ticketart {tier} gilt hier nicht', 'das Ticket gilt für einen anderen Termin dieser Reihe (Termin {subevent})'],
    },
    zone: {
      short: 'dieser Eingang führt nicht zum Bereich des Tickets',
      long: ['das Ticket gilt für Bereich {zone}', 'das Ticket gilt für Bereich {zone}, bitte zu {other_gate}'],
    },
    rules: {
      short: 'die Regel des Hauses lässt dieses Ticket nicht zu',
      long: [
        'Einlass nur vor {rule_before}',
        'Einlass erst nach {rule_after}',
        'die Regel des Hauses lässt Ticketart {rule_tier} nicht zu',
        'die Regel des Hauses lässt dieses Ticket an Eingang {rule_gate} nicht zu',
        'die Regel des Hauses lässt dieses Ticket nicht zu, solange es {rule_entry_status} ist',
        '{rule_entries} von {rule_limit} Eintritten nach der Regel des Hauses verbraucht',
        '{rule_entries_today} von {rule_limit_today} Eintritten am Tag verbraucht',
        '{rule_days} von {rule_limit_days} Tagen verbraucht',
        'wieder gültig um {valid_again_at}',
      ],
    },
    ambiguous: { short: 'der Code passt auf mehrere Tickets', long: [] },
    revoked: { short: 'das Ticket wurde durch ein neueres ersetzt', long: ['das Ticket {ticket} wurde zurückgenommen'] },
    unapproved: { short: 'die Bestellung ist noch nicht freigegeben', long: [] },
    gap: { short: 'zu schnell noch einmal gezeigt', long: ['vor {seconds_ago} s gezeigt', 'wieder gültig um {valid_again_at}'] },
    max_entries: {
      short: 'keine Eintritte mehr übrig',
      long: [
        '{entries} von {max_entries} Eintritten verbraucht',
        'heute keine Eintritte mehr, wieder gültig um {valid_again_at}',
        'an allen {days} Tagen benutzt',
        '{gate_entries} von {max_gate_entries} Eintritten an diesem Eingang verbraucht',
      ],
    },
    passback: {
      short: 'seit dem letzten Eintritt kein Austritt',
      long: ['kein Austritt seit dem Eintritt um {inside_since}, Eingang {inside_gate}', 'vor diesem Austritt kein Eintritt'],
    },
    capacity: { short: 'das Haus ist voll', long: ['das Haus ist voll ({inside} von {capacity})'] },
    see_staff: { short: 'bitte an das Personal wenden', long: [] },
    gate_locked: { short: 'dieser Durchgang ist geschlossen', long: ['dieser Durchgang ist geschlossen: {mode}'] },
    busy: { short: 'bitte den Gast vor Ihnen durchlassen', long: [] },
    manifest_stale: { short: 'die Ticketliste ist zu alt', long: ['die Ticketliste ist vom {generated_at}', 'Eingang {gate} hat noch keine Ticketliste'] },
    usage_lost: { short: 'dieser Durchgang weiß noch nicht, wer drinnen ist', long: [] },
    clock_untrusted: { short: 'dieser Durchgang kennt die Uhrzeit nicht', long: [] },
    error: { short: 'Störung, bitte das Personal fragen', long: [] },
  },
};

const SLOT = /\{([a-z_]+)\}/g;

/** Returns the text with the most facts of those whose facts are all known (the first of several). Total. */
export function explain(reason: Reason, facts: ReasonFacts = {}, language: Language = 'en'): string {
  const { short, long } = REASON_TEXTS[language][reason];
  const known = (text: string) => [...text.matchAll(SLOT)].every(([, name]) => facts[name as string] !== undefined);
  const best = long.filter(known).reduce<string | undefined>((chosen, text) => {
    const slots = (candidate: string) => [...candidate.matchAll(SLOT)].length;
    return chosen === undefined || slots(text) > slots(chosen) ? text : chosen;
  }, undefined);
  return (best ?? short).replace(SLOT, (_, name: string) => String(facts[name]));
}
