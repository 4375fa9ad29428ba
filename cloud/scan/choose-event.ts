/** Chooses the event of a scan that names none, among those of its scanner, by the rule of the gates. */
import type { Direction } from '../../contract/ids.ts';
import { type Candidate, chooseEvent } from '../../rules/choose.ts';
import { effectivePolicy, readPolicies } from '../../rules/policy.ts';
import type { DatabaseClient } from '../db/database.ts';
import { type ScanEvent, type ScanSources, type Seen, scanFacts } from './facts.ts';

/** Events of one scanner that are considered, as many as a gate holds; further ones are ignored. */
const MAX_EVENTS = 64;

export interface ChosenEvent {
  readonly event: ScanEvent;
  /** Other events would have admitted the code as well; `ambiguous`: several would, and a policy refuses to choose. */
  readonly several: 'chosen' | 'ambiguous' | null;
}

/** Returns null where the scanner has no event. A repeated scan stays with its event. */
export async function chooseScanEvent(
  client: DatabaseClient,
  sources: ScanSources,
  scan: {
    readonly device: string;
    readonly scanId: string;
    readonly seen: Seen;
    readonly direction: Direction;
    readonly nowMs: number;
    readonly units?: number | undefined;
  },
): Promise<ChosenEvent | null> {
  const before = await client.query<{ event_id: string }>(
    'SELECT event_id FROM device_scans WHERE tenant_id = current_tenant_id() AND device = $1 AND scan_key = $2 AND event_id IS NOT NULL',
    [scan.device, `id ${scan.scanId}`],
  );
  const assigned = await client.query<{ event_id: string }>('SELECT event_id FROM gate_assignments WHERE gate = $1 ORDER BY event_id LIMIT $2', [
    scan.device,
    MAX_EVENTS,
  ]);
  const events: ScanEvent[] = [];
  for (const { event_id } of before.rows.length > 0 ? before.rows : assigned.rows) {
    const event = await sources.rights.event(client, event_id);
    if (event !== null) events.push(event);
  }
  const [first] = events;
  if (first === undefined) return null;
  if (events.length === 1) return { event: first, several: null };
  const found: Candidate[] = [];
  let place: Parameters<typeof chooseEvent>[1] | null = null;
  for (const event of events) {
    const gathered = await scanFacts(client, sources, event, scan);
    place ??= gathered.place;
    const read = readPolicies(gathered.policies);
    if (gathered.facts.kind === 'ticket' && read.ok)
      found.push({ facts: gathered.facts, policy: effectivePolicy(read.policies, gathered.facts.ticket.tier, scan.device) });
  }
  // A ticket in the list precedes one that only a signature proves.
  const held = found.filter(({ facts }) => facts.ticket.source !== 'signature');
  const chosen = place === null ? null : chooseEvent(held.length > 0 ? held : found, place);
  if (chosen === null) return { event: first, several: null };
  if (chosen === 'ambiguous') return { event: first, several: 'ambiguous' };
  const event = events.find(({ eventId }) => eventId === chosen.facts.event.eventId) ?? first;
  return { event, several: chosen.facts.chosenOfSeveral === true ? 'chosen' : null };
}
