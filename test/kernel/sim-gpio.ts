/** The header of a Pi, made by the kernel's gpio-sim: its wires seen and driven from the kernel's side. Runs inside the guest. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';

export const LABEL = 'pinctrl-bcm2711';
const LINES = 54;
const CONFIGFS = '/sys/kernel/config/gpio-sim/stile';
const TRACE = '/sys/kernel/tracing';
const SYSFS = '/sys/class/gpio';

export type Level = 'high' | 'low';

export interface Header {
  /** The level on a line's wire. */
  wire(line: number): Level;
  /** Puts an input's wire to a level, as a contact would. */
  drive(line: number, level: Level): void;
  /** Returns the bias of the wire, such as `pull-up`: set by `drive`, or by the holder of the line. */
  pull(line: number): string;
  /** Every level that the kernel was told to drive a line to since `forget`, with the kernel's own time (CLOCK_MONOTONIC, ms). */
  driven(line: number): readonly { readonly level: Level; readonly atMs: number }[];
  forget(): void;
  /** Gives every line that sysfs holds back to the kernel. */
  unexport(): void;
}

/** CLOCK_MONOTONIC, as the kernel's trace tells time. */
export const monotonicMs = (): number => Number(process.hrtime.bigint()) / 1e6;

export function makeHeader(): Header {
  if (!existsSync(CONFIGFS)) {
    if (!existsSync(dirname(CONFIGFS))) execFileSync('mount', ['-t', 'configfs', 'configfs', '/sys/kernel/config']);
    // Not with `recursive`: Node tries for ever where the kernel's tree does not take a folder.
    for (const folder of [CONFIGFS, `${CONFIGFS}/bank0`]) mkdirSync(folder);
    writeFileSync(`${CONFIGFS}/bank0/num_lines`, String(LINES));
    writeFileSync(`${CONFIGFS}/bank0/label`, LABEL);
    writeFileSync(`${CONFIGFS}/live`, '1');
  }
  const text = (path: string) => readFileSync(path, 'utf8').trim();
  const device = `/sys/devices/platform/${text(`${CONFIGFS}/dev_name`)}/${text(`${CONFIGFS}/bank0/chip_name`)}`;
  const line = (number: number, attribute: 'value' | 'pull') => `${device}/sim_gpio${number}/${attribute}`;
  const bySysfs = existsSync(SYSFS) ? readdirSync(SYSFS).find((name) => name.startsWith('gpiochip') && text(`${SYSFS}/${name}/label`) === LABEL) : undefined;
  const base = bySysfs === undefined ? 0 : Number(text(`${SYSFS}/${bySysfs}/base`));
  if (existsSync(`${TRACE}/events/gpio/gpio_value/enable`)) {
    writeFileSync(`${TRACE}/trace_clock`, 'mono');
    writeFileSync(`${TRACE}/events/gpio/gpio_value/filter`, 'get==0');
    writeFileSync(`${TRACE}/events/gpio/gpio_value/enable`, '1');
  }
  return {
    wire: (number) => (text(line(number, 'value')) === '1' ? 'high' : 'low'),
    drive: (number, level) => writeFileSync(line(number, 'pull'), level === 'high' ? 'pull-up' : 'pull-down'),
    pull: (number) => text(line(number, 'pull')),
    driven(number) {
      return text(`${TRACE}/trace`)
        .split('\n')
        .flatMap((row) => {
          const found = /\s(\d+\.\d+): gpio_value: (\d+) set (\d)/.exec(row);
          return found !== null && Number(found[2]) === base + number
            ? [{ atMs: Number(found[1]) * 1_000, level: found[3] === '1' ? ('high' as const) : ('low' as const) }]
            : [];
        });
    },
    forget: () => writeFileSync(`${TRACE}/trace`, ''),
    unexport() {
      for (const name of existsSync(SYSFS) ? readdirSync(SYSFS) : []) {
        const number = /^gpio(\d+)$/.exec(name)?.[1];
        if (number !== undefined) writeFileSync(`${SYSFS}/unexport`, number);
      }
    },
  };
}
