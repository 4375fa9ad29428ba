/**
 * Random numbers from a seed: the same seed draws the same on every machine. Two generators, because traces and seeds of both are written down:
 * sfc32, seeded by a list of names and numbers (the simulation), and mulberry32, seeded by one number (power cuts, forgeries, storms).
 */
export interface Random {
  /** 0 ≤ x < 1. */
  next(): number;
  /** A whole number, 0 ≤ x < n. */
  below(n: number): number;
  /** A whole number, min ≤ x ≤ max. */
  between(min: number, max: number): number;
  chance(share: number): boolean;
  pick<T>(list: readonly T[]): T;
  /** By weights; the list is not empty. */
  weighted<T>(list: readonly (readonly [number, T])[]): T;
  bytes(count: number): Buffer;
  /** 16 drawn bytes in a UUID's form; no version is set. */
  uuid(): string;
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

/** Returns sfc32, seeded by the parts. */
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
  return drawsFrom(next);
}

/** Returns mulberry32: small and quick. */
export function createRandom(seed: number): Random {
  let state = seed >>> 0;
  return drawsFrom(() => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 0x1_0000_0000;
  });
}

/** Returns one seed of several numbers. */
export const mix = (...parts: readonly number[]): number =>
  parts.reduce((sum, part) => Math.imul(sum ^ (part + 0x9e3779b9 + (sum << 6) + (sum >>> 2)), 0x85ebca6b) >>> 0, 0x12345678);

function drawsFrom(next: () => number): Random {
  const below = (n: number): number => Math.floor(next() * n);
  const bytes = (count: number): Buffer => Buffer.from(Array.from({ length: count }, () => below(256)));
  return {
    next,
    below,
    between: (min, max) => min + Math.floor(next() * (max - min + 1)),
    chance: (share) => next() < share,
    pick: (list) => list[below(list.length)] as never,
    weighted(list) {
      let at = next() * list.reduce((sum, [weight]) => sum + weight, 0);
      for (const [weight, value] of list) {
        at -= weight;
        if (at < 0) return value;
      }
      return (list.at(-1) as (typeof list)[number])[1];
    },
    bytes,
    uuid() {
      const hex = bytes(16).toString('hex');
      return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
    },
  };
}
