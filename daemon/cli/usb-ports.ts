/** Lists serial ports on USB with their sockets, from the files of kernel and udev. */
import { readdirSync, readFileSync, realpathSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';

export interface UsbPort {
  /** `/dev/ttyACM0`: may change when it is plugged in again. */
  readonly dev: string;
  /** Of the interface: `1-1.3:1.0`. The same as long as it is plugged into the same socket. */
  readonly usb: string;
  /** udev's ID_PATH, which names the controller as well; null: udev has none. */
  readonly idPath: string | null;
  /** Product name of the device; may be empty. */
  readonly product: string;
}

const INTERFACE = /^\d+-\d+(\.\d+)*:\d+\.\d+$/;

/** Returns the ports. `root`: root of /sys and /run, for tests. */
export function usbPorts(root = '/'): readonly UsbPort[] {
  const folder = join(root, 'sys/class/tty');
  return namesIn(folder)
    .flatMap((name): UsbPort[] => {
      const device = attempt(() => realpathSync(join(folder, name, 'device')));
      if (device === undefined) return [];
      let at = device;
      while (!INTERFACE.test(basename(at)) && dirname(at) !== at) at = dirname(at);
      if (!INTERFACE.test(basename(at))) return [];
      const number = textOf(join(folder, name, 'dev'));
      const udev = number === '' ? '' : textOf(join(root, `run/udev/data/c${number}`));
      return [
        {
          // The kernel writes ! for / in names.
          dev: `/dev/${name.replaceAll('!', '/')}`,
          usb: basename(at),
          idPath: /^E:ID_PATH=(\S+)$/m.exec(udev)?.[1] ?? null,
          product: textOf(join(dirname(at), 'product')),
        },
      ];
    })
    .sort((a, b) => (a.usb < b.usb ? -1 : 1));
}

const namesIn = (folder: string): readonly string[] => attempt(() => readdirSync(folder)) ?? [];
const textOf = (path: string): string => attempt(() => readFileSync(path, 'utf8').trim()) ?? '';

function attempt<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch {
    return undefined;
  }
}

/** Returns the link of a bound reader, which does not depend on its device name. */
export const readerLink = (name: string): string => `/dev/stile-reader-${name}`;

const RULE = /^SUBSYSTEM=="tty", (\S+)=="([^"]+)", SYMLINK\+="stile-reader-([a-z0-9-]+)"$/;
const HEAD = '# Readers by the USB socket that they are plugged into. Written by stile-gate readers assign.';

/** Returns the udev rules with these bindings; keeps other bindings of `before`. */
export function bindingRules(before: string, bound: readonly { readonly reader: string; readonly port: UsbPort }[]): string {
  const fresh = bound.map(({ reader, port }) => ({
    key: port.idPath === null ? 'KERNELS' : 'ENV{ID_PATH}',
    value: port.idPath ?? port.usb,
    reader,
    usb: port.usb,
  }));
  const kept = before.split('\n').filter((line) => {
    const [, , value, reader] = RULE.exec(line) ?? [];
    return value !== undefined && !fresh.some((rule) => rule.reader === reader || rule.value === value || rule.usb === value);
  });
  return `${[HEAD, ...kept, ...fresh.map(({ key, value, reader }) => `SUBSYSTEM=="tty", ${key}=="${value}", SYMLINK+="stile-reader-${reader}"`)].join('\n')}\n`;
}
