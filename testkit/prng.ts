/** Chance from a seed: the same seed, the same draws, on every machine. */
export interface Random {
  /** 0 ≤ x < 1. */
  next(): number;
  /** A whole number, 0 ≤ x < below. */
  int(below: number): number;
  /** A whole number, min ≤ x ≤ max. */
  between(min: number, max: number): number;
  chance(share: number): boolean;
  pick<T>(list: readonly T[]): T;
  /** By weights; the list is not empty. */
  weighted<T>(list: readonly (readonly [number, T])[]): T;
}

/** FNV-1a over the parts' text: seeds that differ in one part give streams that have nothing in common. */
function seedOf(parts: readonly (string | number)[]): number {
  let hash = 0x811c9dc5;
  for (const char of parts.join('/')) {
    hash ^= char.charCodeAt(0);
    hash = Math.imul(hash, 0x01000193) >>> 0;
  }
  return hash;
}

/** sfc32, seeded by the parts. */
export function randomOf(...parts: readonly (string | number)[]): Random {
  let a = seedOf([...parts, 'a']);
  let b = seedOf([...parts, 'b']);
  let c = seedOf([...parts, 'c']);
  let d = 1;
  const next = (): number => {
    const t = (((a + b) >>> 0) + d) >>> 0;
    d = (d + 1) >>> 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) >>> 0;
    c = (((c << 21) | (c >>> 11)) + t) >>> 0;
    return t / 0x1_0000_0000;
  };
  for (let i = 0; i < 12; i++) next();
  const random: Random = {
    next,
    int: (below) => Math.floor(next() * below),
    between: (min, max) => min + Math.floor(next() * (max - min + 1)),
    chance: (share) => next() < share,
    pick: (list) => list[Math.floor(next() * list.length)] as (typeof list)[number],
    weighted(list) {
      let at = next() * list.reduce((sum, [weight]) => sum + weight, 0);
      for (const [weight, value] of list) {
        at -= weight;
        if (at < 0) return value;
      }
      return (list.at(-1) as (typeof list)[number])[1];
    },
  };
  return random;
}
