/** Checks the hardware for doctor: readers, GPIO lines, disk. */
import { accessSync, constants, existsSync, readFileSync, realpathSync, statfsSync, statSync } from 'node:fs';
import { gpioOffer } from '../board/gpio-board.ts';
import { firmwareLines, normaliseLines, powerOnLevel } from '../board/pin-map.ts';
import type { Config } from '../config/load.ts';
import type { GateStatus } from '../control/protocol.ts';
import { holdsFree } from '../lane/config.ts';
import { portHolders } from '../reader/port-holders.ts';
import { type Check, fail, ok, warn } from './check-result.ts';
import { measureDisk } from './disk-benchmark.ts';
import { findKeyboardReaders } from './keyboard-readers.ts';

const LOW_DISK_MB = 500;
const FULL_DISK_MB = 50;
const INPUT_DEVICES = '/proc/bus/input/devices';
const BOOT_FILES = ['/boot/firmware/config.txt', '/boot/config.txt'];

export function readerChecks(config: Config, running: GateStatus | null): Check[] {
  const keyboards = findKeyboardReaders(textOf(INPUT_DEVICES) ?? '');
  const checks = config.readers.map((reader) => readerCheck(reader, running, keyboards.length > 0));
  const named = keyboards.map(({ name, usb, hint }) =>
    warn('reader', `${name} (${usb}) is in keyboard mode: it types codes and has no serial port`, `put it into serial mode: ${hint}`),
  );
  return [...checks, ...named];
}

const countsText = ({ bytes, frames, garbled, unknown }: GateStatus['readers'][number]): string =>
  `${bytes} bytes, ${frames} frames, ${garbled} garbled, ${unknown} unknown`;

function readerCheck({ name, path }: Config['readers'][number], running: GateStatus | null, keyboardThere: boolean): Check {
  const part = `reader ${name}`;
  const known = running?.readers.find((reader) => reader.name === name);
  const others = portHolders(path).filter(({ pid }) => pid !== running?.pid);
  if (others.length > 0) {
    const names = others.map(({ name, pid }) => `${name} (pid ${pid})`).join(', ');
    return fail(part, `another program has ${path} open: ${names}`, 'stop it and disable its service: what it reads never reaches the gate');
  }
  if (known?.ok === true && known.problem) return fail(part, `${known.problem.cause} (${countsText(known)})`, known.problem.hint);
  if (known?.ok === true) return ok(part, `open on ${path}; ${countsText(known)}`);
  if (!existsSync(path))
    return fail(
      part,
      `${path} is not there`,
      keyboardThere
        ? 'a reader is in keyboard mode (below): put it into serial mode'
        : 'plug the reader in, or name its port in readers (ls -l /dev/serial/by-id); two equal readers: stile-gate readers assign',
    );
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
  } catch {
    return fail(part, `${path} may not be used by this user`, "join the group dialout, or run this as the gate's user: sudo -u stile-gate stile-gate doctor");
  }
  if (!statSync(path).isCharacterDevice()) return fail(part, `${path} is no serial port`, "name the reader's port, such as /dev/serial/by-id/…");
  if (known !== undefined)
    return fail(part, `the gate cannot open ${path}`, "end what else uses it (ModemManager, a terminal program), and see the gate's journal");
  return ok(part, `${path}${realpathSync(path) === path ? '' : ` (${realpathSync(path)})`} is there; the gate is not running, so it was not tried`);
}

export function boardChecks(config: Config, running: GateStatus | null): Check[] {
  const checks: Check[] = [];
  const offer = gpioOffer();
  if (config.board.driver === 'sim')
    checks.push(
      running === null || running.board.ok
        ? warn('board', 'is a software turnstile: no real lane moves', 'set board.driver to gpio on a gate')
        : fail('board', 'the software turnstile reports a fault', 'clear the fault on its socket'),
    );
  else if (running !== null)
    checks.push(
      running.board.ok
        ? ok('board', `every line is held by the gate: ${running.board.by}`)
        : fail('board', 'a line could not be driven or read', 'see the alert board in stile-gate status, and the wiring'),
    );
  else if (offer === null)
    checks.push(
      fail('board', 'this machine offers no GPIO, neither by /sys/class/gpio nor by /dev/gpiochip*', 'use a Raspberry Pi, or set board.driver to sim'),
    );
  else checks.push(ok('board', `GPIO is there (${offer}); the gate is not running, so no line was tried`));
  return config.board.driver === 'gpio'
    ? [...checks, ...bootLevels(config, BOOT_FILES.map(textOf).find((text) => text !== null) ?? null), ...exitWithoutProcess(config)]
    : checks;
}

/** Checks whether the way out opens when the process is dead. */
export function exitWithoutProcess({ board, turnstile }: Pick<Config, 'board' | 'turnstile'>): Check[] {
  const out = board.outputs.release_out;
  if (out === undefined) return [];
  if (holdsFree(turnstile)) {
    if ((out.safe ?? out.active) === out.active) return [ok('exit', 'the way out stands open when the gate does not run')];
    return [
      warn(
        'exit',
        'board.outputs.release_out.safe closes the way out when the gate does not run',
        'leave safe out: where a held signal frees, it is open by default',
      ),
    ];
  }
  return [
    warn(
      'exit',
      'free_by repulse: with the process dead nothing keeps the way out open',
      'kill the process without a fire and try: does the way out turn freely, and if not, who stands there? Use free_by hold where the turnstile takes it',
    ),
  ];
}

/** Checks the lines' levels from power-on. `bootFile`: the Pi's config.txt, if any; lines that it sets are safe from power-on. */
export function bootLevels(config: Pick<Config, 'board'>, bootFile: string | null): Check[] {
  const lines = normaliseLines(config.board);
  const held = new Set((bootFile ?? '').split('\n').map((text) => text.trim()));
  return lines.outputs.flatMap((output): Check[] => {
    const { name, line, safe } = output;
    if (!name.startsWith('release') || powerOnLevel(line) === safe) return [];
    const wanted = firmwareLines({ outputs: [output], inputs: [] })[0] as string;
    if (held.has(wanted)) return [ok('board', `line ${line} (${name}) is held ${safe} by the firmware from power-on (${wanted})`)];
    return [
      warn(
        'board',
        `line ${line} (${name}) is ${powerOnLevel(line)} from power-on until the gate runs, and its safe level is ${safe}: the lane may open while booting`,
        `put ${wanted} into config.txt (stile-gate config --boot-lines; the installer does it), or use a line ${safe === 'low' ? 'above 8' : 'from 0 to 8'}`,
      ),
    ];
  });
}

export function diskCheck({ store }: Config): Check {
  try {
    accessSync(store.path, constants.R_OK | constants.X_OK);
    const { bavail, bsize } = statfsSync(store.path);
    const freeMb = Math.floor((bavail * bsize) / 1_048_576);
    if (freeMb < FULL_DISK_MB)
      return fail('disk', `${freeMb} MB free in ${store.path}: admissions will soon not be recorded, and then not given`, 'free disk space');
    return freeMb < LOW_DISK_MB ? warn('disk', `${freeMb} MB free in ${store.path}`, 'free disk space') : ok('disk', `${freeMb} MB free in ${store.path}`);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    return code === 'ENOENT'
      ? warn('disk', `${store.path} is not there yet`, 'the gate makes it at its first start, if it may')
      : fail('disk', `${store.path} may not be read (${code})`, "run this as the gate's user, or with sudo");
  }
}

/** Measures the disk: writes a few hundred kilobytes, for at most three seconds. */
export function storageCheck({ store, board, turnstile }: Config): Check[] {
  if (!existsSync(store.path)) return [];
  try {
    const { p50Ms, p99Ms, flushes, inMemory, incredible } = measureDisk(store.path);
    const measured = `${flushes} writes, each synced after ${shownMs(p50Ms)} (half of them), ${shownMs(p99Ms)} (the slowest of a hundred)`;
    if (inMemory)
      return [(board.driver === 'sim' ? warn : fail)('card', `${store.path} is in memory: a power cut erases it`, 'set store.path to a folder on disk')];
    if (incredible)
      return [
        warn(
          'card',
          `${measured}: faster than any SD card can sync`,
          'it may report a sync before the data is safe: use another SD card or disk (a protected cache, as in servers, is fine), or test it by cutting the power',
        ),
      ];
    if (p99Ms > turnstile.waitAfterMs)
      return [warn('card', `${measured}: guests will see "wait"`, 'use a faster SD card (class A2, industrial), and see what else writes to this one')];
    return [ok('card', measured)];
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    return code === 'EACCES' || code === 'EPERM'
      ? [warn('card', `not measured: this user may not write in ${store.path}`, "run this as the gate's user: sudo -u stile-gate stile-gate doctor")]
      : [fail('card', `${store.path} is not writable (${code})`, 'see dmesg; an SD card that has gone read-only is worn out: replace it')];
  }
}

const shownMs = (ms: number): string => (ms < 1 ? `${Math.round(ms * 1000)} µs` : `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`);

function textOf(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return null;
  }
}
