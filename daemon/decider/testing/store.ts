/** For the decider's tests: a store in a folder of its own, signed manifests, and a clock that is set by hand. */
import { generateKeyPairSync, type KeyObject, randomBytes, sign } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { signedText } from '../../../contract/hash-chain.ts';
import type { LedgerVector } from '../../../contract/ids.ts';
import type { ManifestTicket, PublicKey, TicketChange, UsageEntry, WantedManifest } from '../../../contract/manifest.ts';
import { buildManifestFile } from '../../../manifest-format/testing/build.ts';
import type { PeerMessage, Presentation } from '../../ports.ts';
import type { Stamp } from '../../store/ledger.ts';
import { ticketRefOf } from '../resolve-ticket.ts';

export const EVENT = 'concert';
export const GATE = 'arena/north-01';
export const PEER = 'arena/north-02';
export const SALT = '00112233445566778899aabbccddeeff';
/** The clock's wall time at boot time 0. */
export const BOOT_WALL_MS = Date.parse('2026-06-01T18:00:00.000Z');

export interface Signer {
  readonly publicKey: PublicKey;
  readonly sign: <T extends Record<string, unknown>>(payload: T) => T & { readonly signature: string };
  readonly privateKey: KeyObject;
}

export function createSigner(keyId = 'k1', use: PublicKey['use'] = 'manifest'): Signer {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519');
  return {
    privateKey,
    publicKey: { key_id: keyId, use, alg: 'Ed25519', spki: publicKey.export({ format: 'der', type: 'spki' }).toString('base64'), not_after: null },
    sign: (payload) => ({ ...payload, signature: sign(null, Buffer.from(signedText(payload)), privateKey).toString('base64') }),
  };
}

/** A folder that is removed after the test. On the disk of the temporary folder, not in memory, where that is a disk. */
export function storeFolder(prefix = 'stile-decider-'): { readonly path: string; readonly remove: () => void } {
  const path = mkdtempSync(join(tmpdir(), prefix));
  return {
    path,
    remove: () => {
      rmSync(path, { recursive: true, force: true });
    },
  };
}

export const refOf = (code: string, salt = SALT): string => ticketRefOf(Buffer.from(salt, 'hex'), code).toString('hex');
export const newCode = (): string => randomBytes(16).toString('hex').toUpperCase();

/** What a ticket says where nothing is special about it. */
export const PLAIN_TICKET = {
  tier: 'standard',
  zone: null,
  status: 'valid',
  max_scans: null,
  units: 1,
  valid_from: null,
  valid_until: null,
  vip: false,
  note: null,
} as const satisfies Omit<ManifestTicket, 'ticket_id' | 'ticket_ref'>;

export function ticket(code: string, change: Partial<ManifestTicket> = {}): ManifestTicket {
  return { ticket_id: `t-${refOf(code).slice(0, 12)}`, ticket_ref: refOf(code), ...PLAIN_TICKET, ...change };
}

export interface ManifestSpec {
  readonly version: number;
  readonly tickets: Iterable<ManifestTicket>;
  readonly eventId?: string;
  readonly upto?: LedgerVector;
  readonly usage?: readonly UsageEntry[];
  readonly policies?: Record<string, unknown>;
  readonly keys?: readonly PublicKey[];
  readonly overlayVersion?: number;
  readonly salt?: string;
  /** When the event begins, Unix ms; it lasts six hours. Default: the clock's wall time at boot. */
  readonly beginsMs?: number;
  /** No end is given. */
  readonly endless?: boolean;
}

/** Builds the file and signs its wanted entry. */
export async function makeManifest(folder: string, signer: Signer, spec: ManifestSpec): Promise<{ readonly file: string; readonly wanted: WantedManifest }> {
  const eventId = spec.eventId ?? EVENT;
  const beginsMs = spec.beginsMs ?? BOOT_WALL_MS;
  const file = join(folder, `${eventId}-${spec.version}-${randomBytes(4).toString('hex')}.download`);
  const { sha256, size } = await buildManifestFile(file, {
    head: {
      schema: 1,
      event_id: eventId,
      version: spec.version,
      generated_at: new Date(beginsMs).toISOString(),
      expires_at: new Date(beginsMs + 86_400_000).toISOString(),
      name: 'Concert',
      starts_at: new Date(beginsMs).toISOString(),
      ends_at: spec.endless === true ? null : new Date(beginsMs + 6 * 3_600_000).toISOString(),
      time_zone: 'Europe/Berlin',
      salt: spec.salt ?? SALT,
      policies: spec.policies ?? {},
      keys: [...(spec.keys ?? [])],
      revoked: { version: 0, refs: [] },
      upto: spec.upto ?? {},
    },
    tickets: spec.tickets,
    usage: spec.usage ?? [],
  });
  const wanted = signer.sign({
    event_id: eventId,
    version: spec.version,
    overlay_version: spec.overlayVersion ?? spec.version,
    sha256,
    size,
    url: '/m',
    key_id: signer.publicKey.key_id,
  });
  return { file, wanted };
}

export function makeOverlay(signer: Signer, from: number, to: number, tickets: readonly TicketChange[], eventId = EVENT): Uint8Array {
  return Buffer.from(
    JSON.stringify(signer.sign({ schema: 1, event_id: eventId, from_version: from, to_version: to, tickets, key_id: signer.publicKey.key_id })),
  );
}

/** `boottimeMs` after boot, with the offset known. */
export function stampAt(boottimeMs: number, change: Partial<Stamp> = {}): Stamp {
  return {
    boottimeMs,
    wallMs: BOOT_WALL_MS + boottimeMs,
    bootId: '6f1f0c1e-0000-4000-8000-000000000001',
    offset: { offsetMs: BOOT_WALL_MS, boundMs: 5 },
    trusted: true,
    ...change,
  };
}

export function show(code: string, atMs: number, change: Partial<Presentation> = {}): Presentation {
  return { bytes: Buffer.from(code), direction: 'in', reader: 'in', mode: 'controlled', atMs, lastByteMs: atMs, online: false, ...change };
}

/** A ledger message as a peer sends it. Hashes are not checked by a gate: they are the cloud's to judge. */
export function peerMessage(gate: string, epoch: number, entries: readonly Record<string, unknown>[]): PeerMessage {
  const payload = Buffer.from(
    JSON.stringify({
      schema: 1,
      gate,
      epoch,
      entries: entries.map((entry) => ({ hash: '0'.repeat(64), ts: new Date(BOOT_WALL_MS).toISOString(), boot_id: 'peer', boottime_ms: 0, ...entry })),
    }),
  );
  return { ledger: gate, payload };
}
