/** Reads the machine's facts and metrics, for `info` and `health`. A missing reading is absent, never zero. */
import { readdirSync, readFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { cutText } from '../../contract/text.ts';

export interface MachineFacts {
  readonly kernel: string;
  readonly hardware_model: string | null;
  readonly hardware_serial: string | null;
  readonly image: string | null;
}
export interface MachineReadings {
  readonly rss_mb: number;
  readonly uptime_s: number;
  readonly cpu_temp_c?: number;
  readonly under_voltage?: 0 | 1;
}

export interface Telemetry {
  /** Returns what does not change while the machine runs. */
  facts(): MachineFacts;
  readings(): MachineReadings;
  /** Returns the longest delay of the loop since the last call, in ms; null before the first tick. */
  loopLagMs(): number | null;
  close(): void;
}

/** Interval of the delay samples, in ms. */
const LAG_RESOLUTION_MS = 20;

/** `root`: where /proc, /sys and /etc hang, for tests. */
export function createTelemetry(options: { readonly root?: string } = {}): Telemetry {
  const root = options.root ?? '/';
  const cut = (text: string | null, maxChars: number): string | null => (text === null ? null : cutText(text, maxChars));
  const read = (path: string): string | null => {
    try {
      return readFileSync(join(root, path), 'utf8').replaceAll('\0', '').trim();
    } catch {
      return null;
    }
  };
  /** Returns the first device of a class whose file says so. */
  const device = (folder: string, called: string, file: string, says: RegExp): string | undefined => {
    let names: string[];
    try {
      names = readdirSync(join(root, folder))
        .filter((name) => name.startsWith(called))
        .sort();
    } catch {
      return undefined;
    }
    return names.map((name) => join(folder, name)).find((path) => says.test(read(join(path, file)) ?? ''));
  };
  // The firmware reports under-voltage through the hwmon device `rpi_volt`; which number it has differs by boot.
  const findDevices = () => ({
    volt: device('sys/class/hwmon', 'hwmon', 'name', /^rpi_volt$/),
    zone: device('sys/class/thermal', 'thermal_zone', 'type', /cpu|soc|x86_pkg/) ?? 'sys/class/thermal/thermal_zone0',
  });
  // Found at the first read, so that the start does not wait.
  let devices: ReturnType<typeof findDevices> | null = null;
  const delay = monitorEventLoopDelay({ resolution: LAG_RESOLUTION_MS });
  delay.enable();
  return {
    facts: () => ({
      kernel: release(),
      hardware_model: cut(read('proc/device-tree/model'), 128),
      hardware_serial: cut(read('proc/device-tree/serial-number'), 64),
      image: cut(read('etc/stile/image'), 64),
    }),
    readings() {
      devices ??= findDevices();
      const milliCelsius = read(join(devices.zone, 'temp'));
      const low = devices.volt === undefined ? null : read(join(devices.volt, 'in0_lcrit_alarm'));
      return {
        rss_mb: Math.round(process.memoryUsage.rss() / 104_857.6) / 10,
        uptime_s: Math.round(process.uptime()),
        ...(milliCelsius !== null && /^-?\d+$/.test(milliCelsius) ? { cpu_temp_c: Math.round(Number(milliCelsius) / 100) / 10 } : {}),
        ...(low === '0' || low === '1' ? { under_voltage: Number(low) as 0 | 1 } : {}),
      };
    },
    loopLagMs() {
      // The histogram counts whole intervals; what is above the resolution is lateness. The first interval after a reset is not counted.
      const lag = delay.count === 0 ? null : Math.max(0, delay.max / 1e6 - LAG_RESOLUTION_MS);
      delay.reset();
      return lag === null ? null : Math.round(lag * 10) / 10;
    },
    close() {
      delay.disable();
    },
  };
}
