import { expect, test } from 'vitest';
import { createAlerts, createPowerAlert, createUsageAlert } from './alerts.ts';
import type { Outcome } from './outcome.ts';

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

const reported = (): { readonly seen: string[]; readonly report: (outcome: Outcome) => void } => {
  const seen: string[] = [];
  return {
    seen,
    report: (outcome) =>
      void (outcome.kind === 'raise' ? seen.push(`+${outcome.alert} ${outcome.severity}`) : outcome.kind === 'clear' && seen.push(`-${outcome.alert}`)),
  };
};

test('L5 under-voltage of 10 s raises power as a warning, and its end clears it', () => {
  const { seen, report } = reported();
  const power = createPowerAlert({ report });
  power.read(0, 1);
  power.read(9_999, 1);
  power.read(10_000, 1);
  power.read(11_000, 0);
  expect(seen).toEqual(['-power', '-power', '+power warning', '-power']);
});

test('L5 the fifth under-voltage within an hour raises power', () => {
  const { seen, report } = reported();
  const power = createPowerAlert({ report });
  for (let n = 0; n < 5; n += 1) {
    power.read(n * 60_000, 1);
    power.read(n * 60_000 + 1_000, 0);
  }
  expect(seen.slice(-3)).toEqual(['-power', '+power warning', '+power warning']);
  power.read(3_600_000 + 1, 0);
  expect(seen.at(-1)).toBe('-power');
});

test('L5 a machine that measures no voltage raises nothing', () => {
  const { seen, report } = reported();
  createPowerAlert({ report }).read(0, undefined);
  expect(seen).toEqual([]);
});

test('usage that is lost for 10 min is critical, and complete usage clears it', () => {
  const { seen, report } = reported();
  const usage = createUsageAlert({ report });
  usage.poll(0, false);
  usage.poll(599_999, false);
  expect(seen).toEqual([]);
  usage.poll(600_000, false);
  usage.poll(600_250, true);
  expect(seen).toEqual(['+usage-lost critical', '-usage-lost']);
});
