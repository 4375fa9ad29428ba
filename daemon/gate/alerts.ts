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
