/**
 * Fetches manifests, overlays and peers' rows: on `manifest/want` the files that the decider lacks, on a gap in a manifest the signed
 * overlays, on a gap in peers' rows the site's ledger. Works in the background, one fetch at a time, retries until it succeeds, and
 * raises the alert `manifest` while it fails.
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
import { attempted, createRetryLoop, type Outcome } from './retry-loop.ts';

/** Waits between attempts, in ms: from the first, doubled, to the longest. */
export const RETRY_FIRST_MS = 1_000;
export const RETRY_MAX_MS = 60_000;
/** Largest manifest, in bytes; a larger one is not fetched. */
export const MAX_MANIFEST_BYTES = 1024 * 1024 * 1024;
/** Consecutive failures before the alert; a forged or malformed file raises it at once. */
const FAILURES_BEFORE_ALERT = 2;
/** Longest cause in the alert, in characters; longer ones are cut. */
const MAX_PROBLEM_CHARS = 400;
/** Most passes in one round, when manifest/want changes meanwhile; then the round fails and is retried. */
const MAX_STEPS_PER_ROUND = 16;
/** The gate reads the site's ledger on connect, again after this wait in ms (for rows in flight meanwhile), then every CATCH_UP_PERIOD_MS. */
export const CATCH_UP_AGAIN_MS = 20_000;
export const CATCH_UP_PERIOD_MS = 300_000;
/** While the broker is away the gate asks for changes this long after it was lost, in ms (many gates lose it at once, and most of them for a moment), then every AWAY_PERIOD_MS. */
export const AWAY_FIRST_MS = 30_000;
export const AWAY_PERIOD_MS = 300_000;
const SQLITE_TYPE = 'application/vnd.sqlite3';

export interface ManifestSyncOptions {
  readonly gate: string;
  readonly client: CloudClient;
  readonly decider: Pick<Decider, 'want' | 'installManifest' | 'applyOverlay' | 'applyPeer' | 'vector' | 'caughtUp' | 'status'>;
  readonly alerts: { raise(alert: 'manifest', severity: 'warning', message: string): void; clear(alert: 'manifest'): void };
  /** Folder of partial downloads, such as `<store>/incoming`. Unwanted ones are deleted. */
  readonly folder: string;
  readonly log: Log;
  /** Shorter waits for tests. */
  readonly timing?: {
    readonly retryFirstMs?: number;
    readonly retryMaxMs?: number;
    readonly catchUpAgainMs?: number;
    readonly catchUpPeriodMs?: number;
    readonly awayFirstMs?: number;
    readonly awayPeriodMs?: number;
  };
}

export interface SyncStatus {
  /** The download in progress. */
  readonly fetching: { readonly eventId: string; readonly receivedBytes: number; readonly sizeBytes: number } | null;
  /** Cause of the last failure; null: every wanted manifest is installed. */
  readonly failing: string | null;
  /** Cause of the last failure to read the site's ledger; null: read to its end. */
  readonly ledgerFailing: string | null;
}

/** Never throws or rejects; long work continues in the background. */
export interface ManifestSync {
  /** Handles a payload of `manifest/want`. */
  want(payload: Uint8Array): Promise<void>;
  /** Handles a payload of `overlay`. */
  overlay(payload: Uint8Array): Promise<void>;
  /** Reads the site's ledger, because peers' rows are missing. */
  gap(): Promise<void>;
  /** Reads the site's ledger after a connect. */
  connected(): void;
  /** Asks the cloud for changes of rights and for peers' rows from time to time, because the broker delivers none; until `connected`. */
  away(): void;
  /** Fetches everything again and waits for it. Returns the status. */
  refresh(): Promise<SyncStatus>;
  status(): SyncStatus;
  /** Stops. The next start resumes a partial download. */
  close(): Promise<void>;
}

type OverlaysFetched = { readonly ok: true; readonly applied: number } | Extract<Outcome, { ok: false }>;

export function createManifestSync(options: ManifestSyncOptions): ManifestSync {
  const { decider, client, gate, log, timing = {} } = options;
  const waits = { firstMs: timing.retryFirstMs ?? RETRY_FIRST_MS, maxMs: timing.retryMaxMs ?? RETRY_MAX_MS };
  const stopped = new AbortController();
  /** Events whose overlays have a gap. */
  const gaps = new Set<string>();
  let want: Uint8Array | null = null;
  let fetching: SyncStatus['fetching'] = null;
  let fetchingSha: string | null = null;
  let abortFetch: AbortController | null = null;
  let alerted = false;
  let periodic: NodeJS.Timeout | undefined;
  let again: NodeJS.Timeout | undefined;
  let awayTimer: NodeJS.Timeout | undefined;
  let awayFailed = false;

  const manifests = createRetryLoop({ ...waits, stopped: stopped.signal, round: updateManifests, failed: manifestsFail, done: manifestsDone });
  const ledger = createRetryLoop({
    ...waits,
    stopped: stopped.signal,
    round: fetchLedger,
    failed: (message, failures) => {
      if (failures === 1) log.warn("fetching the site's ledger failed; the gate retries", { cause: message });
    },
    done: () => undefined,
  });

  async function updateManifests(): Promise<Outcome> {
    await mkdir(options.folder, { recursive: true, mode: 0o700 });
    for (let step = 0; step < MAX_STEPS_PER_ROUND; step++) {
      const wanted = want;
      const needs = wanted === null ? [] : await decider.want(wanted);
      if (step === 0) await removeUnwanted(needs.map(({ wanted: one }) => WantedManifest.safeParse(one).data?.sha256));
      if (needs.length === 0 && gaps.size === 0) return { ok: true };
      const failures: Extract<Outcome, { ok: false }>[] = [];
      for (const need of needs) {
        if (want !== wanted) break;
        const outcome = await attempted(fetchNeeded(need));
        if (!outcome.ok) failures.push(outcome);
      }
      for (const eventId of [...gaps]) {
        const outcome = await attempted(closeGap(eventId));
        if (outcome.ok) gaps.delete(eventId);
        else failures.push(outcome);
      }
      // A failure does not count when manifest/want has changed meanwhile.
      if (failures.length > 0 && want === wanted)
        return { ok: false, lasting: failures.every(({ lasting }) => lasting), message: failures.map(({ message }) => message).join('; ') };
    }
    return { ok: false, lasting: false, message: 'manifest/want changes faster than the gate can fetch' };
  }

  async function fetchNeeded(need: Awaited<ReturnType<Decider['want']>>[number]): Promise<Outcome> {
    const wanted = WantedManifest.safeParse(need.wanted);
    if (!wanted.success) return { ok: false, lasting: true, message: `${need.eventId}: manifest/want is malformed` };
    if (need.since === null) return bringFile(wanted.data);
    const brought = await fetchOverlays(need.eventId, need.since);
    return brought.ok && brought.applied === 0
      ? { ok: false, lasting: false, message: `${need.eventId}: the cloud returned no changes after version ${need.since}` }
      : brought;
  }

  async function bringFile(wanted: WantedManifest): Promise<Outcome> {
    const { event_id: eventId, sha256, size } = wanted;
    if (size > MAX_MANIFEST_BYTES) return { ok: false, lasting: true, message: `${eventId}: ${size} bytes exceed the limit (${MAX_MANIFEST_BYTES})` };
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
      if (installed.ok) log.info('manifest installed', { event_id: eventId, version: installed.version, size_bytes: size });
      return judged(eventId, installed);
    } finally {
      fetching = null;
      fetchingSha = null;
      abortFetch = null;
    }
  }

  /** Fetches and applies the signed overlays from version `since` on. */
  async function fetchOverlays(eventId: string, since: number): Promise<OverlaysFetched> {
    const path = `/offline/manifest/${encodeURIComponent(eventId)}`;
    const what = `${eventId} changes since version ${since} from ${client.addressOf(path)}`;
    const response = await client.get(withDevice(`${path}?since=${since}`), { accept: 'application/json', signal: stopped.signal }).catch((error: Error) => {
      throw new Error(`${what}: ${error.message}`, { cause: error });
    });
    if (response.status !== 200) {
      const problem = await problemOf(response);
      // The cloud is building a new file and will publish manifest/want.
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
    // Without a manifest there is nothing to change; manifest/want names one.
    return held === undefined ? { ok: true } : await fetchOverlays(eventId, held.overlayVersion);
  }

  /** Fetches the changes of every manifest that is held. A cloud that is away as well is tried again with the next period, without an alert of its own. */
  async function fetchWhileAway(): Promise<void> {
    ledger.kick();
    const failures: Extract<Outcome, { ok: false }>[] = [];
    for (const { eventId, overlayVersion } of (await decider.status()).manifests) {
      const outcome = await attempted(fetchOverlays(eventId, overlayVersion));
      if (!outcome.ok) failures.push(outcome);
    }
    const message = failures.map((one) => one.message).join('; ');
    if (failures.length > 0 && !awayFailed) log.warn('fetching changes while the broker is away failed; the gate retries', { cause: message });
    awayFailed = failures.length > 0;
  }
  const awayAfter = (ms: number): void => {
    clearTimeout(awayTimer);
    awayTimer = setTimeout(() => {
      void fetchWhileAway()
        .catch((error: Error) => log.warn('fetching changes while the broker is away failed; the gate retries', { cause: error.message }))
        .finally(() => {
          if (awayTimer !== undefined && !stopped.signal.aborted) awayAfter(timing.awayPeriodMs ?? AWAY_PERIOD_MS);
        });
    }, ms);
  };
  const endAway = (): void => {
    clearTimeout(awayTimer);
    awayTimer = undefined;
  };

  async function fetchLedger(): Promise<Outcome> {
    const rows = await readSiteLedger({ gate, client, decider }, stopped.signal);
    if (rows > 0) log.info("peers' rows fetched from the cloud", { rows });
    return { ok: true };
  }

  function withDevice(address: string): string {
    const absolute = !address.startsWith('/');
    const url = new URL(address, 'http://cloud.invalid');
    if (!url.searchParams.has('device_id')) url.searchParams.set('device_id', gate);
    return absolute ? url.href : url.pathname + url.search;
  }

  /** Deletes partial downloads of unwanted files. */
  async function removeUnwanted(wanted: readonly (string | undefined)[]): Promise<void> {
    for (const name of await readdir(options.folder))
      if (name.endsWith('.part') && !wanted.includes(name.slice(0, -'.part'.length))) await rm(join(options.folder, name), { force: true });
  }

  function manifestsFail(message: string, failures: number, lasting: boolean): void {
    if (failures === 1) log.warn('updating manifests failed; the gate retries', { cause: message });
    if (failures < FAILURES_BEFORE_ALERT && !lasting) return;
    alerted = true;
    options.alerts.raise('manifest', 'warning', cutText(`Fetching failed: ${message}`, MAX_PROBLEM_CHARS));
  }
  function manifestsDone(): void {
    if (!alerted) return;
    alerted = false;
    options.alerts.clear('manifest');
  }

  return {
    async want(payload) {
      want = payload;
      // Aborts a download that is no longer wanted.
      if (fetchingSha !== null && !Buffer.from(payload).includes(fetchingSha)) abortFetch?.abort(new Error('a newer manifest is wanted'));
      manifests.kick();
    },
    async overlay(payload) {
      try {
        const result = await decider.applyOverlay(payload);
        if (result.ok || result.why === 'not_newer') return;
        const overlay = parsePayload(OverlayMessage, payload);
        if (result.why !== 'gap' || !overlay.ok) {
          log.error('applying an overlay failed', { why: result.why, cause: result.message });
          if (result.why !== 'gap' && result.why !== 'io') manifestsFail(`applying an overlay failed: ${result.message}`, FAILURES_BEFORE_ALERT, true);
        }
        if (overlay.ok && (result.why === 'gap' || result.why === 'io')) gaps.add(overlay.value.event_id);
        manifests.kick();
      } catch (error) {
        log.error('applying an overlay failed', { cause: (error as Error).message });
      }
    },
    async gap() {
      ledger.kick();
      // The cloud may not have the missing rows yet: read its copy once more, or the gap would stay until the next period.
      clearTimeout(again);
      again = setTimeout(() => ledger.kick(), timing.catchUpAgainMs ?? CATCH_UP_AGAIN_MS);
    },
    connected() {
      endAway();
      ledger.kick();
      clearTimeout(again);
      clearInterval(periodic);
      again = setTimeout(() => ledger.kick(), timing.catchUpAgainMs ?? CATCH_UP_AGAIN_MS);
      periodic = setInterval(() => ledger.kick(), timing.catchUpPeriodMs ?? CATCH_UP_PERIOD_MS);
    },
    away() {
      if (awayTimer === undefined) awayAfter(timing.awayFirstMs ?? AWAY_FIRST_MS);
    },
    async refresh() {
      await Promise.all([manifests.attempt(), ledger.attempt()]);
      return this.status();
    },
    status: () => ({ fetching, failing: manifests.failing(), ledgerFailing: ledger.failing() }),
    async close() {
      endAway();
      clearTimeout(again);
      clearInterval(periodic);
      stopped.abort(new Error('the gate stops'));
      await Promise.all([manifests.idle(), ledger.idle()]);
    },
  };
}

/** Returns the outcome: not_newer is a success, a gap or a disk fault is retried soon, a bad signature or content is lasting. */
function judged(eventId: string, result: ManifestResult): Outcome {
  if (result.ok || result.why === 'not_newer') return { ok: true };
  return { ok: false, lasting: result.why !== 'io' && result.why !== 'gap', message: `${eventId}: ${result.message} (${result.why})` };
}
