/**
 * Finds readers in keyboard mode, which type codes and have no serial port, in the kernel's list of input devices, and says how to
 * put known makes into serial mode.
 */

export interface KeyboardReader {
  readonly name: string;
  /** USB ids, hex: `0c2e:0b61`. */
  readonly usb: string;
  /** Instruction that puts it into serial mode. */
  readonly hint: string;
}

/** Makers by their USB vendor id. Codes are named as the makers' manuals name them. */
const MAKERS: Readonly<Record<string, string>> = {
  '0c2e': 'Honeywell: read the manual\'s code "USB Serial" (its text is TRMUSB130)',
  '05e0': 'Zebra: read the manual\'s code "USB CDC Host" or "Simple COM Port Emulation" (chapter USB interface); choose that, not SSI',
  '1eab': 'Newland: read "Enter Setup", then "USB CDC" or "USB COM Port Emulation", then "Exit Setup", from its manual',
  '05f9': 'Datalogic: read the manual\'s code "USB-COM-STD" (select interface type)',
  '2dd6': 'read the manual\'s code for "USB virtual serial port" (GM6x and like modules: chapter communication interface)',
  '26f1': 'read the manual\'s code for "USB virtual serial port" (GM6x and like modules: chapter communication interface)',
};
const ANY_MAKE = 'read the code for "USB serial", "virtual COM port" or "CDC" from its manual';
/** Names of devices whose makers have no well-known id. */
const NAMES = /bar ?code|scanner|\bqr\b|hid ?kbw|usbkey|\b2d\b|symbol|newland|honeywell|metrologic|datalogic|\bgm[68]\d/i;
const USB_BUS = '0003';

/** Returns the readers in `text` (/proc/bus/input/devices), without ordinary keyboards. */
export function findKeyboardReaders(text: string): readonly KeyboardReader[] {
  return text.split(/\n\s*\n/).flatMap((block): KeyboardReader[] => {
    const ids = /^I: Bus=(\w+) Vendor=(\w+) Product=(\w+)/m.exec(block);
    const name = /^N: Name="(.*)"$/m.exec(block)?.[1]?.trim() ?? '';
    const handlers = /^H: Handlers=(.*)$/m.exec(block)?.[1] ?? '';
    if (ids === null || ids[1] !== USB_BUS || !/\bkbd\b/.test(handlers)) return [];
    const vendor = (ids[2] as string).toLowerCase();
    const known = MAKERS[vendor];
    if (known === undefined && !NAMES.test(name)) return [];
    return [{ name: name === '' ? 'a device without a name' : name, usb: `${vendor}:${(ids[3] as string).toLowerCase()}`, hint: known ?? ANY_MAKE }];
  });
}
