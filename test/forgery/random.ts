/** Chance that repeats itself: mulberry32. */
export interface Random {
  /** 0 to below `n`. */
  below(n: number): number;
  pick<T>(from: readonly T[]): T;
  bytes(count: number): Buffer;
  uuid(): string;
}

export function createRandom(seed: number): Random {
  let state = seed >>> 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  };
  const below = (n: number) => Math.floor((next() / 4_294_967_296) * n);
  const bytes = (count: number) => Buffer.from(Array.from({ length: count }, () => below(256)));
  return {
    below,
    pick: (from) => from[below(from.length)] as never,
    bytes,
    uuid() {
      const hex = bytes(16).toString('hex');
      return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
    },
  };
}
