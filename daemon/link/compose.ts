/** Decider, uplink and fetching, put together: they know one another only here. What MQTT and HTTP need is loaded after the readers are open. */
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
  /** Ends what is being fetched. The uplink and the decider are the gate's to close. */
  close(): Promise<void>;
}

/** Does nothing yet: the gate opens decider and uplink. `info` is asked for when the uplink is loaded. `deskThread`: the decider's worker, where it runs already. */
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
              cert: bytes(mqtt.cert),
              key: bytes(mqtt.key),
              username: mqtt.username ?? undefined,
              password: secret(mqtt.passwordFile),
              info: info(),
              log,
              peersDropped: () => void sync.gap(),
              lateAnswer: ({ tickets }) => void decider.remember(tickets),
            });
          },
          (error) => log.error('the uplink could not be loaded: the gate works alone', { error }),
        );

  const decider = createDeciderClient({
    ...storeIdentity({ path: config.store.path, gate: config.gate, verifyKeys: config.keys }),
    clock,
    ...(isBundle() ? { workerUrl: new URL('./stile-decider.mjs', import.meta.url) } : {}),
    ...(earlyWorker === undefined ? {} : { thread: earlyWorker }),
    notice: (what, detail) => log.warn('the store says', { what, detail }),
    ...(lookupBudgetMs === 0 ? {} : { lookupBudgetMs, lookup: async (refs) => (await uplink.loaded?.()?.ask([...refs], lookupBudgetMs))?.tickets ?? null }),
  });

  let fetching: Promise<ManifestSync> | null = null;
  let changed: () => void = () => undefined;
  let problem: string | null = null;
  // One alert says how it is with the tickets, and the gate words it: what stands here, what is too old, and why no other was fetched.
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
            const asked = (await uplink.loaded?.()?.askWant()) ?? false;
            return { want_came: asked, ...(await (await late()).refresh()) };
          },
          problem: () => problem,
          changed(listener) {
            changed = listener;
          },
        };

  const connected = () => {
    if (cloud !== null)
      late().then(
        (loaded) => loaded.connected(),
        (error) => log.error('fetching could not be loaded', { error }),
      );
  };
  return {
    decider,
    sync,
    uplink: {
      ...uplink,
      open: (listener) =>
        uplink.open((event) => {
          if (event.kind === 'online') connected();
          return listener(event);
        }),
    },
    close: async () => (await fetching?.catch(() => null))?.close(),
  };
}

/** The decider, and who is told after each call that may change what it knows of tickets or peers. */
function notifyOnChange(decider: Decider, changed: () => void): Decider {
  const told =
    <A extends readonly unknown[], R>(work: (...args: A) => Promise<R>) =>
    (...args: A) =>
      work(...args).finally(changed);
  return { ...decider, installManifest: told(decider.installManifest), applyOverlay: told(decider.applyOverlay), caughtUp: told(decider.caughtUp) };
}

const bytes = (path: string | null): Buffer | undefined => (path === null ? undefined : readFileSync(path));
const secret = (path: string | null): string | undefined => (path === null ? undefined : readFileSync(path, 'utf8').trim());

/** Without a cloud to fetch from: what comes by itself is taken, the rest can't be had. */
function createLocalSync(decider: Decider, log: Log): GateSync {
  return {
    async want(payload) {
      const missing = await decider.want(payload);
      if (missing.length > 0) log.warn('tickets are wanted that cannot be fetched: no cloud is configured', { events: missing.map(({ eventId }) => eventId) });
    },
    overlay: async (payload) => void (await decider.applyOverlay(payload)),
    async gap() {
      log.warn("rows of the site's other gates are missing and cannot be fetched: no cloud is configured");
    },
    async refresh() {
      return { fetched: 0, why: 'no cloud is configured' };
    },
  };
}
