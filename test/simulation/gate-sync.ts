/** How a simulated gate fetches what MQTT does not bring: files and overlays of its rights, and its site's ledger, over a network that may be cut. */

import type { LedgerVector } from '../../contract/ids.ts';
import type { WantedManifest } from '../../contract/manifest.ts';
import { OverlayMessage } from '../../contract/manifest.ts';
import { parsePayload } from '../../contract/parse.ts';
import type { GateSync } from '../../daemon/gate/gate.ts';
import type { CloudClient } from '../../daemon/link/cloud-client.ts';
import { CATCH_UP_AGAIN_MS, CATCH_UP_PERIOD_MS } from '../../daemon/link/manifest-sync.ts';
import { readSiteLedger } from '../../daemon/link/peer-catchup.ts';
import type { Decider } from '../../daemon/ports.ts';
import type { Owner } from './scheduler.ts';
import type { World } from './types.ts';

/** A failed round is tried again after this, ms. */
const RETRY_MS = 2_000;
const HTTP_MS = [5, 60] as const;
const HTTP_TIMEOUT_MS = 1_500;
const NEVER = new AbortController().signal;

export interface SimSync extends GateSync {
  connected(): void;
}

export function createSimSync(options: {
  readonly world: World;
  readonly gate: string;
  readonly decider: Decider;
  readonly owner: Owner;
  readonly reachable: () => boolean;
}): SimSync {
  const { world, gate, decider, owner } = options;
  const { scheduler, random, cloud } = world;
  let want: Uint8Array | null = null;
  let changed: () => void = () => undefined;
  let gap = false;

  const http = <T>(work: () => T): Promise<T> =>
    new Promise((resolve, reject) => {
      const wayMs = () => (HTTP_MS[0] + random.next() * (HTTP_MS[1] - HTTP_MS[0])) / 2;
      if (!options.reachable()) {
        scheduler.after(HTTP_TIMEOUT_MS, owner, () => reject(new Error('no answer')));
        return;
      }
      scheduler.after(wayMs(), owner, () => {
        if (!options.reachable()) return void scheduler.after(HTTP_TIMEOUT_MS, owner, () => reject(new Error('no answer')));
        const value = work();
        scheduler.after(wayMs(), owner, () => (options.reachable() ? resolve(value) : reject(new Error('the answer was lost'))));
      });
    });
  const client: CloudClient = {
    addressOf: (path) => path,
    async get(path) {
      const vector = JSON.parse(decodeURIComponent(path.slice(path.indexOf('after=') + 6))) as LedgerVector;
      const body = await http(() => {
        const rows = cloud.ledgerAfter(vector).map((row) => ({ gate: row.gate, epoch: row.epoch, entry: { ...row.entry, hash: row.hash } }));
        return Buffer.from(JSON.stringify({ success: true, rows, more: false }));
      });
      return { status: 200, headers: {}, body: Object.assign([body].values(), { destroy: () => undefined }) as never };
    },
  };

  /** One round at a time; again until it succeeds. */
  const worker = (round: () => Promise<void>): (() => void) => {
    let wanted = false;
    let running = false;
    const run = async (): Promise<void> => {
      running = true;
      while (wanted) {
        wanted = false;
        try {
          await round();
        } catch {
          wanted = true;
          await new Promise<void>((resolve) => scheduler.after(RETRY_MS, owner, resolve));
        }
      }
      running = false;
    };
    return () => {
      wanted = true;
      if (!running) void run();
    };
  };
  const overlaysFrom = async (version: number): Promise<void> => {
    for (const overlay of await http(() => cloud.overlaysAfter(version))) {
      const applied = await decider.applyOverlay(overlay);
      if (!applied.ok && applied.why !== 'not_newer') throw new Error(applied.message);
    }
    changed();
  };
  const bringRights = async (): Promise<void> => {
    const needs = want === null ? [] : await decider.want(want);
    for (const need of needs) {
      if (need.since !== null) {
        await overlaysFrom(need.since);
        continue;
      }
      const file = await http(() => cloud.manifestFile(need.wanted as WantedManifest));
      const installed = await decider.installManifest(file, need.wanted);
      if (!installed.ok && installed.why !== 'not_newer') throw new Error(installed.message);
      changed();
    }
    if (gap) {
      gap = false;
      const held = (await decider.status()).manifests[0];
      if (held !== undefined) await overlaysFrom(held.overlayVersion);
    }
    if (needs.length > 0 && want !== null && (await decider.want(want)).length > 0) throw new Error('there is more');
  };
  const kickRights = worker(bringRights);
  const kickLedger = worker(async () => {
    await readSiteLedger({ gate, client, decider }, NEVER);
    changed();
  });
  const again = (): void => {
    kickLedger();
    scheduler.after(CATCH_UP_PERIOD_MS, owner, again);
  };

  let periodic: { cancel(): void } | null = null;
  let once: { cancel(): void } | null = null;
  return {
    async want(payload) {
      want = payload;
      kickRights();
    },
    async overlay(payload) {
      const result = await decider.applyOverlay(payload);
      if (result.ok) changed();
      if (result.ok || (result.why !== 'gap' && result.why !== 'io')) return;
      if (parsePayload(OverlayMessage, payload).ok) gap = true;
      kickRights();
    },
    async gap() {
      kickLedger();
      once?.cancel();
      once = scheduler.after(CATCH_UP_AGAIN_MS, owner, kickLedger);
    },
    async refresh() {
      kickRights();
      kickLedger();
      return {};
    },
    changed(listener) {
      changed = listener;
    },
    connected() {
      kickLedger();
      once?.cancel();
      periodic?.cancel();
      once = scheduler.after(CATCH_UP_AGAIN_MS, owner, kickLedger);
      periodic = scheduler.after(CATCH_UP_PERIOD_MS, owner, again);
    },
  };
}
