/** What the gates hold and what Postgres holds, compared row by row: lost, doubled, changed, made up. Pure. */

export interface Row {
  readonly gate: string;
  readonly epoch: number;
  readonly seq: number;
  /** Hex. */
  readonly hash: string;
}

export interface Difference {
  /** Rows of the gates' ledgers. */
  readonly rows: number;
  /** In no place of Postgres. */
  readonly lost: number;
  /** Rows of Postgres beyond the first of the same key. */
  readonly doubled: number;
  /** The same key with another hash. */
  readonly changed: number;
  /** In Postgres, and in no gate's ledger. */
  readonly foreign: number;
  /** Some of them, in words; empty where nothing differs. */
  readonly examples: readonly string[];
}

const MAX_EXAMPLES = 10;
const keyOf = ({ gate, epoch, seq }: Pick<Row, 'gate' | 'epoch' | 'seq'>) => `${gate} ${epoch}/${seq}`;

/** `own`: each gate's ledger as the gate itself reads it. `held`: every row of these gates in Postgres, no key made unique. */
export function compare(own: readonly Row[], held: readonly Row[]): Difference {
  const places = new Map<string, Row[]>();
  for (const row of held) {
    const same = places.get(keyOf(row));
    if (same === undefined) places.set(keyOf(row), [row]);
    else same.push(row);
  }
  const counts = { lost: 0, doubled: 0, changed: 0, foreign: 0 };
  const examples: string[] = [];
  const say = (what: keyof typeof counts, key: string) => {
    counts[what] += 1;
    if (examples.length < MAX_EXAMPLES) examples.push(`${what}: ${key}`);
  };
  const known = new Set<string>();
  for (const row of own) {
    const key = keyOf(row);
    known.add(key);
    const found = places.get(key) ?? [];
    if (found.length === 0) say('lost', key);
    for (let n = 1; n < found.length; n++) say('doubled', key);
    if (found.some(({ hash }) => hash !== row.hash)) say('changed', key);
  }
  for (const key of places.keys()) if (!known.has(key)) say('foreign', key);
  return { rows: own.length, ...counts, examples };
}

/** Nothing differs. */
export const agrees = ({ lost, doubled, changed, foreign }: Difference): boolean => lost + doubled + changed + foreign === 0;
