/** Holds the active alerts and publishes each when it begins, changes its message and ends. */

import { MAX_TEXT_CHARS } from '../../contract/limits.ts';
import type { AlertId, Severity } from '../../contract/messages.ts';
import { cutText } from '../../contract/text.ts';
import type { Clock, Uplink } from '../ports.ts';
import type { ActiveAlert, Report } from './outcome.ts';

/** The clock alert is raised when the clock has been untrusted for this long, ms: without a time server a gate trusts its clock only after the first round trip with the cloud. */
export const CLOCK_ALERT_AFTER_MS = 15_000;

export interface Alerts {
  raise(id: AlertId, severity: Severity, message: string): void;
  clear(id: AlertId): void;
  active(): readonly ActiveAlert[];
}

export function createAlerts(options: {
  readonly uplink: Pick<Uplink, 'raise' | 'clear'>;
  readonly clock: Pick<Clock, 'wallMs'>;
  readonly report: Report;
}): Alerts {
  const active = new Map<AlertId, ActiveAlert>();
  return {
    raise(id, severity, message) {
      const text = cutText(message, MAX_TEXT_CHARS);
      const before = active.get(id);
      if (before?.severity === severity && before.message === text) return;
      const alert = { id, severity, message: text, sinceWallMs: before?.sinceWallMs ?? options.clock.wallMs() };
      active.set(id, alert);
      options.uplink.raise(id, severity, text);
      options.report({ kind: 'alert_changed', alert, active: true });
    },
    clear(id) {
      const alert = active.get(id);
      if (alert === undefined) return;
      active.delete(id);
      options.uplink.clear(id);
      options.report({ kind: 'alert_changed', alert, active: false });
    },
    active: () => [...active.values()],
  };
}

export interface ClockAlert {
  /** Raises or clears the alert `clock`. */
  poll(nowMs: number): void;
}

export function createClockAlert({ clock, report }: { readonly clock: Pick<Clock, 'trusted'>; readonly report: Report }): ClockAlert {
  let untrustedSinceMs: number | null = null;
  return {
    poll(nowMs) {
      if (clock.trusted()) {
        untrustedSinceMs = null;
        return report({ kind: 'clear', alert: 'clock' });
      }
      untrustedSinceMs ??= nowMs;
      if (nowMs - untrustedSinceMs < CLOCK_ALERT_AFTER_MS) return;
      report({ kind: 'raise', alert: 'clock', severity: 'warning', message: 'the wall clock is not trusted: validity is judged by the policy for it' });
    },
  };
}

/** Usage counts as lost for good, and the alert `usage-lost` is raised, after this, ms. */
export const USAGE_ALERT_AFTER_MS = 10 * 60_000;
/** Under-voltage in a row for this long raises `power`, ms. */
export const POWER_ALERT_AFTER_MS = 10_000;
/** So many times of under-voltage within POWER_WINDOW_MS raise `power`. */
export const POWER_ALERT_TIMES = 5;
/** Window of POWER_ALERT_TIMES, and how long `power` stays after the last of them, ms. */
export const POWER_WINDOW_MS = 3_600_000;

export interface UsageAlert {
  /** Counts an admission without usage. */
  admitted(): void;
  /** Raises or clears the alert `usage-lost`. `complete`: null where the store says nothing. */
  poll(nowMs: number, complete: boolean | null): void;
}

export function createUsageAlert({ report }: { readonly report: Report }): UsageAlert {
  let sinceMs: number | null = null;
  let admissions = 0;
  return {
    admitted() {
      admissions += 1;
    },
    poll(nowMs, complete) {
      if (complete === null) return;
      if (complete) {
        sinceMs = null;
        admissions = 0;
        return report({ kind: 'clear', alert: 'usage-lost' });
      }
      sinceMs ??= nowMs;
      if (nowMs - sinceMs < USAGE_ALERT_AFTER_MS) return;
      const message = `this gate has not known for 10 min who is inside: ${admissions} guests were admitted without it. See its connection to the cloud`;
      report({ kind: 'raise', alert: 'usage-lost', severity: 'critical', message });
    },
  };
}

export interface PowerAlert {
  /** Takes one reading; undefined: this machine measures none. Raises or clears the alert `power`. */
  read(nowMs: number, underVoltage: 0 | 1 | undefined): void;
}

/** Under-voltage is never critical: it rings nobody, and the cause is a cable or a power supply. */
export function createPowerAlert({ report }: { readonly report: Report }): PowerAlert {
  let sinceMs: number | null = null;
  let times: number[] = [];
  return {
    read(nowMs, underVoltage) {
      if (underVoltage === undefined) return;
      if (underVoltage === 1 && sinceMs === null) times.push(nowMs);
      sinceMs = underVoltage === 0 ? null : (sinceMs ?? nowMs);
      times = times.filter((atMs) => nowMs - atMs < POWER_WINDOW_MS).slice(-POWER_ALERT_TIMES);
      const lasts = sinceMs !== null && nowMs - sinceMs >= POWER_ALERT_AFTER_MS;
      if (!lasts && times.length < POWER_ALERT_TIMES) return report({ kind: 'clear', alert: 'power' });
      const message = lasts ? 'under-voltage for 10 s or longer' : `under-voltage ${times.length} times within an hour`;
      report({ kind: 'raise', alert: 'power', severity: 'warning', message: `${message}: use the power supply of the Pi's model and a short cable` });
    },
  };
}
