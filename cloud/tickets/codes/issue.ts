/**
 * Issues new tickets with new codes: opaque (random) or signed. The caller gets the codes once, inside the transaction; the cloud stores of an
 * opaque one its hash, of a signed one its ticket id.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { encodeSigned } from '../../../rules/stile-code.ts';
import type { DatabaseClient } from '../../db/database.ts';
import type { TicketFields } from '../ticket-fields.ts';
import { lockEvent, notifyGates, writeTickets } from '../write-tickets.ts';

/** Codes of one call; more are refused. */
export const MAX_ISSUED = 100_000;
/** Tickets written at once. */
const BATCH_TICKETS = 5_000;
/** RFC 4648's base32: within the QR alphanumeric alphabet, without 0, 1 and 8. */
const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';
/** 26 characters of 5 bits: 130 random bits. */
const CODE_CHARS = 26;

export interface IssueOptions {
  readonly count: number;
  readonly tier: string;
  readonly zone?: string | null;
  readonly units?: number;
  readonly maxScans?: number | null;
  readonly vip?: boolean;
  /** ISO times; signed codes hold whole seconds. */
  readonly validFrom?: string | null;
  readonly validUntil?: string | null;
  /** Absent: opaque codes. */
  readonly signer?: { readonly keyId: string; sign(bytes: Uint8Array): Uint8Array };
}

export interface IssuedCode {
  readonly ticketId: string;
  readonly code: string;
}

/**
 * Issues codes in the caller's transaction. Returns null for an unknown event. Throws a RangeError for a count out of bounds, and ZodError for
 * values that a signed code cannot hold.
 */
export async function issueCodes(client: DatabaseClient, tenantId: string, eventId: string, options: IssueOptions): Promise<IssuedCode[] | null> {
  const { count, signer } = options;
  if (!Number.isInteger(count) || count < 1 || count > MAX_ISSUED) throw new RangeError(`1 to ${MAX_ISSUED} codes at once, not ${count}`);
  const rights = {
    tier: options.tier,
    zone: options.zone ?? null,
    units: options.units ?? 1,
    max_scans: options.maxScans ?? null,
    vip: options.vip ?? false,
    valid_from: options.validFrom ?? null,
    valid_until: options.validUntil ?? null,
  };
  const issued: IssuedCode[] = [];
  for (let done = 0; done < count; done += BATCH_TICKETS) {
    const event = await lockEvent(client, eventId);
    if (event === null) return null;
    const batch = Array.from({ length: Math.min(BATCH_TICKETS, count - done) }, () => {
      const ticketId = randomUUID();
      return { ticketId, code: signer === undefined ? randomCode() : signedCode(signer, eventId, ticketId, rights) };
    });
    const tickets = batch.map(({ ticketId, code }): TicketFields => ({ ticket_id: ticketId, code, status: 'sold', ...rights }));
    const { created, problems } = await writeTickets(client, tenantId, event, tickets);
    if (created !== batch.length) throw new Error(`tickets could not be written: ${[...problems.values()][0]?.what ?? 'they were there already'}`);
    issued.push(...batch);
  }
  await notifyGates(client, tenantId, eventId, false);
  return issued;
}

/** Draws a code. 32 divides 256: every character is equally likely. */
const randomCode = (): string => Array.from(randomBytes(CODE_CHARS), (byte) => ALPHABET[byte % ALPHABET.length]).join('');

function signedCode(
  signer: NonNullable<IssueOptions['signer']>,
  eventId: string,
  ticketId: string,
  rights: { readonly tier: string; readonly zone: string | null; readonly valid_from: string | null; readonly valid_until: string | null },
): string {
  const time = (text: string | null) => (text === null ? null : Date.parse(text));
  const { bytes, assemble } = encodeSigned({
    keyId: signer.keyId,
    eventId,
    ticketId,
    tier: rights.tier,
    zone: rights.zone,
    validFromMs: time(rights.valid_from),
    validUntilMs: time(rights.valid_until),
  });
  return assemble(signer.sign(bytes));
}
