/**
 * Implements the uplink twice: lazily, loaded after the readers are open, because MQTT's library takes longer to load than the rest
 * of the start; and as none, for a gate that works alone.
 */
import type { AlertId, Severity } from '../../contract/messages.ts';
import type { Uplink, UplinkEvent } from '../ports.ts';

/** Keeps alerts and drops other messages until `load` has returned the uplink. Calls `failed` when loading fails. */
export function createLazyUplink<U extends Uplink>(
  load: () => Promise<U>,
  failed: (error: unknown) => void,
): Uplink & { /** The real one, once it is there. */ loaded(): U | null } {
  const alerts = new Map<AlertId, { severity: Severity; message: string }>();
  let real: U | null = null;
  let loading: Promise<void> | null = null;
  let closed = false;

  const begin = async (listener: (event: UplinkEvent) => void): Promise<void> => {
    const uplink = await load();
    if (closed) return;
    real = uplink;
    for (const [alert, { severity, message }] of alerts) uplink.raise(alert, severity, message);
    alerts.clear();
    uplink.open(listener);
  };
  return {
    loaded: () => real,
    open(listener) {
      loading = begin(listener).catch(failed);
    },
    async close(reason) {
      closed = true;
      await loading;
      await real?.close(reason);
    },
    online: () => real?.online() ?? false,
    kick: (again) => real?.kick(again),
    health: (health) => real?.health(health),
    stats: (stats) => real?.stats(stats),
    info: (info) => real?.info(info),
    event: (event) => real?.event(event),
    raise(alert, severity, message) {
      if (real === null) alerts.set(alert, { severity, message });
      else real.raise(alert, severity, message);
    },
    clear(alert) {
      if (real === null) alerts.delete(alert);
      else real.clear(alert);
    },
  };
}

/** Returns an uplink without a broker: rows stay in the ledger. */
export function createNoUplink(): Uplink {
  const nothing = () => undefined;
  return {
    open: nothing,
    close: async () => undefined,
    online: () => false,
    kick: nothing,
    health: nothing,
    stats: nothing,
    info: nothing,
    event: nothing,
    raise: nothing,
    clear: nothing,
  };
}
