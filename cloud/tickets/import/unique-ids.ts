/** Recognises repeated texts in a whole file, by eight bytes of a keyed hash each: millions fit, and nobody can construct two texts with one hash. */
import { createHash, randomBytes } from 'node:crypto';

/** Of 10 million texts, two collide by chance in one of 400,000 files. */
const FIRST_SLOTS = 1 << 12;
/** Load beyond which the slots are doubled. */
const MAX_LOAD = 0.6;

export interface OnceOnly {
  /** `first`: new, and recorded now; `again`: repeated; `full`: no room to decide. */
  add(text: string): 'first' | 'again' | 'full';
}

/** Holds at most `maxTexts`, of 8 bytes in 13 to 27. */
export function createOnceOnly(maxTexts: number): OnceOnly {
  const key = randomBytes(32);
  let slots = new BigUint64Array(FIRST_SLOTS);
  let count = 0;

  /** Returns its slot, or the free slot for it. */
  function slotOf(hash: bigint, table: BigUint64Array): number {
    const mask = table.length - 1;
    let at = Number(hash & BigInt(mask));
    while (table[at] !== 0n && table[at] !== hash) at = (at + 1) & mask;
    return at;
  }
  function grow(): void {
    const larger = new BigUint64Array(slots.length * 2);
    for (const hash of slots) if (hash !== 0n) larger[slotOf(hash, larger)] = hash;
    slots = larger;
  }

  return {
    add(text) {
      // 0 marks a free slot.
      const hash = createHash('sha256').update(key).update(text, 'utf8').digest().readBigUInt64LE() || 1n;
      if (slots[slotOf(hash, slots)] === hash) return 'again';
      if (count >= maxTexts) return 'full';
      if (count + 1 > slots.length * MAX_LOAD) grow();
      slots[slotOf(hash, slots)] = hash;
      count += 1;
      return 'first';
    },
  };
}
