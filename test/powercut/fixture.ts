/** The venue of the power cuts: fixed keys and codes, so that the process that is recorded and the one that checks agree. */
import { createHash, createPrivateKey, createPublicKey, sign } from 'node:crypto';
import { signedText } from '../../contract/hash-chain.ts';
import type { UsageEntry } from '../../contract/manifest.ts';
import { BOOT_WALL_MS, GATE, refOf, type Signer, ticket } from '../../daemon/decider/testing/store.ts';
import type { Stamp, StoredEntry } from '../../daemon/store/ledger.ts';
import type { Truth } from './expected.ts';

/** Tickets of the event: few, so that a store is small. */
export const TICKETS = 96;

/** Ed25519 in PKCS #8, before its 32 bytes. */
const PKCS8 = Buffer.from('302e020100300506032b657004220420', 'hex');
const privateKey = createPrivateKey({ key: Buffer.concat([PKCS8, Buffer.alloc(32, 7)]), format: 'der', type: 'pkcs8' });

export const signer: Signer = {
  privateKey,
  publicKey: {
    key_id: 'k1',
    use: 'manifest',
    alg: 'Ed25519',
    spki: createPublicKey(privateKey).export({ format: 'der', type: 'spki' }).toString('base64'),
    not_after: null,
  },
  sign: (payload) => ({ ...payload, signature: sign(null, Buffer.from(signedText(payload)), privateKey).toString('base64') }),
};

export const codeOf = (n: number): string => createHash('sha256').update(`power cut ${n}`).digest('hex').slice(0, 32).toUpperCase();
/** Good for years: no cut and no flip is hidden behind an admission window. */
export const ticketOf = (n: number) => ticket(codeOf(n), { valid_from: '2020-01-01T00:00:00.000Z', valid_until: '2040-01-01T00:00:00.000Z' });
/** Tickets from here on are shown at the peer. */
export const FIRST_OF_PEER = 72;
const numbers = new Map(Array.from({ length: TICKETS }, (_, n) => [ticketOf(n).ticket_id, n]));
/** The number of a ticket by its id. */
export const numberOf = (ticketId: unknown): number | undefined => numbers.get(String(ticketId));

/** The clock of every life: it only rises. */
export const timestampNow = (atMs: number, bootId: string): Stamp => ({
  boottimeMs: atMs,
  wallMs: BOOT_WALL_MS + atMs,
  bootId,
  offset: { offsetMs: BOOT_WALL_MS, boundMs: 5 },
  trusted: true,
});

/** Usage as a manifest tells it that counts the gate's rows up to here: the grants among them that were not returned by then. */
export function usageUpTo(truth: Truth, epoch: number, seq: number): UsageEntry[] {
  const counted = (e: number, s: number): boolean => e < epoch || (e === epoch && s <= seq);
  const outcomes = new Map<string, string>();
  const grants: { epoch: number; entry: StoredEntry }[] = [];
  for (const [key, entry] of truth.rows) {
    const e = Number(key.split('/')[0]);
    if (entry === null || !counted(e, entry.seq)) continue;
    if (entry.kind === 'grant') grants.push({ epoch: e, entry });
    const of = entry['of'] as readonly [number, number] | undefined;
    if (entry.kind === 'passage' && of !== undefined) outcomes.set(`${of[0]}/${of[1]}`, String(entry['outcome']));
  }
  return grants.flatMap(({ epoch: e, entry }): UsageEntry[] => {
    const outcome = outcomes.get(`${e}/${entry.seq}`) ?? 'open';
    if (outcome === 'returned') return [];
    return [
      {
        ticket_ref: refOf(codeOf(numberOf(entry['ticket_id']) ?? 0)),
        gate: GATE,
        epoch: e,
        seq: entry.seq,
        at: String(entry['ts']),
        direction: 'in',
        units: 1,
        outcome: outcome as UsageEntry['outcome'],
      },
    ];
  });
}
