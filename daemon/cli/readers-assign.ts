/** Implements readers assign: binds each of several equal readers to the USB socket from which its code arrives. */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { promisify } from 'node:util';
import { shownText } from '../../contract/text.ts';
import { UnsafePlaceError, writeSafeFile } from '../../runtime/safe-file.ts';
import type { GateClient } from '../control/client.ts';
import type { GateStatus, ReaderTapItem } from '../control/protocol.ts';
import { withGate } from './context.ts';
import { CliError, EXIT, print } from './exit-codes.ts';
import { plural } from './format.ts';
import type { CommonOptions } from './options.ts';
import { bindingRules, readerLink, type UsbPort, usbPorts } from './usb-ports.ts';

export const RULES_FILE = '/etc/udev/rules.d/61-stile-readers.rules';
/** Most ports that the gate opens for this; with more the command fails. */
const MAX_PORTS = 8;

export interface AssignOptions extends CommonOptions {
  readonly rules: string;
  /** Longest wait for each reader, in s. */
  readonly wait: number;
  /** Only print the rules. */
  readonly print?: boolean;
  /** Root of /sys and /run. */
  readonly machineRoot?: string;
}

interface Bound {
  readonly reader: string;
  readonly port: UsbPort;
}

export async function assign(names: readonly string[], options: AssignOptions): Promise<void> {
  const ports = usbPorts(options.machineRoot);
  if (ports.length === 0)
    throw new CliError(
      EXIT.failed,
      'there is no serial port on USB',
      'plug the readers in; a reader in keyboard mode has none: stile-gate doctor says how to change that',
    );
  if (ports.length > MAX_PORTS)
    throw new CliError(EXIT.failed, `there are ${ports.length} serial ports on USB, and at most ${MAX_PORTS} are tried`, 'unplug the others');
  const { bound, readers } = await withGate(options, async (gate) => {
    const status = await gate.call<GateStatus>('status');
    const wanted = names.length > 0 ? names : status.readers.map(({ name }) => name);
    for (const name of wanted)
      if (!status.readers.some((reader) => reader.name === name))
        throw new CliError(EXIT.usage, `no reader is called ${name}`, `readers names ${status.readers.map((reader) => reader.name).join(', ')}`);
    return { bound: await listen(gate, wanted, ports, options), readers: status.readers };
  });
  const rules = bindingRules(existing(options.rules), bound);
  const written = options.print !== true && write(options.rules, rules);
  const loaded = written && options.rules === RULES_FILE ? await reload() : false;
  const elsewhere = readers.filter(({ name, path }) => bound.some(({ reader }) => reader === name) && path !== readerLink(name));
  print(
    options.json,
    {
      assigned: bound.map(({ reader, port }) => ({ reader, port: port.dev, usb: port.usb, id_path: port.idPath, link: readerLink(reader) })),
      rules,
      file: options.rules,
      written,
    },
    () =>
      [
        written
          ? `${options.rules} written${loaded ? ' and read by udev' : options.rules === RULES_FILE ? '; plug the readers out and in again' : ''}`
          : `put this into ${options.rules} (with sudo this is done for you), then: udevadm control --reload && udevadm trigger --subsystem-match=tty\n\n${rules}`,
        ...elsewhere.map(({ name, path }) => `in gate.yaml, let reader ${name} have path: ${readerLink(name)} (it has ${path})`),
        ...(elsewhere.length > 0 ? ['then: systemctl restart stile-gate'] : []),
      ].join('\n'),
  );
}

/** Asks for a code at each reader in turn. Throws CliError when none arrives in time. */
async function listen(gate: GateClient, wanted: readonly string[], ports: readonly UsbPort[], options: AssignOptions): Promise<Bound[]> {
  const say = (text: string) => void (options.json !== true && process.stdout.write(shownText(`${text}\n`)));
  const faults = new Map<string, string>();
  let onCode: (port: string) => void = () => undefined;
  const ended = gate
    .call('hear', { ports: ports.map(({ dev }) => dev) }, (item) => {
      const news = item as ReaderTapItem;
      if ('fault' in news) faults.set(news.port, news.fault);
      else {
        faults.delete(news.port);
        onCode(news.port);
      }
    })
    .then(
      () => new CliError(EXIT.failed, 'the gate ended the call', 'try again'),
      (error: unknown) => error,
    );
  say(`${plural(ports.length, 'port')}: ${ports.map(({ dev, usb, product }) => `${dev} (USB ${usb}${product === '' ? '' : `, ${product}`})`).join(', ')}`);
  const bound: Bound[] = [];
  for (const reader of wanted) {
    say(`show any code to the reader ${reader}, within ${options.wait} s`);
    const port = await new Promise<UsbPort>((resolve, reject) => {
      const timer = setTimeout(() => reject(nothingCame(reader, options.wait, faults)), options.wait * 1000);
      void ended.then((error) => {
        clearTimeout(timer);
        reject(error);
      });
      onCode = (from) => {
        const found = ports.find(({ dev }) => dev === from);
        const before = bound.find((one) => one.port.dev === from);
        // The same reader again, or the code is still before the one just bound.
        if (before !== undefined) return say(`  that is the reader ${before.reader} again: show it to the other one`);
        if (found === undefined) return say(`  that code came from ${from}, which is not on USB and needs no binding`);
        clearTimeout(timer);
        resolve(found);
      };
    });
    bound.push({ reader, port });
    say(`  reader ${reader} is at USB ${port.usb} (${port.dev})`);
  }
  onCode = () => undefined;
  return bound;
}

const nothingCame = (reader: string, waitS: number, faults: ReadonlyMap<string, string>) =>
  new CliError(
    EXIT.failed,
    `no code came within ${waitS} s for reader ${reader}; nothing was written`,
    faults.size > 0
      ? [...faults].map(([port, fault]) => `${port}: ${fault}`).join('\n')
      : 'is it lit, does it beep? Show the code again; a reader in keyboard mode has no port (stile-gate doctor)',
  );

function existing(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** Writes the rules. Returns false when this user may not: the command then prints them. */
function write(path: string, rules: string): boolean {
  try {
    writeSafeFile(path, rules, { mode: 0o644 });
    return true;
  } catch (error) {
    if (error instanceof UnsafePlaceError) throw new CliError(EXIT.failed, error.message, 'name another with --rules, or print them with --print');
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS' || code === 'ENOENT') return false;
    throw new CliError(EXIT.failed, `${path} could not be written (${code})`, 'name another with --rules, or print them with --print');
  }
}

async function reload(): Promise<boolean> {
  const run = promisify(execFile);
  try {
    await run('udevadm', ['control', '--reload']);
    await run('udevadm', ['trigger', '--subsystem-match=tty', '--action=add']);
    return true;
  } catch {
    return false;
  }
}
