import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';
import { createTelemetry } from './host-metrics.ts';

function machine(files: Record<string, string>): string {
  const root = mkdtempSync(join(tmpdir(), 'stile-machine-'));
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return root;
}

test('reads what a Pi says of itself', () => {
  const root = machine({
    'proc/device-tree/model': 'Raspberry Pi 4 Model B Rev 1.5\0',
    'proc/device-tree/serial-number': '10000000abcdef01\0',
    'sys/class/thermal/thermal_zone0/type': 'cpu-thermal\n',
    'sys/class/thermal/thermal_zone0/temp': '54321\n',
    'sys/class/hwmon/hwmon0/name': 'cpu_thermal\n',
    'sys/class/hwmon/hwmon0/in0_lcrit_alarm': '0\n',
    'sys/class/hwmon/hwmon3/name': 'rpi_volt\n',
    'sys/class/hwmon/hwmon3/in0_lcrit_alarm': '1\n',
    'etc/stile/image': '2026.11-a\n',
  });
  const telemetry = createTelemetry({ root });
  expect(telemetry.facts()).toMatchObject({ hardware_model: 'Raspberry Pi 4 Model B Rev 1.5', hardware_serial: '10000000abcdef01', image: '2026.11-a' });
  expect(telemetry.readings()).toMatchObject({ cpu_temp_c: 54.3, under_voltage: 1 });
  writeFileSync(join(root, 'sys/class/hwmon/hwmon3/in0_lcrit_alarm'), '0\n');
  expect(telemetry.readings().under_voltage).toBe(0);
  telemetry.close();
  rmSync(root, { recursive: true });
});

test('leaves out what is not there', () => {
  const root = machine({ 'sys/class/thermal/thermal_zone0/temp': 'n/a' });
  const telemetry = createTelemetry({ root });
  expect(telemetry.facts()).toMatchObject({ hardware_model: null, hardware_serial: null, image: null });
  expect(Object.keys(telemetry.readings()).sort()).toEqual(['rss_mb', 'uptime_s']);
  expect(telemetry.readings().rss_mb).toBeGreaterThan(1);
  telemetry.close();
  rmSync(root, { recursive: true });
});

test('sees a loop that stood still, once', async () => {
  const telemetry = createTelemetry();
  await new Promise((resolve) => setTimeout(resolve, 60));
  telemetry.loopLagMs();
  await new Promise((resolve) => setTimeout(resolve, 60));
  const end = performance.now() + 150;
  while (performance.now() < end);
  await new Promise((resolve) => setTimeout(resolve, 60));
  expect(telemetry.loopLagMs()).toBeGreaterThan(90);
  telemetry.close();
});
