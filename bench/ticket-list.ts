/** A ticket list for benchmarks: as many tickets as wanted, their codes known by their number, signed and ready to be installed. */
import { createHash, randomBytes } from 'node:crypto';
import { join } from 'node:path';
import type { ManifestTicket, WantedManifest } from '../contract/manifest.ts';
import { createSigner, PLAIN_TICKET, type Signer } from '../daemon/decider/testing/store.ts';
import { buildManifestFile } from '../manifest-format/testing/build.ts';

export const EVENT = 'bench';
/** The list is good for so long from now, ms. */
const GOOD_FOR_MS = 86_400_000;

/** The code of the ticket with this number. */
export const codeOf = (index: number): string => createHash('sha256').update(`bench ${index}`).digest('hex').slice(0, 32).toUpperCase();

export interface TicketList {
  readonly file: string;
  readonly wanted: WantedManifest;
  readonly bytes: number;
  readonly signer: Signer;
}

/** Builds the file in the folder. `nowMs`: when it is made, by the clock of the gate that shall use it. */
export async function makeTicketList(folder: string, count: number, nowMs: number): Promise<TicketList> {
  const salt = randomBytes(16);
  const signer = createSigner();
  const file = join(folder, `list-${count}.sqlite`);
  const { sha256, size } = await buildManifestFile(file, {
    head: {
      schema: 1,
      event_id: EVENT,
      version: 1,
      generated_at: new Date(nowMs).toISOString(),
      expires_at: new Date(nowMs + GOOD_FOR_MS).toISOString(),
      name: 'Bench',
      starts_at: null,
      ends_at: null,
      time_zone: 'UTC',
      salt: salt.toString('hex'),
      policies: {},
      keys: [],
      revoked: { version: 0, refs: [] },
      upto: {},
    },
    tickets: tickets(count, salt),
    usage: [],
  });
  const wanted = signer.sign({ event_id: EVENT, version: 1, overlay_version: 1, sha256, size, url: '/m', key_id: signer.publicKey.key_id });
  return { file, wanted, bytes: size, signer };
}

/** Ids are UUIDs, as the file packs them best. */
function* tickets(count: number, salt: Buffer): Generator<ManifestTicket> {
  for (let index = 0; index < count; index++) {
    const id = createHash('md5').update(String(index)).digest('hex');
    yield {
      ticket_id: [id.slice(0, 8), id.slice(8, 12), id.slice(12, 16), id.slice(16, 20), id.slice(20)].join('-'),
      ticket_ref: createHash('sha256').update(salt).update(codeOf(index)).digest('hex').slice(0, 32),
      ...PLAIN_TICKET,
    };
  }
}
