/**
 * Fields: how a setting is read and what is said when it is wrong. Each reader takes a value that knows its
 * file and line, and either gives what the program uses or adds to a list of errors; it goes on after one, so
 * that all are reported at once.
 */
import { placeholderIn } from '../../contract/placeholder.ts';
import { cutText } from '../../contract/text.ts';

export interface Origin {
  readonly file: string;
  /** null: the environment has no lines. */
  readonly line: number | null;
}

/** The contents of the configuration files, before they are checked. */
export type Tree =
  | { readonly kind: 'scalar'; readonly value: unknown; readonly origin: Origin }
  | { readonly kind: 'list'; readonly items: readonly Tree[]; readonly origin: Origin }
  | { readonly kind: 'map'; readonly entries: ReadonlyMap<string, Tree>; readonly origin: Origin };

/** One error. `key` is the setting's path, such as `board.outputs.release_in`; empty where a whole file is meant. */
export interface ConfigError extends Origin {
  readonly key: string;
  readonly what: string;
  readonly hint: string;
}

/** `/etc/stile/gate.yaml:7: turnstile.pulse_ms: what; hint`. */
export function formatConfigError({ file, line, key, what, hint }: ConfigError): string {
  return `${file}${line === null ? '' : `:${line}`}: ${key === '' ? '' : `${key}: `}${what}; ${hint}`;
}

/** Gathers errors and warnings, and where each setting came from. */
export interface Report {
  readonly errors: ConfigError[];
  readonly warnings: ConfigError[];
  /** Settings that were given, by path. */
  readonly origins: Map<string, Origin>;
}

export interface Field<T> {
  /** `tree` undefined: not given. `parent`: where the surrounding map stands, for what is missing. Answers undefined after an error. */
  read(tree: Tree | undefined, key: string, parent: Origin, report: Report): T | undefined;
  /** Keys below this one; empty for a plain value. */
  readonly below: ReadonlyMap<string, Field<unknown>>;
}

export type Value<F> = F extends Field<infer T> ? T : never;

const NOTHING: ReadonlyMap<string, Field<unknown>> = new Map();
/** At most so much of a wrong value is repeated in a message. */
const MAX_SHOWN_CHARS = 60;

export const shown = (value: unknown): string => {
  const text = typeof value === 'string' ? `"${value}"` : value instanceof Object ? 'a list or map' : String(value);
  // A key or password that was pasted in the wrong place must not come out in a log.
  if (/-----BEGIN|:\/\/[^/]*@/.test(text)) return 'the value';
  return text.length > MAX_SHOWN_CHARS ? `${cutText(text, MAX_SHOWN_CHARS)}…` : text;
};

type Checked<T> = { readonly value: T } | { readonly what: string; readonly hint?: string };

/** Reads a plain value. `check` answers the value, or returns the fault and a hint. */
export function plain<T>(expected: string, check: (value: unknown) => Checked<T>): Field<T> {
  return {
    below: NOTHING,
    read(tree, key, parent, report) {
      if (tree === undefined || isNull(tree)) {
        report.errors.push({ ...(tree?.origin ?? parent), key, what: 'is missing', hint: `give ${expected}` });
        return undefined;
      }
      report.origins.set(key, tree.origin);
      if (tree.kind !== 'scalar') {
        report.errors.push({ ...tree.origin, key, what: `is a ${tree.kind}`, hint: `give ${expected}` });
        return undefined;
      }
      const left = typeof tree.value === 'string' ? placeholderIn(tree.value) : null;
      if (left !== null) {
        report.errors.push({
          ...tree.origin,
          key,
          what: `${left} is the example's, not yours`,
          hint: `give ${expected.replace(/,? such as .*/, '')} of this installation`,
        });
        return undefined;
      }
      const result = check(tree.value);
      if ('value' in result) return result.value;
      report.errors.push({ ...tree.origin, key, what: result.what, hint: result.hint ?? `give ${expected}` });
      return undefined;
    },
  };
}

export const isNull = (tree: Tree): boolean => tree.kind === 'scalar' && tree.value === null;

export const text = (expected: string, fits: (value: string) => boolean = (value) => value.length > 0 && value.length <= 4096): Field<string> =>
  plain<string>(expected, (value) =>
    typeof value !== 'string'
      ? { what: `${shown(value)} is not text`, hint: `give ${expected}, in quotes` }
      : fits(value)
        ? { value }
        : { what: `${shown(value)} does not fit` },
  );

export const integer = (min: number, max: number, unit = ''): Field<number> =>
  plain<number>(`a whole number from ${min} to ${max}${unit === '' ? '' : ` (${unit})`}`, (value) =>
    typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max
      ? { value }
      : { what: typeof value === 'number' ? `${value} is outside ${min} to ${max}` : `${shown(value)} is not a whole number` },
  );

export const flag = (): Field<boolean> =>
  plain<boolean>('true or false', (value) => (typeof value === 'boolean' ? { value } : { what: `${shown(value)} is neither true nor false` }));

export function oneOf<const T extends string | number>(choices: readonly T[]): Field<T> {
  const list = choices.join(', ');
  return plain<T>(`one of ${list}`, (value) => {
    if ((choices as readonly unknown[]).includes(value)) return { value: value as T };
    const near = typeof value === 'string' ? suggest(value, choices.map(String)) : null;
    return { what: `${shown(value)} is none of ${list}`, hint: near === null ? `give one of ${list}` : `did you mean ${near}?` };
  });
}

/** Reads a setting that may be absent or null: it is then `fallback`. */
export function optional<T, const D>(field: Field<T>, fallback: D): Field<T | D> {
  return {
    below: field.below,
    read: (tree, key, parent, report) => (tree === undefined || isNull(tree) ? fallback : field.read(tree, key, parent, report)),
  };
}

export function list<T>(item: Field<T>, options: { min: number; max: number; what: string }): Field<readonly T[]> {
  return {
    below: NOTHING,
    read(tree, key, parent, report) {
      const wanted = `a list of ${options.min} to ${options.max} ${options.what}`;
      if (tree === undefined || isNull(tree)) {
        report.errors.push({ ...(tree?.origin ?? parent), key, what: 'is missing', hint: `give ${wanted}` });
        return undefined;
      }
      report.origins.set(key, tree.origin);
      if (tree.kind !== 'list') {
        report.errors.push({ ...tree.origin, key, what: 'is not a list', hint: `give ${wanted}, each line beginning with "- "` });
        return undefined;
      }
      if (tree.items.length < options.min || tree.items.length > options.max)
        report.errors.push({ ...tree.origin, key, what: `has ${tree.items.length} entries`, hint: `give ${wanted}` });
      const values = tree.items.map((entry, index) => item.read(entry, `${key}[${index}]`, entry.origin, report));
      return values.every((value) => value !== undefined) ? (values as T[]) : undefined;
    },
  };
}

type Shape = Readonly<Record<string, Field<unknown>>>;
export type ShapeValue<S extends Shape> = { readonly [K in keyof S]: Value<S[K]> };

export interface Section<S extends Shape> extends Field<ShapeValue<S>> {
  /** Does as `read`, but answers what could be read: settings with an error in them are absent. */
  readPartly(tree: Tree | undefined, key: string, parent: Origin, report: Report): Partial<ShapeValue<S>>;
}

/** Reads a map with named settings: camelCase here, snake_case in the file. Unknown keys are errors. */
export function section<S extends Shape>(shape: S): Section<S> {
  const below = new Map(Object.entries(shape).map(([name, field]) => [snake(name), field]));
  const readPartly = (tree: Tree | undefined, key: string, parent: Origin, report: Report): Partial<ShapeValue<S>> => {
    const map = asMap(tree, key, report);
    if (map === undefined) return {};
    if (map !== null) report.origins.set(key, map.origin);
    unknownKeys(map, below, key, report);
    const result: Record<string, unknown> = {};
    for (const [name, field] of Object.entries(shape)) {
      const value = field.read(map?.entries.get(snake(name)), path(key, snake(name)), map?.origin ?? parent, report);
      if (value !== undefined) result[name] = value;
    }
    return result as Partial<ShapeValue<S>>;
  };
  return {
    below,
    readPartly,
    read(tree, key, parent, report) {
      const value = readPartly(tree, key, parent, report);
      return Object.keys(shape).every((name) => value[name] !== undefined) ? (value as ShapeValue<S>) : undefined;
    },
  };
}

/** Reads a map from some of `names` to values of one kind; names that are not given are absent. */
export function named<N extends string, T>(names: readonly N[], field: (name: N) => Field<T>): Field<Readonly<Partial<Record<N, T>>>> {
  const below = new Map<string, Field<unknown>>(names.map((name) => [name, field(name)]));
  return {
    below,
    read(tree, key, parent, report) {
      const map = asMap(tree, key, report);
      if (map === undefined) return undefined;
      if (map !== null) report.origins.set(key, map.origin);
      unknownKeys(map, below, key, report);
      const result: Partial<Record<N, T>> = {};
      for (const name of names) {
        const entry = map?.entries.get(name);
        if (entry === undefined || isNull(entry)) continue;
        const value = field(name).read(entry, path(key, name), parent, report);
        if (value !== undefined) result[name] = value;
      }
      return result;
    },
  };
}

/** Reads a section that may be given as one plain value: `release_out: 27` for `{ line: 27 }`. */
export function withShort<S extends Shape>(shape: S, shortFor: keyof S & string): Field<ShapeValue<S>> {
  const long = section(shape);
  return {
    below: long.below,
    read(tree, key, parent, report) {
      if (tree?.kind !== 'scalar' || isNull(tree)) return long.read(tree, key, parent, report);
      report.origins.set(key, tree.origin);
      return long.read({ kind: 'map', entries: new Map([[snake(shortFor), tree]]), origin: tree.origin }, key, parent, report);
    },
  };
}

type MapTree = Extract<Tree, { kind: 'map' }>;

/** undefined: not a map, and said so. null: not given, so every setting below takes its default or is missing. */
function asMap(tree: Tree | undefined, key: string, report: Report): MapTree | null | undefined {
  if (tree === undefined || isNull(tree)) return null;
  if (tree.kind === 'map') return tree;
  report.errors.push({ ...tree.origin, key, what: `is a ${tree.kind === 'list' ? 'list' : 'single value'}`, hint: 'give a map of settings' });
  return undefined;
}

function unknownKeys(map: MapTree | null, below: ReadonlyMap<string, unknown>, key: string, report: Report): void {
  for (const [name, value] of map?.entries ?? []) {
    if (below.has(name)) continue;
    const near = suggest(name, [...below.keys()]);
    report.errors.push({
      ...value.origin,
      key: path(key, name),
      what: 'is not a setting',
      hint: near === null ? `known here: ${[...below.keys()].join(', ')}` : `did you mean ${near}?`,
    });
  }
}

const path = (key: string, name: string): string => (key === '' ? name : `${key}.${name}`);
export const snake = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

/** Returns every path of the schema, sections included, for the environment. */
export function knownKeys(field: Field<unknown>, at: readonly string[] = []): readonly string[][] {
  return [...field.below].flatMap(([name, inner]) => [[...at, name], ...knownKeys(inner, [...at, name])]);
}

/** `['mqtt', 'password_file']` → `STILE_MQTT_PASSWORD_FILE`. */
export const envName = (keys: readonly string[]): string => `STILE_${keys.join('_').toUpperCase()}`;

/** Returns the nearest of `known`, if it is near enough to be what was meant. */
export function suggest(word: string, known: readonly string[]): string | null {
  let best: { name: string; distance: number } | null = null;
  for (const name of known) {
    const distance = editDistance(word.toLowerCase(), name.toLowerCase());
    if (best === null || distance < best.distance) best = { name, distance };
  }
  return best !== null && best.distance <= Math.max(word.length >= 4 ? 2 : 1, Math.floor(word.length / 3)) ? best.name : null;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= Math.min(a.length, 64); i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) next[j] = Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1));
    row = next;
  }
  return row[b.length] ?? 0;
}
