/** Rows that left their gates, as any other gate may have heard of them. */
import type { Row } from './counts.ts';

/** Rows that left their gate, by ticket: what any other gate may have heard. */
export interface Registry {
  add(row: Row): void;
  ofTicket(ticketRef: string): Iterable<Row>;
  /** Some gate has granted it, told anybody or not. */
  use(ticketRef: string): void;
  isUsed(ticketRef: string): boolean;
}
export function createRegistry(): Registry {
  const byTicket = new Map<string, Map<string, Row>>();
  const used = new Set<string>();
  return {
    add(row) {
      const ref = row.entry['ticket_ref'];
      if (typeof ref !== 'string') return;
      const rows = byTicket.get(ref) ?? new Map<string, Row>();
      byTicket.set(ref, rows);
      rows.set(`${row.gate} ${row.epoch} ${row.seq} ${row.hash}`, row);
    },
    ofTicket: (ref) => byTicket.get(ref)?.values() ?? [],
    use: (ref) => void used.add(ref),
    isUsed: (ref) => used.has(ref),
  };
}
