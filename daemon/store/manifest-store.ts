/**
 * The events that this gate holds: which file of each is in force, the changes since, and how both are replaced.
 *
 * A file is copied beside the old one, checked, synced and renamed; then one row in the ledger's database switches to it. The
 * last good one stays until the next switch. Nothing unsigned replaces anything, and no version goes back.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { open as openFile, rename } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { type LedgerVector, Timestamp } from '../../contract/ids.ts';
import { MAX_PAYLOAD_BYTES } from '../../contract/limits.ts';
import { type ManifestHead, OverlayMessage, type PublicKey, WantedManifest, WantMessage } from '../../contract/manifest.ts';
import { parsePayload } from '../../contract/parse.ts';
import { vectorOf } from '../../contract/references.ts';
import { describeIssue } from '../../contract/schema-errors.ts';
import { cutText } from '../../contract/text.ts';
import type { ManifestResult } from '../ports.ts';
import { syncFolder } from './durable-state.ts';
import { checkAtOnce, createFileCheck, type FileCheck } from './file-hash.ts';
import type { Ledger } from './ledger.ts';
import { copyHashed, hashFile, MAX_MANIFEST_BYTES, type ManifestFile, openManifestFile } from './manifest-file.ts';
import { createOverlays, MAX_OVERLAY_ROWS, type Overlays } from './manifest-overlay.ts';
import { quarantineFile } from './quarantine-file.ts';
import { StoreError, storeError } from './sqlite.ts';

export interface EventManifest {
  readonly eventId: string;
  readonly file: ManifestFile;
  readonly overlayVersion: number;
}

/** Checks that need more than the store knows. */
export interface ManifestChecks {
  /** Checks the signature by a pinned key, or by one that a manifest of this gate carries. */
  verify(payload: Readonly<Record<string, unknown>>, carried: readonly PublicKey[]): 'ok' | 'signature' | 'unknown_key';
  /** Returns Unix ms by a clock that is trusted, else null. */
  nowMs(): number | null;
  /** Policies that these rules do not understand could hold a restriction: null, or what is wrong. */
  policyProblem(policies: unknown): string | null;
}

export interface Manifests {
  /** Events in force. */
  current(): readonly EventManifest[];
  find(eventId: string): EventManifest | null;
  readonly overlays: Overlays;
  /** Returns `upto` of every file kept, the previous ones included. */
  keeps(): readonly { readonly eventId: string; readonly upto: LedgerVector }[];
  /** Copies, checks, switches. In slices: decisions go on meanwhile. `switched` is called right after the switch. */
  install(source: string, wanted: unknown): Promise<ManifestResult>;
  applyOverlay(payload: Uint8Array): ManifestResult;
  /**
   * Takes a want, and returns the files that must be fetched. An event that is not named is dropped only by a
   * message that is signed for this gate and is the newest such one; else its list stays in force, and `onUnusable` says so.
   */
  want(payload: Uint8Array): readonly { readonly eventId: string; readonly since: number | null; readonly wanted: unknown }[];
  /** Takes one bounded step of checking whether the files are still what was signed; false: all are. Throws StoreError (damaged). */
  checkSome(): boolean;
  /** Renames a file that turned out damaged while it was read; the last good one before it takes its place until a new one was fetched. */
  quarantine(path: string, wallMs: number): void;
  /** Remembers the heads that were found right, so that the next start need not check them. Writes and syncs only where there is one. Throws StoreError. */
  rememberHeads(): void;
  close(): void;
}

interface ManifestRow {
  event_id: string;
  version: number;
  previous_version: number | null;
  overlay_version: number;
  active: number;
  wanted: string;
  /** Of the release that checked them, and SHA-256 of heads that it found right, one space between each. */
  head: string | null;
}

export interface ManifestsOptions {
  readonly ledger: Ledger;
  /** `<store>/manifests`. */
  readonly folder: string;
  readonly checks: ManifestChecks;
  /** Names the program that runs: what it has checked once it need not check with every start. null: it checks every time. */
  readonly release: string | null;
  /** Receives a file that is in the table and cannot be used any more. */
  readonly onUnusable: (eventId: string, message: string) => void;
  readonly onSwitched: (event: EventManifest) => void;
}

/** Key in the ledger's database: when the newest signed `manifest/want` was issued, Unix ms. */
const WANT_ISSUED = 'want_issued_ms';
/** A signed want from further ahead of this gate's clock is not believed, and a remembered one is forgotten: the cloud's clock was wrong. ms */
const MAX_WANT_AHEAD_MS = 300_000;

const fail = (why: Exclude<ManifestResult, { ok: true }>['why'], message: string): ManifestResult => ({ ok: false, why, message: cutText(message, 300) });

/** Opens the files in force. A file that is lost is reported and skipped: its event is unknown until it was fetched again. */
export function openManifests(options: ManifestsOptions): Manifests {
  const { ledger, folder, checks, release } = options;
  const { db } = ledger;
  // The folder's own name as well: the ledger must never point to files that a power cut left without a folder.
  if (mkdirSync(folder, { recursive: true }) !== undefined) syncFolder(dirname(folder));
  const overlays = createOverlays(ledger);
  const rowOf = db.prepare<[string], ManifestRow>('SELECT * FROM manifests WHERE event_id = ?');
  const rows = db.prepare<[], ManifestRow>('SELECT * FROM manifests ORDER BY event_id');
  const putRow = db.prepare<[string, number, number | null, number, string]>(
    'INSERT INTO manifests (event_id, version, previous_version, overlay_version, active, wanted) VALUES (?, ?, ?, ?, 1, ?) ON CONFLICT (event_id) DO UPDATE SET version = excluded.version, previous_version = excluded.previous_version, overlay_version = excluded.overlay_version, active = 1, wanted = excluded.wanted',
  );
  const putOverlayVersion = db.prepare<[number, string]>('UPDATE manifests SET overlay_version = ? WHERE event_id = ?');
  const putHead = db.prepare<[string, string]>('UPDATE manifests SET head = ? WHERE event_id = ?');
  const setActive = db.prepare<[number, string]>('UPDATE manifests SET active = ? WHERE event_id = ?');
  const pathOf = (eventId: string, version: number) => join(folder, eventId, `${version}.sqlite`);
  const sidecarOf = (eventId: string, version: number) => join(folder, eventId, `${version}.json`);

  const inForce = new Map<string, EventManifest>();
  /** `upto` of the last good file before the one in force. */
  const previous = new Map<string, LedgerVector>();
  const carriedKeys = (): PublicKey[] => [...inForce.values()].flatMap((event) => event.file.head.keys);

  const knownHeads = ({ head }: ManifestRow): readonly string[] => {
    const [by, ...hashes] = (head ?? '').split(' ');
    return by === release ? hashes : [];
  };
  /** Heads in force that are right as they stand, per event, of which the table says nothing yet. */
  const unremembered = new Map<string, Set<string>>();
  const found = (eventId: string, file: ManifestFile): ManifestFile => {
    if (release === null || file.headChecked !== 'plain' || checks.policyProblem(file.head.policies) !== null) return file;
    unremembered.set(eventId, (unremembered.get(eventId) ?? new Set()).add(file.headSha256));
    return file;
  };

  /** Large files, until they were read through once since the start. */
  const checking = new Map<string, FileCheck>();
  /** Returns the checksum in the signed entry of a version; null when the entry is lost. */
  const sha256Of = (row: ManifestRow, version: number): string | null =>
    (version === row.version ? (JSON.parse(row.wanted) as WantedManifest) : readSidecar(sidecarOf(row.event_id, version)))?.sha256 ?? null;

  const tryOpen = (row: ManifestRow, version: number | null): ManifestFile | null => {
    if (version === null) return null;
    const eventId = row.event_id;
    const path = pathOf(eventId, version);
    try {
      const sha256 = sha256Of(row, version);
      const state = sha256 === null ? 'same' : checkAtOnce(path, sha256);
      if (state === 'changed') throw new Error('the file is not what was signed any more');
      if (state === 'later' && sha256 !== null) checking.set(path, createFileCheck(path, sha256));
      return found(eventId, openManifestFile(pathOf(eventId, version), knownHeads(row)));
    } catch (error) {
      options.onUnusable(eventId, `manifest ${eventId} version ${version}: ${(error as Error).message}`);
      return null;
    }
  };
  /** Returns the file in force, else the last good one before it, which is kept for this. */
  const load = (row: ManifestRow): void => {
    const file = tryOpen(row, row.version) ?? tryOpen(row, row.previous_version);
    if (file === null) return;
    inForce.set(row.event_id, { eventId: row.event_id, file, overlayVersion: file.head.version === row.version ? row.overlay_version : file.head.version });
    if (row.previous_version === null || file.head.version !== row.version || !existsSync(pathOf(row.event_id, row.previous_version))) return;
    const old = tryOpen(row, row.previous_version);
    if (old === null) return;
    previous.set(row.event_id, vectorOf(old.head.upto));
    old.close();
  };
  for (const row of rows.all()) if (row.active === 1) load(row);

  /** Switches: one transaction, then memory. */
  const switchTo = (file: ManifestFile, wanted: WantedManifest): EventManifest => {
    const eventId = file.head.event_id;
    const row = rowOf.get(eventId);
    const overlayVersion = Math.max(file.head.version, row?.overlay_version ?? 0);
    ledger.change('switch to a manifest', () => {
      overlays.dropUpTo(eventId, file.head.version);
      putRow.run(eventId, file.head.version, row?.version ?? null, overlayVersion, JSON.stringify(wanted));
    });
    const old = inForce.get(eventId);
    const event = { eventId, file, overlayVersion };
    inForce.set(eventId, event);
    if (old !== undefined) {
      previous.set(eventId, vectorOf(old.file.head.upto));
      old.file.close();
    }
    removeOthers(eventId, [file.head.version, row?.version]);
    options.onSwitched(event);
    return event;
  };
  const removeOthers = (eventId: string, keep: readonly (number | undefined)[]): void => {
    for (const name of readdirSync(join(folder, eventId))) {
      const version = Number(name.split('.')[0]);
      if (!keep.includes(version)) rmSync(join(folder, eventId, name), { force: true });
    }
  };
  /** Opens a file that has the right bytes, and checks what they say. */
  const checkContent = async (path: string, wanted: WantedManifest): Promise<ManifestFile | string> => {
    let file: ManifestFile;
    try {
      file = openManifestFile(path);
    } catch (error) {
      return (error as Error).message;
    }
    const problem = headProblem(file.head, wanted) ?? checks.policyProblem(file.head.policies);
    const counted = problem === null ? await file.count() : 0;
    if (problem === null && counted === file.head.ticket_count) return file;
    file.close();
    return problem ?? `the file holds ${counted} tickets, its head says ${file.head.ticket_count}`;
  };

  const install = async (source: string, value: unknown): Promise<ManifestResult> => {
    const parsed = WantedManifest.safeParse(value);
    if (!parsed.success) return fail('malformed', `the wanted entry ${parsed.error.issues.map(describeIssue)[0] ?? 'is malformed'}`);
    const wanted = parsed.data;
    const verdict = checks.verify(wanted, carriedKeys());
    if (verdict !== 'ok') return fail(verdict, `the entry for ${wanted.event_id} is not signed by a key of this gate (${wanted.key_id})`);
    if (wanted.size > MAX_MANIFEST_BYTES) return fail('malformed', `${wanted.size} bytes, at most ${MAX_MANIFEST_BYTES}`);
    const known = rowOf.get(wanted.event_id);
    // The same version again is welcome where its file was lost; an older one never is.
    if (
      known !== undefined &&
      (wanted.version < known.version || (wanted.version === known.version && inForce.get(wanted.event_id)?.file.head.version === wanted.version))
    )
      return fail('not_newer', `version ${known.version} of ${wanted.event_id} is known, ${wanted.version} is not newer`);
    const home = join(folder, wanted.event_id);
    const part = join(home, `${wanted.version}.part`);
    const target = pathOf(wanted.event_id, wanted.version);
    try {
      mkdirSync(home, { recursive: true });
      const copied = await copyHashed(source, part, wanted.size);
      if (copied.sha256 !== wanted.sha256) return fail('checksum', `SHA-256 ${copied.sha256}, the signed entry says ${wanted.sha256}`);
      const file = await checkContent(part, wanted);
      if (typeof file === 'string') return fail('malformed', file);
      file.close();
      await writeSynced(sidecarOf(wanted.event_id, wanted.version), JSON.stringify(wanted));
      await rename(part, target);
      syncFolder(home);
      syncFolder(folder);
      switchTo(found(wanted.event_id, openManifestFile(target)), wanted);
      return { ok: true, version: wanted.version };
    } catch (error) {
      const known = storeError(`install manifest ${wanted.event_id}`, error);
      return fail(known.code === 'STORE_TOO_LARGE' ? 'checksum' : 'io', known.message);
    } finally {
      rmSync(part, { force: true });
    }
  };

  return {
    current: () => [...inForce.values()],
    find: (eventId) => inForce.get(eventId) ?? null,
    overlays,
    keeps: () =>
      [...inForce.values()].flatMap(({ eventId, file }) =>
        [vectorOf(file.head.upto), ...(previous.has(eventId) ? [previous.get(eventId) as LedgerVector] : [])].map((upto) => ({ eventId, upto })),
      ),
    install,
    applyOverlay(payload) {
      const parsed = parsePayload(OverlayMessage, payload);
      if (!parsed.ok) return fail('malformed', parsed.message);
      const overlay = parsed.value;
      const event = inForce.get(overlay.event_id);
      // What was signed is what came, without the defaults that reading fills in.
      const verdict = checks.verify(JSON.parse(Buffer.from(payload).toString('utf8')) as Record<string, unknown>, carriedKeys());
      if (verdict !== 'ok') return fail(verdict, `the overlay of ${overlay.event_id} is not signed by a key of this gate (${overlay.key_id})`);
      if (event === undefined) return fail('gap', `no manifest of ${overlay.event_id} is in force`);
      if (overlay.to_version <= event.overlayVersion) return fail('not_newer', `version ${event.overlayVersion} is in force`);
      if (overlay.from_version > event.overlayVersion)
        return fail('gap', `version ${event.overlayVersion} is in force, the change starts from ${overlay.from_version}`);
      if (overlay.tickets === undefined) return fail('gap', 'the change is too large for a message');
      if (overlays.count(overlay.event_id) + overlay.tickets.length > MAX_OVERLAY_ROWS)
        return fail('gap', `more than ${MAX_OVERLAY_ROWS} changes since the manifest file`);
      const { tickets } = overlay;
      try {
        ledger.change('apply an overlay', () => {
          overlays.put(overlay.event_id, overlay.to_version, tickets);
          putOverlayVersion.run(overlay.to_version, overlay.event_id);
        });
      } catch (error) {
        return fail('io', (error as StoreError).message);
      }
      inForce.set(overlay.event_id, { ...event, overlayVersion: overlay.to_version });
      return { ok: true, version: overlay.to_version };
    },
    want(payload) {
      const parsed = parsePayload(WantMessage, payload, MAX_PAYLOAD_BYTES);
      if (!parsed.ok)
        throw new StoreError(
          {
            operation: 'read manifest/want',
            cause: parsed.message,
            hint: 'The cloud published something that this release cannot read: look at its version.',
            healsItself: true,
          },
          'STORE_MALFORMED',
          false,
        );
      const named = new Set(parsed.value.events.map((event) => event.event_id));
      const whole = believeWhole(JSON.parse(Buffer.from(payload).toString('utf8')) as Record<string, unknown>);
      for (const { eventId, file } of [...inForce.values()]) {
        if (named.has(eventId)) continue;
        if (!whole) {
          options.onUnusable(eventId, `manifest/want does not name ${eventId}, but is not signed for this gate, or is an old one: the list stays in force`);
          continue;
        }
        ledger.change('drop an event', () => setActive.run(0, eventId));
        inForce.delete(eventId);
        previous.delete(eventId);
        file.close();
      }
      return parsed.value.events.flatMap((wanted): { readonly eventId: string; readonly since: number | null; readonly wanted: unknown }[] => {
        if (checks.verify(wanted, carriedKeys()) !== 'ok') {
          options.onUnusable(wanted.event_id, `manifest/want: the entry for ${wanted.event_id} is not signed by a key of this gate`);
          return [];
        }
        // What was dropped is fetched again where nothing newer than the drop says otherwise: then the cloud judges.
        const event = inForce.get(wanted.event_id) ?? (whole ? reviveEvent(wanted.event_id) : null);
        if (event === null || event.file.head.version < wanted.version) return [{ eventId: wanted.event_id, since: null, wanted }];
        return event.overlayVersion < wanted.overlay_version ? [{ eventId: wanted.event_id, since: event.overlayVersion, wanted }] : [];
      });
    },
    checkSome() {
      const [path, check] = [...checking][0] ?? [];
      if (path === undefined || check === undefined) return false;
      const found = existsSync(path) ? check.step() : 'same';
      if (found !== null) checking.delete(path);
      if (found === 'changed') throw changedFile(path);
      return true;
    },
    quarantine(path, wallMs) {
      const event = [...inForce.values()].find((one) => one.file.path === path);
      const row = event === undefined ? undefined : rowOf.get(event.eventId);
      if (event === undefined || row === undefined) return;
      event.file.close();
      inForce.delete(event.eventId);
      previous.delete(event.eventId);
      const quarantined = quarantineFile(path, wallMs);
      options.onUnusable(event.eventId, `manifest ${event.eventId} version ${event.file.head.version} is damaged; set aside as ${basename(quarantined)}`);
      load(row);
      const now = inForce.get(event.eventId);
      if (now !== undefined) options.onSwitched(now);
    },
    rememberHeads() {
      for (const [eventId, hashes] of unremembered) {
        const row = rowOf.get(eventId);
        // What is kept is what can be in force: the file, and the one before it.
        const all = [...hashes, ...(row === undefined ? [] : knownHeads(row))].slice(0, 2);
        if (row !== undefined) ledger.change('remember a checked head', () => putHead.run([release, ...all].join(' '), eventId));
        unremembered.delete(eventId);
      }
    },
    close() {
      for (const { file } of inForce.values()) file.close();
      inForce.clear();
    },
  };

  /** Tells whether this want is the cloud's newest to this gate, so that what it leaves out counts too. Remembered, so that an old one stays old. */
  function believeWhole(want: Readonly<Record<string, unknown>>): boolean {
    const issued = Timestamp.safeParse(want['issued_at']);
    if (!issued.success || want['gate'] !== ledger.name || checks.verify(want, carriedKeys()) !== 'ok') return false;
    const issuedMs = Date.parse(issued.data);
    const latestMs = (checks.nowMs() ?? Number.POSITIVE_INFINITY) + MAX_WANT_AHEAD_MS;
    const before = Number(ledger.meta(WANT_ISSUED) ?? 0);
    if (issuedMs > latestMs || (issuedMs < before && before <= latestMs)) return false;
    if (issuedMs !== before) ledger.setMeta(WANT_ISSUED, String(issuedMs));
    return true;
  }

  /** Takes up an event that was dropped and is wanted again: its file is still here. */
  function reviveEvent(eventId: string): EventManifest | null {
    const row = rowOf.get(eventId);
    if (row === undefined || row.active === 1 || !existsSync(pathOf(eventId, row.version))) return null;
    ledger.change('take an event up again', () => setActive.run(1, eventId));
    load(row);
    const event = inForce.get(eventId) ?? null;
    if (event !== null) options.onSwitched(event);
    return event;
  }
}

function changedFile(path: string): StoreError {
  const fault = {
    operation: `check ${path}`,
    cause: 'the file is not what was signed any more',
    hint: 'It is set aside and fetched again; look at the card.',
    healsItself: true,
  };
  return new StoreError(fault, 'STORE_CHANGED', true, undefined, 'manifest', path);
}

function headProblem(head: ManifestHead, wanted: WantedManifest): string | null {
  if (head.event_id !== wanted.event_id) return `the file is of event ${head.event_id}, not ${wanted.event_id}`;
  if (head.version !== wanted.version) return `the file is version ${head.version}, not ${wanted.version}`;
  return null;
}

async function writeSynced(path: string, text: string): Promise<void> {
  const file = await openFile(path, 'w', 0o640);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
}

/**
 * Finds, after the ledger's database was quarantined, the files that are still here, by the signed entry beside each, and takes the
 * newest good one of every event up again. Not in slices: it runs before the first decision.
 */
export async function recoverManifests(folder: string, ledger: Ledger, checks: ManifestChecks): Promise<readonly string[]> {
  const found: string[] = [];
  if (!existsSync(folder)) return found;
  for (const eventId of readdirSync(folder)) {
    const versions = readdirSync(join(folder, eventId))
      .filter((name) => name.endsWith('.json'))
      .map((name) => Number(name.slice(0, -'.json'.length)))
      .sort((a, b) => b - a);
    for (const version of versions) {
      const path = join(folder, eventId, `${version}.sqlite`);
      const wanted = readSidecar(join(folder, eventId, `${version}.json`));
      if (wanted === null || !existsSync(path) || checks.verify(wanted, []) !== 'ok' || (await hashFile(path)).sha256 !== wanted.sha256) continue;
      ledger.change('take a manifest up again', () =>
        ledger.db
          .prepare('INSERT INTO manifests (event_id, version, overlay_version, active, wanted) VALUES (?, ?, ?, 1, ?) ON CONFLICT DO NOTHING')
          .run(eventId, version, version, JSON.stringify(wanted)),
      );
      found.push(eventId);
      break;
    }
  }
  return found;
}

function readSidecar(path: string): WantedManifest | null {
  try {
    return WantedManifest.safeParse(JSON.parse(readFileSync(path, 'utf8'))).data ?? null;
  } catch {
    return null;
  }
}
