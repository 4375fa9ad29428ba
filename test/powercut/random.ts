/** Numbers that look random and are the same for the same seed. */
export interface Random {
  /** At least 0, below 1. */
  next(): number;
  /** A whole number, at least 0, below `n`. */
  below(n: number): number;
  chance(share: number): boolean;
  pick<T>(list: readonly T[]): T;
}

/** mulberry32: small, quick, good enough to choose faults. */
export function createRandom(seed: number): Random {
  let state = seed >>> 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
  const below = (n: number): number => Math.floor(next() * n);
  return { next, below, chance: (share) => next() < share, pick: (list) => list[below(list.length)] as (typeof list)[number] };
}

/** One seed of several numbers. */
export const mix = (...parts: readonly number[]): number =>
  parts.reduce((sum, part) => Math.imul(sum ^ (part + 0x9e3779b9 + (sum << 6) + (sum >>> 2)), 0x85ebca6b) >>> 0, 0x12345678);
