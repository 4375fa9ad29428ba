import { expect, test } from 'vitest';
import { createAlerts } from './alerts.ts';

test('an alert is published when it begins, changes its message or severity, and ends; not again where nothing changed', () => {
  const published: string[] = [];
  const alerts = createAlerts({
    uplink: { raise: (id, severity, message) => void published.push(`${id} ${severity} ${message}`), clear: (id) => void published.push(`${id} ended`) },
    clock: { wallMs: () => 7 },
    report: () => undefined,
  });
  alerts.raise('disk', 'warning', '90 % full');
  alerts.raise('disk', 'warning', '90 % full');
  alerts.raise('disk', 'warning', '95 % full');
  alerts.raise('disk', 'critical', '95 % full');
  alerts.clear('disk');
  alerts.clear('disk');
  expect(published).toEqual(['disk warning 90 % full', 'disk warning 95 % full', 'disk critical 95 % full', 'disk ended']);
});
