/** Connects decider, uplink and manifest sync, which know one another only here. Loads the libraries of MQTT and HTTP after the readers are open. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { InfoMessage, Severity } from '../../contract/messages.ts';
import { isBundle } from '../../runtime/build-info.ts';
import type { Config } from '../config/load.ts';
import { createDeciderClient } from '../decider/client.ts';
import { type EarlyWorker, storeIdentity } from '../decider/early-start.ts';
import type { GateSync } from '../gate/gate.ts';
import type { Log } from '../log/log.ts';
import type { Clock, Decider, Uplink } from '../ports.ts';
import { createLazyUplink, createNoUplink } from './lazy-uplink.ts';
import type { ManifestSync } from './manifest-sync.ts';
import type { MqttUplink } from './mqtt-uplink.ts';

export interface Link {
  readonly decider: Decider;
  readonly uplink: Uplink;
  readonly sync: GateSync;
  /** Ends fetching. The gate closes uplink and decider itself. */
  close(): Promise<void>;
}

/** Composes without opening: the gate opens decider and uplink. Calls `info` when the uplink is loaded. `earlyWorker`: the decider's worker, if it runs already. */
export function composeLink(config: Config, clock: Clock, info: () => Omit<InfoMessage, 'schema'>, log: Log, earlyWorker?: EarlyWorker): Link {
  const { mqtt, cloud, gate } = config;
  const lookupBudgetMs = mqtt?.lookupMs ?? 0;

  const uplink: Uplink & { loaded?(): MqttUplink | null } =
    mqtt === null
      ? createNoUplink()
      : createLazyUplink(
          async () => {
            const { createUplink } = await import('./mqtt-uplink.ts');
            return createUplink({
              gate,
              clock,
              decider,
              url: mqtt.url,
              ca: bytes(mqtt.ca),
              // Read at every connection: a renewed certificate holds without a restart (daemon/cli/renew.ts).
              get cert() {
                return bytes(mqtt.cert);
              },
              get key() {
                return bytes(mqtt.key);
              },
              username: mqtt.username ?? undefined,
              password: secret(mqtt.passwordFile),
              info: info(),
              log,
              peersDropped: () => void sync.gap(),
              lateAnswer: ({ tickets }) => void decider.remember(tickets),
            });
          },
          (error) => log.error('loading the uplink failed: the gate works alone', { error }),
        );

  const decider = createDeciderClient({
    ...storeIdentity({ path: config.store.path, gate: config.gate, verifyKeys: config.keys }),
    clock,
    ...(isBundle() ? { workerUrl: new URL('./stile-decider.mjs', import.meta.url) } : {}),
    ...(earlyWorker === undefined ? {} : { thread: earlyWorker }),
    notice: (what, detail) => log.warn('store event', { what, detail }),
    ...(lookupBudgetMs === 0 ? {} : { lookupBudgetMs, lookup: async (refs) => (await uplink.loaded?.()?.ask([...refs], lookupBudgetMs))?.tickets ?? null }),
  });

  let fetching: Promise<ManifestSync> | null = null;
  let changed: () => void = () => undefined;
  let problem: string | null = null;
  // The gate raises one alert about its tickets, and puts this cause into it.
  const problems = {
    raise: (_alert: 'manifest', _severity: Severity, message: string) => {
      problem = message;
      changed();
    },
    clear: () => {
      problem = null;
      changed();
    },
  };
  const load = async (): Promise<ManifestSync> => {
    const [{ createManifestSync }, { createCloudClient }] = await Promise.all([import('./manifest-sync.ts'), import('./cloud-client.ts')]);
    const { url, ca, tokenFile } = cloud as NonNullable<Config['cloud']>;
    const client = createCloudClient({ url, token: secret(tokenFile), ca: bytes(ca), cert: bytes(mqtt?.cert ?? null), key: bytes(mqtt?.key ?? null) });
    return createManifestSync({
      gate,
      client,
      decider: notifyOnChange(decider, () => changed()),
      alerts: problems,
      folder: join(config.store.path, 'incoming'),
      log,
    });
  };
  const late = (): Promise<ManifestSync> => (fetching ??= load());
  const sync: GateSync =
    cloud === null
      ? createLocalSync(decider, log)
      : {
          want: async (payload) => (await late()).want(payload),
          overlay: async (payload) => (await late()).overlay(payload),
          gap: async () => (await late()).gap(),
          async refresh() {
            const received = (await uplink.loaded?.()?.requestWant()) ?? false;
            return { want_came: received, ...(await (await late()).refresh()) };
          },
          problem: () => problem,
          changed(listener) {
            changed = listener;
          },
        };

  const tellSync = (is: 'connected' | 'away') => {
    if (cloud !== null)
      late().then(
        (loaded) => loaded[is](),
        (error) => log.error('loading the manifest sync failed', { error }),
      );
  };
  return {
    decider,
    sync,
    uplink: {
      ...uplink,
      open: (listener) =>
        uplink.open((event) => {
          if (event.kind === 'online') tellSync('connected');
          if (event.kind === 'offline') tellSync('away');
          return listener(event);
        }),
    },
    close: async () => (await fetching?.catch(() => null))?.close(),
  };
}

/** Wraps the decider: calls `changed` after each call that may change its manifests or usage. */
function notifyOnChange(decider: Decider, changed: () => void): Decider {
  const notifying =
    <A extends readonly unknown[], R>(work: (...args: A) => Promise<R>) =>
    (...args: A) =>
      work(...args).finally(changed);
  return {
    ...decider,
    installManifest: notifying(decider.installManifest),
    applyOverlay: notifying(decider.applyOverlay),
    caughtUp: notifying(decider.caughtUp),
  };
}

const bytes = (path: string | null): Buffer | undefined => (path === null ? undefined : readFileSync(path));
const secret = (path: string | null): string | undefined => (path === null ? undefined : readFileSync(path, 'utf8').trim());

/** Returns a sync for a gate without a cloud: applies what the broker delivers and fetches nothing. */
function createLocalSync(decider: Decider, log: Log): GateSync {
  return {
    async want(payload) {
      const missing = await decider.want(payload);
      if (missing.length > 0) log.warn('fetching manifests failed: no cloud is configured', { events: missing.map(({ eventId }) => eventId) });
    },
    overlay: async (payload) => void (await decider.applyOverlay(payload)),
    async gap() {
      log.warn("fetching peers' rows failed: no cloud is configured");
    },
    async refresh() {
      return { fetched: 0, why: 'no cloud is configured' };
    },
  };
}
