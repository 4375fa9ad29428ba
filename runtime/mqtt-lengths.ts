/**
 * Keeps mqtt-packet's length buffers out of Node's shared slabs. Import this before the library `mqtt`.
 *
 * The library keeps a buffer for every packet length below 16,384 that was ever sent. Each is cut from a slab of up to 64 KiB that it then holds for
 * ever: 4,000 lengths held 263 MB. The library takes its maker of these buffers once, when it loads, so the replacement has to stand before that:
 * the one work that an import of this project does.
 */
import numbers from 'mqtt-packet/numbers.js';

/** Bytes of a variable length at most; a larger number has none, and the library sends nothing of it. */
const MAX_LENGTH_BYTES = 4;
const VALUES_A_BYTE = 128;

/** Returns a length as MQTT writes it, in memory of its own. */
export function encodeLength(length: number): Buffer {
  const digits: number[] = [];
  let rest = length;
  do {
    const digit = rest % VALUES_A_BYTE;
    rest = Math.floor(rest / VALUES_A_BYTE);
    digits.push(rest > 0 ? digit | VALUES_A_BYTE : digit);
  } while (rest > 0 && digits.length < MAX_LENGTH_BYTES);
  const bytes = Buffer.allocUnsafeSlow(rest > 0 ? 0 : digits.length);
  bytes.set(rest > 0 ? [] : digits);
  return bytes;
}

numbers.genBufVariableByteInt = encodeLength;
