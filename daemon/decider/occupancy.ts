/**
 * People inside, per event with an occupancy rule: the sum over its tickets of who is inside, as the rules count it.
 *
 * Each row changes one ticket, so the sum moves by what that ticket was before and is after: a few reads a decision, whatever the
 * size of the event. Because a ticket's usage is a function of the rows that are known, the sum does not depend on their order.
 * Where the ground changes (start, another manifest file) it is counted again in steps between calls; what was counted before
 * stands until then. Overrides and free passages are nobody's ticket: they are terms of their own and not in this number.
 */
import { vectorOf } from '../../contract/references.ts';
import { type EventPolicies, readPolicies } from '../../rules/policy.ts';
import { usageOf } from '../../rules/visits.ts';
import type { EventManifest, Manifests } from '../store/manifest-store.ts';
import { countEntries } from '../store/usage-merge.ts';
import type { UsageStore } from '../store/usage-store.ts';

/** Tickets counted in one step between calls: a decision waits for no more than that. */
export const COUNT_STEP_TICKETS = 200;
/** Tickets counted before the first decision; with more, the number grows to the whole within the first quiet moments. */
export const COUNT_AT_OPEN_TICKETS = 20_000;

type Entry = Readonly<Record<string, unknown>>;

export interface Occupancy {
  /** null: no occupancy rule is in force. While a first count is under way: those counted so far. */
  inside(event: EventManifest): number | null;
  /** Takes rows in by `apply`, and counts what they change. Throws only what `apply` throws. */
  taking<T>(ledger: string, epoch: number, entries: readonly Entry[], apply: () => T): T;
  /** Counts up to `tickets` more; false: everything is counted. Throws StoreError. */
  step(tickets: number): boolean;
}

interface Count {
  readonly event: EventManifest;
  /** null: never counted to the end. */
  whole: number | null;
  /** A count under way: tickets up to `upto` (ref in hex) are in `sum`; null: none. */
  again: { upto: string; sum: number } | null;
}

export function createOccupancy(options: { readonly gate: string; readonly manifests: Manifests; readonly usage: UsageStore }): Occupancy {
  const { manifests, usage } = options;
  const counts = new Map<string, Count>();
  /** Files without a rule for this gate. */
  const without = new WeakSet<EventManifest['file']>();

  /** Takes notice of the events and files that are in force now. */
  const look = (): void => {
    const events = manifests.current();
    if (counts.size > 0) for (const id of counts.keys()) if (!events.some(({ eventId }) => eventId === id)) counts.delete(id);
    for (const event of events) {
      if (without.has(event.file)) continue;
      const known = counts.get(event.eventId);
      if (known?.event.file === event.file) continue;
      if (hasLimit(event.file, options.gate)) counts.set(event.eventId, { event, whole: known?.whole ?? null, again: { upto: '', sum: 0 } });
      else {
        without.add(event.file);
        counts.delete(event.eventId);
      }
    }
  };

  const insideOf = ({ event }: Count, ref: string): number => {
    const states = usage.ofTicket(ref).filter((state) => state.eventId === event.eventId);
    const counted = event.file.usageOf(Buffer.from(ref, 'hex'));
    if (states.length === 0 && counted.length === 0) return 0;
    return usageOf(countEntries(usage.proven(vectorOf(event.file.head.upto)), counted, states), 1).inside;
  };
  const checksums = (refs: ReadonlySet<string>): number[] => [...counts.values()].flatMap((count) => [...refs].map((ref) => insideOf(count, ref)));
  const recount = (): void => {
    for (const count of counts.values()) count.again = { upto: '', sum: 0 };
  };

  /** Returns the next refs of one count, in order. */
  const nextRefs = (count: Count, after: string, limit: number): readonly string[] => {
    const from = Buffer.from(after, 'hex');
    const refs = new Set([...count.event.file.usedRefs(from, limit), ...usage.refs(from, limit)]);
    return [...refs].sort().slice(0, limit);
  };

  return {
    inside(event) {
      look();
      const count = counts.get(event.eventId);
      return count === undefined ? null : (count.whole ?? count.again?.sum ?? 0);
    },
    taking(ledger, epoch, entries, apply) {
      look();
      if (counts.size === 0) return apply();
      let refs: Set<string>;
      let before: readonly number[];
      try {
        refs = new Set(entries.flatMap((entry) => usage.ticketOf(ledger, epoch, entry) ?? []));
        before = checksums(refs);
      } catch {
        // What cannot be read now is found out by whoever needs it; the number is made anew.
        const result = apply();
        recount();
        return result;
      }
      const result = apply();
      try {
        const after = checksums(refs);
        let at = 0;
        for (const count of counts.values()) {
          for (const ref of refs) {
            const change = (after[at] as number) - (before[at] as number);
            if (count.whole !== null) count.whole += change;
            if (count.again !== null && ref <= count.again.upto) count.again.sum += change;
            at++;
          }
        }
      } catch {
        recount();
      }
      return result;
    },
    step(tickets) {
      look();
      for (const count of counts.values()) {
        const { again } = count;
        if (again === null) continue;
        // What is held in memory has no order yet.
        usage.flush();
        const refs = nextRefs(count, again.upto, tickets);
        for (const ref of refs) again.sum += insideOf(count, ref);
        again.upto = refs.at(-1) ?? again.upto;
        if (refs.length < tickets) {
          count.whole = again.sum;
          count.again = null;
        }
        return true;
      }
      return false;
    },
  };
}

/** Returns an event's policies; null: these rules cannot read them. Those of a head that was checked before are what they were then. */
export function policiesOf(file: EventManifest['file']): EventPolicies | null {
  if (file.headChecked === 'known') return file.head.policies as EventPolicies;
  const read = readPolicies(file.head.policies);
  return read.ok ? read.policies : null;
}

/** Tells whether there is a limit that could be judged at this gate. */
function hasLimit(file: EventManifest['file'], gate: string): boolean {
  const { event, tiers, gates } = policiesOf(file) ?? {};
  const limits = [event, ...Object.values(tiers ?? {}), Object.hasOwn(gates ?? {}, gate) ? gates?.[gate] : undefined];
  return limits.some((one) => one?.occupancy?.limit != null);
}
