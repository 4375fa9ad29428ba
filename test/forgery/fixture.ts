/**
 * One gate's decider with a list that holds everything a forger could aim at: two live keys, one revoked, one that has ended, one of
 * small order; pretix's keys; tickets with opaque and with signed codes; revoked codes; another event with the same key that this
 * gate does not serve.
 */
import { createHash, sign } from 'node:crypto';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { signedText } from '../../contract/hash-chain.ts';
import type { PublicKey } from '../../contract/manifest.ts';
import { openDeciderEngine } from '../../daemon/decider/decider.ts';
import type { DeciderEngine } from '../../daemon/decider/engine.ts';
import { PLAIN_TICKET } from '../../daemon/decider/testing/store.ts';
import type { Stamp } from '../../daemon/store/ledger.ts';
import { buildManifestFile } from '../../manifest-format/testing/build.ts';
import type { Random } from '../../testkit/prng.ts';
import { type KeyPair, keyPairOf, pretixPayload, pretixText, signed, spkiOf, stileBytes, stileText } from './encoder.ts';

export const EVENT = 'cup-final';
export const OTHER_EVENT = 'cup-semifinal';
export const NOW_MS = Date.parse('2027-05-01T17:00:00.000Z');
export const NOW_S = NOW_MS / 1000;
const GATE = 'arena/north-03';
/** Days within which every code here is valid, unless it is meant to be late or early. */
const DAY_S = 86_400;

/** Who signs what. */
export const KEY_IDS = { ours: 'k2027', spare: 'k2028', revoked: 'k2025', ended: 'k2024', weak: 'k2023' } as const;
export type KeyName = keyof typeof KEY_IDS | 'pretix' | 'pretixSpare' | 'pretixRevoked' | 'manifest' | 'stranger';

export interface Fixture {
  readonly keys: Readonly<Record<KeyName, KeyPair>>;
  /** Codes in the list, each for one guest: opaque texts, and signed ones that are listed by their ticket id. */
  readonly listed: { readonly opaque: readonly string[]; readonly signed: readonly string[] };
  /** Ids of the tickets behind `listed.signed`. */
  readonly listedIds: readonly string[];
  /** Rightly signed, or listed, and revoked: as codes (the signed list of revoked ones), or blocked, cancelled, replaced in the list. */
  readonly revoked: readonly string[];
  /** A code as its issuer makes it: of our event, valid all day, of a ticket sold after the last sync. */
  fresh(medium: 'stile' | 'pretix', key?: KeyName): string;
  /** The same with anything changed, rightly signed by `key`. */
  stile(change: Partial<Parameters<typeof stileBytes>[0]>, key?: KeyName): string;
  pretix(change: { readonly from?: number; readonly until?: number; readonly version?: number }, key?: KeyName): string;
  readonly core: DeciderEngine;
  stamp(atMs: number): Stamp;
  close(): void;
}

/** `listed`: how many codes of each kind are in the list. In memory where the machine has a folder there: nothing here is about the disk. */
export async function openFixture(random: Random, listed: number): Promise<Fixture> {
  const names: readonly KeyName[] = ['ours', 'spare', 'revoked', 'ended', 'weak', 'pretix', 'pretixSpare', 'pretixRevoked', 'manifest', 'stranger'];
  const keys = Object.fromEntries(names.map((name) => [name, keyPairOf(random.bytes(32))])) as Record<KeyName, KeyPair>;
  const stile: Fixture['stile'] = (change, key = 'ours') => {
    const keyId = key in KEY_IDS ? KEY_IDS[key as keyof typeof KEY_IDS] : KEY_IDS.ours;
    const bytes = stileBytes({
      keyId,
      eventId: EVENT,
      ticketId: random.uuid(),
      tier: 'standard',
      zone: '',
      from: NOW_S - DAY_S,
      until: NOW_S + DAY_S,
      ...change,
    });
    return stileText(bytes, signed(bytes, keys[key]));
  };
  const pretix: Fixture['pretix'] = ({ version, ...change }, key = 'pretix') => {
    const payload = pretixPayload({
      seed: random.bytes(13 + random.below(6)).toString('base64'),
      item: 12,
      from: NOW_S - DAY_S,
      until: NOW_S + DAY_S,
      ...change,
    });
    return pretixText(payload, signed(payload, keys[key]), version);
  };
  const fresh: Fixture['fresh'] = (medium, key) => (medium === 'stile' ? stile({}, key) : pretix({}, key));

  const ids = Array.from({ length: listed }, () => random.uuid());
  const opaque = Array.from({ length: listed }, () => random.bytes(16).toString('hex').toUpperCase());
  const revokedIds = Array.from({ length: 50 }, () => random.uuid());
  const revokedPretix = Array.from({ length: 50 }, () => pretix({}));
  const bad = (['blocked', 'revoked', 'canceled', 'expired'] as const).flatMap((status) =>
    Array.from({ length: 20 }, () => ({ status, code: random.bytes(16).toString('hex').toUpperCase() })),
  );
  const salt = random.bytes(16);
  const refOf = (text: string) => createHash('sha256').update(salt).update(text, 'utf8').digest('hex').slice(0, 32);
  const key = (name: KeyName, use: PublicKey['use'], more: Partial<PublicKey> = {}): PublicKey => ({
    key_id: name in KEY_IDS ? KEY_IDS[name as keyof typeof KEY_IDS] : name,
    use,
    alg: 'Ed25519',
    spki: keys[name].spki,
    not_after: null,
    ...more,
  });
  const folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'stile-forgery-'));
  const file = join(folder, 'list.download');
  const at = (ms: number) => new Date(ms).toISOString();
  const ticket = (code: string, more: { ticket_id?: string; status?: 'valid' | 'blocked' | 'revoked' | 'canceled' | 'expired' } = {}) => ({
    ticket_id: `t-${refOf(code).slice(0, 12)}`,
    ticket_ref: refOf(code),
    ...PLAIN_TICKET,
    ...more,
  });
  const { sha256, size } = await buildManifestFile(file, {
    head: {
      schema: 1,
      event_id: EVENT,
      version: 1,
      generated_at: at(NOW_MS - 60_000),
      expires_at: at(NOW_MS + 7 * DAY_S * 1000),
      name: 'Cup final',
      starts_at: null,
      ends_at: null,
      time_zone: 'Europe/Berlin',
      salt: salt.toString('hex'),
      policies: { event: { signed_unknown: 'admit' } },
      keys: [
        key('ours', 'code'),
        key('spare', 'code', { not_after: at(NOW_MS + 30 * DAY_S * 1000) }),
        key('revoked', 'code', { revoked: true }),
        key('ended', 'code', { not_after: at(NOW_MS - DAY_S * 1000) }),
        key('weak', 'code', { spki: spkiOf(Buffer.concat([Buffer.of(1), Buffer.alloc(31)])) }),
        key('pretix', 'pretix'),
        key('pretixSpare', 'pretix'),
        key('pretixRevoked', 'pretix', { revoked: true }),
      ],
      revoked: { version: 3, refs: [...revokedIds, ...revokedPretix].map(refOf) },
      upto: {},
    },
    tickets: [
      ...opaque.map((code) => ticket(code)),
      ...ids.map((id) => ticket(id, { ticket_id: id })),
      ...bad.map(({ status, code }) => ticket(code, { status })),
    ],
  });
  const entry = { event_id: EVENT, version: 1, overlay_version: 1, sha256, size, url: '/m', key_id: 'm1' };
  const wanted = { ...entry, signature: sign(null, Buffer.from(signedText(entry)), keys.manifest.privateKey).toString('base64') };
  const stamp = (atMs: number): Stamp => ({
    boottimeMs: atMs,
    wallMs: NOW_MS + atMs,
    bootId: 'forgery',
    offset: { offsetMs: NOW_MS, boundMs: 1 },
    trusted: true,
  });
  const core = await openDeciderEngine(
    { path: join(folder, 'store'), gate: GATE, verifyKeys: [{ ...key('manifest', 'manifest'), key_id: 'm1' }], notice: () => undefined },
    stamp(0),
  );
  const installed = await core.installManifest(file, wanted, stamp(0));
  if (!installed.ok) throw new Error(`the list was not taken: ${installed.message}`);
  return {
    keys,
    listed: { opaque, signed: ids.map((ticketId) => stile({ ticketId })) },
    listedIds: ids,
    revoked: [...revokedIds.map((ticketId) => stile({ ticketId })), ...revokedPretix, ...bad.map(({ code }) => code)],
    fresh,
    stile,
    pretix,
    core,
    stamp,
    close() {
      core.close();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
