/**
 * What every simulated history has in common: one event, its tickets, keys, policies; and stores of gates that hold its manifest, made
 * once for each policy and copied for each history.
 */
import { copyFileSync, linkSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { LedgerVector } from '../../contract/ids.ts';
import type { ManifestTicket, UsageEntry, WantedManifest, WantMessage } from '../../contract/manifest.ts';
import { openDeciderEngine } from '../../daemon/decider/decider.ts';
import { BOOT_WALL_MS, createSigner, EVENT, makeManifest, refOf, SALT, type Signer, ticket } from '../../daemon/decider/testing/store.ts';
import type { EventPolicies } from '../../rules/policy.ts';

export { EVENT, refOf, SALT };
export const SITE = 'arena';
export const GATES: readonly string[] = ['arena/north-01', 'arena/north-02', 'arena/south-01'];
/** True Unix ms at the world's time 0. */
export const BASE_MS = BOOT_WALL_MS;

/** Histories that one fleet lives through, one after another; each with tickets of its own. */
export const HISTORIES_A_FLEET = 12;
export const TICKETS_A_HISTORY = 6;

/** What a policy says, for the event alone. */
export const POLICIES: readonly (EventPolicies & { readonly event: object })[] = [
  { event: {} },
  { event: { reentry: { rule: 'after_exit', counts_as_entry: false, max: 2 }, duplicate_window_s: 1 } },
  { event: { reentry: { rule: 'always', min_gap_s: 2 }, entries: { total: 3 }, duplicate_window_s: 1 } },
  { event: { reentry: { rule: 'always' }, passback: { mode: 'hard' }, entries: { per_gate: 2 }, duplicate_window_s: 0 } },
];

export const codeOf = (ticketNumber: number): string => `SIM-${String(ticketNumber).padStart(4, '0')}-7F3K9Q2M5X8Z1B4V6N0C`;

/** The ticket of this number: the third of each history is a party of three, the fourth a VIP pass, the fifth may enter twice, the sixth is sold later. */
export function ticketOf(number: number): ManifestTicket {
  const kind = number % TICKETS_A_HISTORY;
  return {
    ...ticket(codeOf(number)),
    ticket_id: `T-${number}`,
    units: kind === 2 ? 3 : 1,
    vip: kind === 3,
    max_scans: kind === 4 ? 2 : null,
  };
}
export const isSoldLater = (number: number): boolean => number % TICKETS_A_HISTORY === TICKETS_A_HISTORY - 1;
const firstTickets = (): ManifestTicket[] =>
  Array.from({ length: HISTORIES_A_FLEET * TICKETS_A_HISTORY }, (_, number) => number)
    .filter((number) => !isSoldLater(number))
    .map(ticketOf);

export interface Fixture {
  readonly folder: string;
  readonly signer: Signer;
  /** Nobody believes this one. */
  readonly stranger: Signer;
  /** The first manifest of a policy, as the cloud has it. */
  firstManifest(policy: number): Promise<{ readonly file: string; readonly wanted: WantedManifest }>;
  /** A store of this gate that holds it: a folder of its own. */
  store(gate: string, policy: number): Promise<string>;
  folderFor(name: string): string;
  manifest(
    policy: number,
    version: number,
    tickets: Iterable<ManifestTicket>,
    upto: LedgerVector,
    usage: readonly UsageEntry[],
  ): ReturnType<typeof makeManifest>;
  want(gate: string, wanted: WantedManifest, atMs: number): Uint8Array;
  close(): void;
}

/** In memory where the machine has a file system there: what survives a power cut is decided by the simulation, not by the disk. */
export function openFixture(): Fixture {
  const folder = mkdtempSync(join(hasMemory() ? '/dev/shm' : tmpdir(), 'stile-sim-'));
  const signer = createSigner('k1');
  const stranger = createSigner('k9');
  const manifests = new Map<number, Promise<{ readonly file: string; readonly wanted: WantedManifest }>>();
  const stores = new Map<string, Promise<string>>();
  let made = 0;

  const manifest: Fixture['manifest'] = (policy, version, tickets, upto, usage) =>
    makeManifest(folder, signer, { version, tickets, upto, usage, policies: POLICIES[policy] as Record<string, unknown> });
  const firstManifest: Fixture['firstManifest'] = (policy) => {
    const known = manifests.get(policy) ?? manifest(policy, 1, firstTickets(), {}, []);
    manifests.set(policy, known);
    return known;
  };
  const template = async (gate: string, policy: number): Promise<string> => {
    const path = join(folder, `template-${gate.replace('/', '-')}-${policy}`);
    const stamp = { boottimeMs: 0, wallMs: BASE_MS - 3_600_000, bootId: 'made', offset: null, trusted: true };
    const core = await openDeciderEngine({ path, gate, verifyKeys: [signer.publicKey], release: 'sim', notice: () => {} }, stamp);
    const { file, wanted } = await firstManifest(policy);
    const installed = await core.installManifest(file, wanted, stamp);
    core.close();
    if (!installed.ok) throw new Error(installed.message);
    return path;
  };
  const folderFor = (name: string): string => join(folder, `${name.replace('/', '-')}-${made++}`);
  return {
    folder,
    signer,
    stranger,
    firstManifest,
    manifest,
    folderFor,
    async store(gate, policy) {
      const key = `${gate} ${policy}`;
      const from = stores.get(key) ?? template(gate, policy);
      stores.set(key, from);
      const path = folderFor(gate);
      copyStore(await from, path);
      return path;
    },
    want(gate, wanted, atMs) {
      const want: WantMessage = { schema: 1, gate, issued_at: new Date(BASE_MS + atMs).toISOString(), key_id: signer.publicKey.key_id, events: [wanted] };
      return Buffer.from(JSON.stringify(signer.sign(want as unknown as Record<string, unknown>)));
    },
    close: () => rmSync(folder, { recursive: true, force: true }),
  };
}

function hasMemory(): boolean {
  try {
    return statSync('/dev/shm').isDirectory();
  } catch {
    return false;
  }
}

/** A store's files as they are now, without what belongs to the running process. Immutable ones are linked. */
export function copyStore(from: string, to: string): void {
  mkdirSync(to, { recursive: true });
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    const { name } = entry;
    if (name.startsWith('lock.sqlite') || name.endsWith('-shm')) continue;
    if (entry.isFile()) copyFileSync(join(from, name), join(to, name));
    else if (name === 'manifests') linkTree(join(from, name), join(to, name));
  }
}

function linkTree(from: string, to: string): void {
  mkdirSync(to, { recursive: true });
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    if (entry.isDirectory()) linkTree(join(from, entry.name), join(to, entry.name));
    else if (!entry.name.endsWith('.part')) linkSync(join(from, entry.name), join(to, entry.name));
  }
}
