/** Builds a whole manifest file in one call, for tests, benches and the demo; written by the writer that the cloud uses. */
import { closeSync, fsyncSync, openSync, rmSync } from 'node:fs';
import type { ManifestHead, ManifestTicket, UsageEntry } from '../../contract/manifest.ts';
import { createManifestFile } from '../writer.ts';

export interface BuiltManifest {
  readonly sha256: string;
  readonly size: number;
  readonly ticketCount: number;
}

/** `ticket_count` of the head is filled in from the tickets. */
export interface ManifestContent {
  readonly head: Omit<ManifestHead, 'ticket_count'>;
  readonly tickets: Iterable<ManifestTicket>;
  readonly usage?: Iterable<UsageEntry>;
}

/** Builds the file at `path`, replacing what is there; synced when it returns. Tickets may come in any order; the file is packed by key. */
export async function buildManifestFile(path: string, { head, tickets, usage = [] }: ManifestContent): Promise<BuiltManifest> {
  rmSync(path, { force: true });
  const sorted = [...tickets].sort((a, b) => (a.ticket_ref < b.ticket_ref ? -1 : 1));
  const file = createManifestFile(path);
  file.addTickets(sorted);
  file.addUsage([...usage]);
  const { sha256, sizeBytes } = await file.finish({ ...head, ticket_count: sorted.length } as ManifestHead);
  const handle = openSync(path, 'r+');
  try {
    fsyncSync(handle);
  } finally {
    closeSync(handle);
  }
  return { sha256, size: sizeBytes, ticketCount: sorted.length };
}
