/** When a code's key has ended, for gate and cloud alike (FAULTS M3): both sides run this one table. */
export const KEY_ENDS: readonly {
  readonly about: string;
  /** From now until the key's end, ms; null: it has none. */
  readonly endsInMs: number | null;
  /** Only a gate can have a clock that is not trusted. */
  readonly clockTrusted: boolean;
  readonly opens: boolean;
}[] = [
  { about: 'a key without an end', endsInMs: null, clockTrusted: true, opens: true },
  { about: 'a key that ends in a millisecond', endsInMs: 1, clockTrusted: true, opens: true },
  { about: 'a key in its last millisecond', endsInMs: 0, clockTrusted: true, opens: true },
  { about: 'a key that ended a millisecond ago', endsInMs: -1, clockTrusted: true, opens: false },
  { about: 'a key that ended yesterday', endsInMs: -86_400_000, clockTrusted: true, opens: false },
  { about: 'a key that ended by a clock that nobody trusts', endsInMs: -86_400_000, clockTrusted: false, opens: true },
];
