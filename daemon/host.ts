/** What the machine says of itself, for `info` and `health`. Every reading is optional: what is not there is left out. */
import { globSync, readFileSync } from 'node:fs';
import { release } from 'node:os';
import type { InfoMessage } from '../contract/messages.ts';
import type { Config } from './config.ts';
import type { HostHealth } from './gate.ts';
import type { Clock } from './ports.ts';
import type { Version } from './version.ts';

function readText(path: string): string | null {
  try {
    return readFileSync(path, 'utf8').replaceAll('\0', '').trim();
  } catch {
    return null;
  }
}

/** Published, retained, with every connection. */
export function gateInfo(config: Config, clock: Clock, { version, commit }: Version): Omit<InfoMessage, 'schema'> {
  return {
    version, commit, runtime: `node ${process.version}`, kernel: release(),
    // The card image names itself there.
    image: readText('/etc/stile/image')?.slice(0, 64) ?? null,
    hardware_model: readText('/proc/device-tree/model')?.slice(0, 128) ?? null,
    hardware_serial: readText('/proc/device-tree/serial-number')?.slice(0, 64) ?? null,
    boot_id: clock.bootId, booted_at: new Date(clock.wallMs() - clock.boottimeMs()).toISOString(), config_sha256: config.sha256,
    readers: config.readers.map(({ name, path, baud, direction }) => ({ name, path: path.slice(0, 255), baud, direction })),
    cert_expires_at: config.certificate === null ? null : new Date(config.certificate.notAfterMs).toISOString(),
  };
}

/** The Pi's firmware tells of too little voltage through a hwmon device; found once, read every time. */
export function createHostHealth(): () => HostHealth {
  const alarm = globSync('/sys/class/hwmon/hwmon*/in0_lcrit_alarm')[0];
  return () => {
    const milliCelsius = Number(readText('/sys/class/thermal/thermal_zone0/temp') ?? Number.NaN);
    const voltage = alarm === undefined ? null : readText(alarm);
    return {
      rss_mb: Math.round(process.memoryUsage.rss() / 104_857.6) / 10,
      uptime_s: Math.round(process.uptime()),
      ...(Number.isFinite(milliCelsius) ? { cpu_temp_c: Math.round(milliCelsius / 100) / 10 } : {}),
      ...(voltage === null ? {} : { under_voltage: voltage === '0' ? 0 : 1 }),
    };
  };
}
