/** Alerts that stand now: each is told to the uplink when it begins, changes its words, and ends. */

import { MAX_TEXT_CHARS } from '../../contract/limits.ts';
import type { AlertId, Severity } from '../../contract/messages.ts';
import { cutText } from '../../contract/text.ts';
import type { Clock, Uplink } from '../ports.ts';
import type { ActiveAlert } from './live-feed.ts';

export interface Alerts {
  raise(id: AlertId, severity: Severity, message: string): void;
  clear(id: AlertId): void;
  active(): readonly ActiveAlert[];
}

export function createAlerts(options: {
  readonly uplink: Pick<Uplink, 'raise' | 'clear'>;
  readonly clock: Pick<Clock, 'wallMs'>;
  readonly changed: (alert: ActiveAlert, active: boolean) => void;
}): Alerts {
  const standing = new Map<AlertId, ActiveAlert>();
  return {
    raise(id, severity, message) {
      const text = cutText(message, MAX_TEXT_CHARS);
      const before = standing.get(id);
      if (before?.severity === severity && before.message === text) return;
      const alert = { id, severity, message: text, sinceWallMs: before?.sinceWallMs ?? options.clock.wallMs() };
      standing.set(id, alert);
      options.uplink.raise(id, severity, text);
      options.changed(alert, true);
    },
    clear(id) {
      const alert = standing.get(id);
      if (alert === undefined) return;
      standing.delete(id);
      options.uplink.clear(id);
      options.changed(alert, false);
    },
    active: () => [...standing.values()],
  };
}
