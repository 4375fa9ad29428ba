/**
 * Defines the policies of an event and combines those of event, tier and gate.
 *
 * The event's record and its manifest carry them as JSON (snake_case). Every key is optional there; `effectivePolicy` adds the defaults. The schema
 * is strict: an unknown key could be a restriction that an older program would silently ignore, so a gate refuses such a manifest and keeps the
 * last good one.
 */
import { z } from 'zod';
import { GateName, TierId, Timestamp, ZoneId } from '../contract/ids.ts';
import { describeIssue } from '../contract/schema-errors.ts';
import { VenueRule } from './venue-rule.ts';

/** A list of its own: reading it off the schema would load the schema library with every start of a gate. */
const LENIENCIES = ['refuse', 'admit', 'admit_and_flag'] as const;
/** The action on a failed condition: `admit_and_flag` admits and adds the condition to the grant's flags. */
export const Leniency = z.enum(LENIENCIES);
export type Leniency = z.infer<typeof Leniency>;

const MAX_SECONDS = 10 * 366 * 86_400;
const Seconds = z.int().min(0).max(MAX_SECONDS);
const Limit = z.int().min(1).max(1_000_000);
const ClockTime = z.string().regex(/^(([01]\d|2[0-3]):[0-5]\d|24:00)$/, 'a clock time is HH:MM, 00:00 to 24:00');

/** One weekly opening, in the venue's time zone. An `until` at or before `from` is on the next day. */
export const Opening = z.strictObject({
  /** ISO weekdays on which it begins: 1 Monday to 7 Sunday. */
  days: z.array(z.int().min(1).max(7)).min(1).max(7),
  from: ClockTime.refine((time) => time !== '24:00', 'an opening begins at 00:00 to 23:59'),
  until: ClockTime,
});
export type Opening = z.infer<typeof Opening>;

const admission = {
  /** Entry begins this long before the event; null: no limit. */
  opens_before_start_s: Seconds.nullable(),
  /** Entry ends this long after the event's beginning; null: no limit. */
  closes_after_start_s: Seconds.nullable(),
  /** Entry ends this long after the event's end; null: no limit. */
  closes_after_end_s: Seconds.nullable(),
  /** Fixed bounds in addition; null: none. */
  from: Timestamp.nullable(),
  until: Timestamp.nullable(),
  /** Grace around every window: the ticket's own validity, the admission window, the weekly schedule. */
  grace_before_s: Seconds,
  grace_after_s: Seconds,
};
const entries = {
  /** In total, for a ticket without a limit of its own; null: one without re-entry, otherwise unlimited. */
  total: Limit.nullable(),
  /** Per day of the venue's time zone. */
  per_day: Limit.nullable(),
  /** At each gate. */
  per_gate: Limit.nullable(),
  /** Number of different days. */
  days: Limit.nullable(),
};
const reentry = {
  /** none: each entry uses up one of the ticket's entries; after_exit: re-entry after a recorded exit; always. */
  rule: z.enum(['none', 'after_exit', 'always']),
  /** Shortest time since the last entry. */
  min_gap_s: Seconds,
  /** Number of re-entries; null: no limit. */
  max: z.int().min(0).max(1_000_000).nullable(),
  /** Latest time; null: no limit. */
  until: Timestamp.nullable(),
  /** Whether a re-entry uses up one of the ticket's entries. */
  counts_as_entry: z.boolean(),
};
const passback = {
  /** For an entry while inside or an exit while outside: hard refuses, soft admits and flags. */
  mode: z.enum(['off', 'soft', 'hard']),
  /** Time after which an entry expires; null: never. */
  forget_after_s: Seconds.min(1).nullable(),
};
const occupancy = {
  /** People inside; null: no limit. */
  limit: Limit.nullable(),
  mode: z.enum(['alert', 'enforce']),
};

const plain = {
  /** Within this time after its last entry a ticket is refused as a duplicate, even where re-entry is allowed. Not for VIP. */
  duplicate_window_s: Seconds.max(86_400),
  /** Weekly openings; null: no schedule. An empty list never opens. */
  schedule: z.array(Opening).max(64).nullable(),
  /** A ticket expires this long after its first entry; null: never. */
  expires_after_first_entry_s: Seconds.min(1).nullable(),
  /** VIP passes and linked tickets: `always` re-enter without limit, or by the `policy` like everyone. */
  vip_reentry: z.enum(['always', 'policy']),
  unpaid: Leniency,
  unapproved: Leniency,
  /** For an unknown code: `ask` asks the cloud where the gate is online and refuses otherwise; `refuse` refuses at once. */
  unknown: z.enum(['ask', 'refuse']),
  /** For a ticket that is known only from its signature (sold after the last sync). */
  signed_unknown: Leniency,
  /** The venue's own rule, in JSON Logic (venue-rule.ts); null: none. It applies to VIP passes too. */
  rules: VenueRule.nullable(),
  /** For a manifest past its expiry. */
  manifest_stale: Leniency,
  /** For an untrusted wall clock: rules of time are then skipped. */
  clock_untrusted: Leniency,
  /**
   * For a gate whose usage is incomplete. `ask`: the gate asks the cloud for each code; without an answer it admits and flags, unless an entry is
   * known.
   */
  usage_lost: z.enum([...LENIENCIES, 'ask']),
  /** For a ticket whose only grant is this lane's own and lost its outcome in a restart: returned once within 10 min and decided anew, or used. */
  unknown_passage: z.enum(['retry_here', 'used']),
  /** For a code that several events of the gate would admit: the gate chooses the likeliest event and flags the grant, or refuses. */
  ambiguous: z.enum(['choose', 'refuse']),
  /**
   * The dates of a pretix series (`subevent`) that belong to this event; null: not given, then a signed code of a date that is not in the list is
   * refused.
   */
  subevents: z.array(z.int().min(1).max(Number.MAX_SAFE_INTEGER)).max(64).nullable(),
};
/** The zones and tiers that a gate serves; null: all. `vip` serves `vip:balcony` too, `north` the sector `north:12`. */
const served = { zones: z.array(ZoneId).max(256).nullable(), tiers: z.array(TierId).max(256).nullable() };

/** Every rule, with its value. Made by `effectivePolicy`. */
export const Policy = z.strictObject({
  ...plain,
  admission: z.strictObject(admission),
  entries: z.strictObject(entries),
  reentry: z.strictObject(reentry),
  passback: z.strictObject(passback),
  occupancy: z.strictObject(occupancy),
  ...served,
  /** The gates that serve each zone, by the policies of gates: a refusal names one of them to the guest. */
  zones_elsewhere: z.record(ZoneId, GateName),
});
export type Policy = z.infer<typeof Policy>;

const isOrdered = (window: { from?: string | null | undefined; until?: string | null | undefined }) =>
  !window.from || !window.until || window.from < window.until;
/** Makes each field optional, without building a second schema (deploy/lazy-zod.ts). */
const leftOut = <T extends Readonly<Record<string, z.ZodType>>>(fields: T) =>
  Object.fromEntries(Object.entries(fields).map(([key, field]) => [key, field.optional()])) as { [K in keyof T]: z.ZodOptional<T[K]> };
const overrides = {
  ...leftOut(plain),
  admission: z.strictObject(admission).partial().refine(isOrdered, 'from is not before until').optional(),
  entries: z.strictObject(entries).partial().optional(),
  reentry: z.strictObject(reentry).partial().optional(),
  passback: z.strictObject(passback).partial().optional(),
  occupancy: z.strictObject(occupancy).partial().optional(),
};
/** Some of the rules, for an event or one of its tiers. */
export const PolicyOverride = z.strictObject(overrides);
export type PolicyOverride = z.infer<typeof PolicyOverride>;
/** Some of the rules, and what the gate serves. */
export const GatePolicy = z.strictObject({ ...overrides, ...leftOut(served) });
export type GatePolicy = z.infer<typeof GatePolicy>;

/** An event's policies: for all, by tier, by gate (`site/gate`). A gate's value overrides a tier's, a tier's the event's. */
export const EventPolicies = z.strictObject({
  event: PolicyOverride.optional(),
  tiers: z.record(TierId, PolicyOverride).optional(),
  gates: z.record(GateName, GatePolicy).optional(),
});
export type EventPolicies = z.infer<typeof EventPolicies>;

/** Returns the rules of an event that need recorded exits, as text: its lanes need `exit: code`. Empty where there are none. */
export function needsExits({ event, tiers, gates }: EventPolicies): readonly string[] {
  const all = [event, ...Object.values(tiers ?? {}), ...Object.values(gates ?? {})].filter((one) => one !== undefined);
  const modes = ['soft', 'hard'].filter((mode) => all.some(({ passback }) => passback?.mode === mode));
  return [
    ...(all.some(({ reentry }) => reentry?.rule === 'after_exit') ? ['re-entry after_exit'] : []),
    ...modes.map((mode) => `passback ${mode}`),
    ...(all.some(({ occupancy }) => occupancy?.limit != null) ? ['an occupancy limit'] : []),
  ];
}

/** Returns a warning for an event that is made or assigned; null where none is needed or the policies cannot be read. */
export function exitsWarning(eventId: string, policies: unknown): string | null {
  const read = readPolicies(policies);
  const needs = read.ok ? needsExits(read.policies) : [];
  return needs.length === 0
    ? null
    : `event ${eventId} has ${needs.join(' and ')}, which need exits: set turnstile.exit to code at its lanes, with an outward reader, or nobody is ever seen to leave`;
}

/** LANE.md "Defaults of the policies". */
export const DEFAULT_POLICY: Policy = {
  duplicate_window_s: 10,
  schedule: null,
  expires_after_first_entry_s: null,
  vip_reentry: 'always',
  rules: null,
  unpaid: 'refuse',
  unapproved: 'refuse',
  unknown: 'ask',
  signed_unknown: 'admit_and_flag',
  manifest_stale: 'admit_and_flag',
  clock_untrusted: 'admit_and_flag',
  usage_lost: 'ask',
  unknown_passage: 'retry_here',
  ambiguous: 'choose',
  subevents: null,
  // Half a day: a ticket for tomorrow is not used today, and a gate that opens early does not refuse.
  admission: {
    opens_before_start_s: 43_200,
    closes_after_start_s: null,
    closes_after_end_s: 7_200,
    from: null,
    until: null,
    grace_before_s: 0,
    grace_after_s: 0,
  },
  entries: { total: null, per_day: null, per_gate: null, days: null },
  reentry: { rule: 'none', min_gap_s: 0, max: null, until: null, counts_as_entry: true },
  passback: { mode: 'off', forget_after_s: null },
  occupancy: { limit: null, mode: 'alert' },
  zones: null,
  tiers: null,
  zones_elsewhere: {},
};

/** Returns whether a list of zones or tiers contains this one. A part before a colon contains everything that begins with it. */
export function serves(list: readonly string[] | null, id: string): boolean {
  if (list === null || list.includes(id)) return true;
  for (let colon = id.indexOf(':'); colon > 0; colon = id.indexOf(':', colon + 1)) if (list.includes(id.slice(0, colon))) return true;
  return false;
}

export type PoliciesResult =
  | { readonly ok: true; readonly policies: EventPolicies }
  | { readonly ok: false /** One line a mistake, at most MAX_PROBLEMS: where, what. */; readonly problems: readonly string[] };
const MAX_PROBLEMS = 20;

/** Checks an event's policies and returns all errors at once, each with its key. Total. */
export function readPolicies(value: unknown): PoliciesResult {
  const result = EventPolicies.safeParse(value);
  if (result.success) return { ok: true, policies: result.data };
  const problems = result.error.issues.slice(0, MAX_PROBLEMS).map((issue) => `${['policies', ...issue.path.map(String)].join('.')}: ${describeIssue(issue)}`);
  return { ok: false, problems };
}

/**
 * Returns the rules of a tier at a gate: the defaults, then the values of event, tier and gate, key by key. `tier` is null where the ticket is
 * unknown. A tier `vip:balcony` takes the values of `vip`, then its own.
 */
export function effectivePolicy(policies: EventPolicies, tier: string | null, gate: string): Policy {
  const tiers = policies.tiers ?? {};
  const named = tier === null ? [] : [...Array.from(tier.matchAll(/:/g), (colon) => tier.slice(0, colon.index)), tier];
  const layers: readonly (GatePolicy | undefined)[] = [policies.event, ...named.map((name) => own(tiers, name)), own(policies.gates ?? {}, gate)];
  const policy = layers.reduce<Policy>((sum, layer) => (layer === undefined ? sum : merge(sum, layer)), DEFAULT_POLICY);
  return { ...policy, zones_elsewhere: zonesElsewhere(policies, gate) };
}

function zonesElsewhere(policies: EventPolicies, gate: string): Record<string, string> {
  const zones = new Map<string, string>();
  for (const [name, { zones: list }] of Object.entries(policies.gates ?? {}).sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (name !== gate) for (const zone of list ?? []) if (!zones.has(zone)) zones.set(zone, name);
  }
  return Object.fromEntries(zones);
}

/** Returns a gate that serves this zone, or a zone that contains it; null where none is known. */
export function gateForZone(policy: Policy, zone: string): string | null {
  for (let end = zone.length; end > 0; end = zone.lastIndexOf(':', end - 1)) {
    const gate = own(policy.zones_elsewhere, zone.slice(0, end));
    if (gate !== undefined) return gate;
  }
  return null;
}

const own = <T>(record: Readonly<Record<string, T>>, key: string): T | undefined => (Object.hasOwn(record, key) ? record[key] : undefined);

function merge(policy: Policy, layer: GatePolicy): Policy {
  const { admission, entries, reentry, passback, occupancy, ...rest } = layer;
  return {
    ...policy,
    ...rest,
    admission: { ...policy.admission, ...admission },
    entries: { ...policy.entries, ...entries },
    reentry: { ...policy.reentry, ...reentry },
    passback: { ...policy.passback, ...passback },
    occupancy: { ...policy.occupancy, ...occupancy },
  } as Policy;
}
