/**
 * Brings what the gate shall know of tickets onto its card, and what it missed of its peers: on `manifest/want` the files that the decider asks
 * for, on a gap the signed overlays in between, on a gap among peers' rows the site's ledger. Works in the background, one thing
 * at a time, tries again until it is so, and says by the alert `manifest` when it is not.
 */
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { MAX_PAYLOAD_BYTES } from '../../contract/limits.ts';
import { OverlayMessage, WantedManifest } from '../../contract/manifest.ts';
import { parsePayload } from '../../contract/parse.ts';
import { cutText } from '../../contract/text.ts';
import type { Log } from '../log/log.ts';
import type { Decider, ManifestResult } from '../ports.ts';
import { type CloudClient, problemOf } from './cloud-client.ts';
import { download } from './download.ts';
import { createJsonItems } from './json-stream.ts';
import { readSiteLedger } from './peer-catchup.ts';
import { attempted, createRetryWorker, type Outcome } from './retry-loop.ts';

/** Waits between attempts. */
export const RETRY_FIRST_MS = 1_000;
export const RETRY_MAX_MS = 60_000;
/** A larger file is not fetched. */
export const MAX_MANIFEST_BYTES = 1024 * 1024 * 1024;
/** Failures in a row before operators are told; a forged or unreadable file is told at once. */
const FAILURES_BEFORE_ALERT = 2;
/** Of what operators are told of a failure; the gate says more around it. */
const MAX_PROBLEM_CHARS = 400;
/** In one round: the files, then the overlays after them, then what came meanwhile. */
const MAX_STEPS_PER_ROUND = 16;
/** The site's ledger is read when the link comes up, once more after this (rows that were on their way meanwhile), then every CATCH_UP_PERIOD_MS. */
export const CATCH_UP_AGAIN_MS = 20_000;
export const CATCH_UP_PERIOD_MS = 300_000;
const SQLITE_TYPE = 'application/vnd.sqlite3';

export interface ManifestSyncOptions {
  readonly gate: string;
  readonly client: CloudClient;
  readonly decider: Pick<Decider, 'want' | 'installManifest' | 'applyOverlay' | 'applyPeer' | 'vector' | 'caughtUp' | 'status'>;
  readonly alerts: { raise(alert: 'manifest', severity: 'warning', message: string): void; clear(alert: 'manifest'): void };
  /** For files that are on their way, such as `<store>/incoming`. Emptied of what is not wanted any more. */
  readonly folder: string;
  readonly log: Log;
  /** Shorter waits for tests. */
  readonly timing?: { readonly retryFirstMs?: number; readonly retryMaxMs?: number; readonly catchUpAgainMs?: number; readonly catchUpPeriodMs?: number };
}

export interface SyncStatus {
  /** The file on its way. */
  readonly fetching: { readonly eventId: string; readonly receivedBytes: number; readonly sizeBytes: number } | null;
  /** Why the last attempt failed; null: everything that is wanted is here. */
  readonly failing: string | null;
  /** Why the site's ledger could not be read; null: read to its end. */
  readonly ledgerFailing: string | null;
}

/** None of these throws or rejects; what takes long goes on in the background. */
export interface ManifestSync {
  /** `manifest/want` as it came. */
  want(payload: Uint8Array): Promise<void>;
  /** An overlay as it came. */
  overlay(payload: Uint8Array): Promise<void>;
  /** Rows of peers are missing: read the site's ledger. */
  gap(): Promise<void>;
  /** The link came up. */
  connected(): void;
  /** Everything anew, and waits for it; answers how it stands then. */
  refresh(): Promise<SyncStatus>;
  status(): SyncStatus;
  /** Stops what is under way; a file that is half here is continued next time. */
  close(): Promise<void>;
}

type Brought = { readonly ok: true; readonly applied: number } | Extract<Outcome, { ok: false }>;

export function createManifestSync(options: ManifestSyncOptions): ManifestSync {
  const { decider, client, gate, log, timing = {} } = options;
  const waits = { firstMs: timing.retryFirstMs ?? RETRY_FIRST_MS, maxMs: timing.retryMaxMs ?? RETRY_MAX_MS };
  const stopped = new AbortController();
  /** Events whose overlays have a gap that the last want may not know of. */
  const gaps = new Set<string>();
  let want: Uint8Array | null = null;
  let fetching: SyncStatus['fetching'] = null;
  let fetchingSha: string | null = null;
  let abortFetch: AbortController | null = null;
  let alerted = false;
  let periodic: NodeJS.Timeout | undefined;
  let again: NodeJS.Timeout | undefined;

  const manifests = createRetryWorker({ ...waits, stopped: stopped.signal, round: bringManifests, failed: manifestsFail, done: manifestsDone });
  const ledger = createRetryWorker({
    ...waits,
    stopped: stopped.signal,
    round: bringLedger,
    failed: (message, failures) => {
      if (failures === 1) log.warn("the site's ledger could not be read to its end; it is tried again", { cause: message });
    },
    done: () => undefined,
  });

  async function bringManifests(): Promise<Outcome> {
    await mkdir(options.folder, { recursive: true, mode: 0o700 });
    for (let step = 0; step < MAX_STEPS_PER_ROUND; step++) {
      const wanted = want;
      const needs = wanted === null ? [] : await decider.want(wanted);
      if (step === 0) await maybeCheckpoint(needs.map(({ wanted: one }) => WantedManifest.safeParse(one).data?.sha256));
      if (needs.length === 0 && gaps.size === 0) return { ok: true };
      const failures: Extract<Outcome, { ok: false }>[] = [];
      for (const need of needs) {
        if (want !== wanted) break;
        const outcome = await attempted(bring(need));
        if (!outcome.ok) failures.push(outcome);
      }
      for (const eventId of [...gaps]) {
        const outcome = await attempted(closeGap(eventId));
        if (outcome.ok) gaps.delete(eventId);
        else failures.push(outcome);
      }
      // Where something newer is wanted meanwhile, what failed may not matter any more.
      if (failures.length > 0 && want === wanted)
        return { ok: false, lasting: failures.every(({ lasting }) => lasting), message: failures.map(({ message }) => message).join('; ') };
    }
    return { ok: false, lasting: false, message: 'what is wanted changes faster than it can be fetched' };
  }

  async function bring(need: Awaited<ReturnType<Decider['want']>>[number]): Promise<Outcome> {
    const wanted = WantedManifest.safeParse(need.wanted);
    if (!wanted.success) return { ok: false, lasting: true, message: `${need.eventId}: what is wanted cannot be read` };
    if (need.since === null) return bringFile(wanted.data);
    const brought = await bringOverlays(need.eventId, need.since);
    return brought.ok && brought.applied === 0
      ? { ok: false, lasting: false, message: `${need.eventId}: the cloud gave no changes after version ${need.since}` }
      : brought;
  }

  async function bringFile(wanted: WantedManifest): Promise<Outcome> {
    const { event_id: eventId, sha256, size } = wanted;
    if (size > MAX_MANIFEST_BYTES)
      return { ok: false, lasting: true, message: `${eventId}: ${size} bytes are more than this gate takes (${MAX_MANIFEST_BYTES})` };
    const path = join(options.folder, `${sha256}.part`);
    const abort = new AbortController();
    abortFetch = abort;
    fetchingSha = sha256;
    fetching = { eventId, receivedBytes: 0, sizeBytes: size };
    try {
      const got = await download(client, {
        url: withDevice(wanted.url),
        path,
        sizeBytes: size,
        sha256,
        accept: SQLITE_TYPE,
        signal: AbortSignal.any([abort.signal, stopped.signal]),
        progress: (receivedBytes) => {
          fetching = { eventId, receivedBytes, sizeBytes: size };
        },
      });
      if (!got.ok) return { ...got, message: `${eventId} version ${wanted.version} from ${client.addressOf(wanted.url)}: ${got.message}` };
      const installed = await decider.installManifest(path, wanted);
      if (installed.ok || installed.why !== 'io') await rm(path, { force: true });
      if (installed.ok) log.info('a manifest is in force', { event_id: eventId, version: installed.version, size_bytes: size });
      return judged(eventId, installed);
    } finally {
      fetching = null;
      fetchingSha = null;
      abortFetch = null;
    }
  }

  /** The signed overlays from `since` on, as the topic `overlay` would have brought them. */
  async function bringOverlays(eventId: string, since: number): Promise<Brought> {
    const path = `/offline/manifest/${encodeURIComponent(eventId)}`;
    const what = `${eventId} changes since version ${since} from ${client.addressOf(path)}`;
    const response = await client.get(withDevice(`${path}?since=${since}`), { accept: 'application/json', signal: stopped.signal }).catch((error: Error) => {
      throw new Error(`${what}: ${error.message}`, { cause: error });
    });
    if (response.status !== 200) {
      const problem = await problemOf(response);
      // The cloud builds a new file now, and will say so in manifest/want.
      return { ok: false, lasting: response.status === 409, message: `${what}: ${problem.text}` };
    }
    const items = createJsonItems(['manifest.overlays.*'], MAX_PAYLOAD_BYTES);
    let applied = 0;
    try {
      for await (const chunk of response.body) {
        for (const { bytes } of items.push(chunk)) {
          const outcome = judged(eventId, await decider.applyOverlay(bytes));
          if (!outcome.ok) return outcome;
          applied += 1;
        }
      }
    } finally {
      response.body.destroy();
    }
    items.end();
    return { ok: true, applied };
  }

  async function closeGap(eventId: string): Promise<Outcome> {
    const held = (await decider.status()).manifests.find((manifest) => manifest.eventId === eventId);
    // Without a file there is nothing to change: manifest/want brings one.
    return held === undefined ? { ok: true } : await bringOverlays(eventId, held.overlayVersion);
  }

  async function bringLedger(): Promise<Outcome> {
    const rows = await readSiteLedger({ gate, client, decider }, stopped.signal);
    if (rows > 0) log.info("rows were taken from the cloud's copy of the site's ledger", { rows });
    return { ok: true };
  }

  function withDevice(address: string): string {
    const absolute = !address.startsWith('/');
    const url = new URL(address, 'http://cloud.invalid');
    if (!url.searchParams.has('device_id')) url.searchParams.set('device_id', gate);
    return absolute ? url.href : url.pathname + url.search;
  }

  /** Removes half files that nobody wants any more. */
  async function maybeCheckpoint(wanted: readonly (string | undefined)[]): Promise<void> {
    for (const name of await readdir(options.folder))
      if (name.endsWith('.part') && !wanted.includes(name.slice(0, -'.part'.length))) await rm(join(options.folder, name), { force: true });
  }

  function manifestsFail(message: string, failures: number, lasting: boolean): void {
    if (failures === 1) log.warn('manifests could not be brought up to date; it is tried again', { cause: message });
    if (failures < FAILURES_BEFORE_ALERT && !lasting) return;
    alerted = true;
    options.alerts.raise('manifest', 'warning', cutText(`It could not be fetched: ${message}`, MAX_PROBLEM_CHARS));
  }
  function manifestsDone(): void {
    if (!alerted) return;
    alerted = false;
    options.alerts.clear('manifest');
  }

  return {
    async want(payload) {
      want = payload;
      // A download that is still wanted goes on; another one makes room.
      if (fetchingSha !== null && !Buffer.from(payload).includes(fetchingSha)) abortFetch?.abort(new Error('something newer is wanted'));
      manifests.kick();
    },
    async overlay(payload) {
      try {
        const result = await decider.applyOverlay(payload);
        if (result.ok || result.why === 'not_newer') return;
        const overlay = parsePayload(OverlayMessage, payload);
        if (result.why !== 'gap' || !overlay.ok) {
          log.error('an overlay was refused', { why: result.why, cause: result.message });
          if (result.why !== 'gap' && result.why !== 'io') manifestsFail(`an overlay was refused: ${result.message}`, FAILURES_BEFORE_ALERT, true);
        }
        if (overlay.ok && (result.why === 'gap' || result.why === 'io')) gaps.add(overlay.value.event_id);
        manifests.kick();
      } catch (error) {
        log.error('an overlay could not be applied', { cause: (error as Error).message });
      }
    },
    async gap() {
      ledger.kick();
      // What is missing may still be on its way to the cloud as well: its copy is read once more, or the hole would stay until the next period.
      clearTimeout(again);
      again = setTimeout(() => ledger.kick(), timing.catchUpAgainMs ?? CATCH_UP_AGAIN_MS);
    },
    connected() {
      ledger.kick();
      clearTimeout(again);
      clearInterval(periodic);
      again = setTimeout(() => ledger.kick(), timing.catchUpAgainMs ?? CATCH_UP_AGAIN_MS);
      periodic = setInterval(() => ledger.kick(), timing.catchUpPeriodMs ?? CATCH_UP_PERIOD_MS);
    },
    async refresh() {
      await Promise.all([manifests.attempt(), ledger.attempt()]);
      return this.status();
    },
    status: () => ({ fetching, failing: manifests.failing(), ledgerFailing: ledger.failing() }),
    async close() {
      clearTimeout(again);
      clearInterval(periodic);
      stopped.abort(new Error('the gate stops'));
      await Promise.all([manifests.idle(), ledger.idle()]);
    },
  };
}

/** not_newer is as good as done; a gap or a disk fault may pass; a bad signature or content does not until something else is wanted. */
function judged(eventId: string, result: ManifestResult): Outcome {
  if (result.ok || result.why === 'not_newer') return { ok: true };
  return { ok: false, lasting: result.why !== 'io' && result.why !== 'gap', message: `${eventId}: ${result.message} (${result.why})` };
}
