import { expect, test } from 'vitest';
import { findKeyboardReaders } from './keyboard-readers.ts';

const device = (bus: string, vendor: string, product: string, name: string, handlers: string) =>
  `I: Bus=${bus} Vendor=${vendor} Product=${product} Version=0110
N: Name="${name}"
P: Phys=usb-3f980000.usb-1.2/input0
S: Sysfs=/devices/platform/soc/3f980000.usb/usb1/1-1/1-1.2/1-1.2:1.0/0003:${vendor}:${product}.0001/input/input0
U: Uniq=
H: Handlers=${handlers}
B: PROP=0
B: EV=120013
`;

test.each([
  [
    'a known maker, whatever its name',
    device('0003', '0C2E', '0B61', 'Honeywell Imaging & Mobility 1900', 'sysrq kbd leds event1'),
    ['0c2e:0b61', /TRMUSB130/],
  ],
  ['an unknown maker by its name', device('0003', 'abcd', '0001', 'HIDKeyBoard USBKey Module', 'sysrq kbd event1'), ['abcd:0001', /virtual COM port/]],
  ['Zebra', device('0003', '05e0', '1200', 'Symbol Technologies, Inc, 2008 Symbol Bar Code Scanner', 'kbd event2'), ['05e0:1200', /CDC/]],
] as const)('%s is recognised', (_what, text, [usb, hint]) => {
  expect(findKeyboardReaders(text)).toEqual([{ name: expect.any(String), usb, hint: expect.stringMatching(hint) }]);
});

test.each([
  ['an ordinary keyboard', device('0003', '046d', 'c31c', 'Logitech USB Keyboard', 'sysrq kbd leds event0')],
  ['a scanner that is no keyboard', device('0003', '05e0', '1300', 'Symbol Bar Code Scanner', 'event3')],
  ['a power button', device('0019', '0000', '0001', 'Power Button', 'kbd event0')],
  ['nothing', ''],
  ['rubbish', 'I: Bus=\nN: Name=\n\n\n\0'],
])('%s is not', (_what, text) => {
  expect(findKeyboardReaders(text)).toEqual([]);
});

test('several in one list', () => {
  const list = [
    device('0003', '046d', 'c31c', 'Logitech USB Keyboard', 'kbd event0'),
    device('0003', '1eab', '0003', 'NEWLAND', 'kbd event1'),
    device('0003', '05f9', '2214', 'Datalogic', 'kbd event2'),
  ].join('\n');
  expect(findKeyboardReaders(list).map(({ usb }) => usb)).toEqual(['1eab:0003', '05f9:2214']);
});
