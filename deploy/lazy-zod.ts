/**
 * Stands in for zod in a gate's bundle: what a schema is made of is noted down when the program starts, and the schema is made, and
 * zod itself loaded, when the first value is read with it. A gate starts to decide without reading anything that needs a schema; making
 * all of them first would cost each of its two threads more time than the database does (docs/decisions/0111-bundle-in-parts.md).
 *
 * Whatever is not a known way of making schemas goes to zod at once: that is early, and right all the same.
 */
import { createRequire } from 'node:module';
import type { z as Zod } from 'zod';

type Real = Record<PropertyKey, unknown>;
type Args = readonly unknown[];

/** Makers of schemas that take nothing but schemas, texts, numbers and functions. */
const MAKERS = new Set<PropertyKey>([
  'array',
  'base64',
  'boolean',
  'custom',
  'discriminatedUnion',
  'enum',
  'int',
  'literal',
  'looseObject',
  'null',
  'number',
  'object',
  'record',
  'strictObject',
  'string',
  'tuple',
  'union',
  'unknown',
]);
/** Methods of a schema that answer another one. */
const STEPS = new Set<PropertyKey>([
  'default',
  'exclude',
  'extend',
  'length',
  'max',
  'min',
  'multipleOf',
  'nullable',
  'omit',
  'optional',
  'partial',
  'pick',
  'readonly',
  'refine',
  'regex',
  'superRefine',
  'transform',
]);
/** Namespaces within zod whose members make schemas too. */
const NAMESPACES: Readonly<Record<string, ReadonlySet<PropertyKey>>> = { iso: new Set(['datetime']) };

let loaded: { readonly z: Real } | null = null;
/** zod itself, beside this part of the bundle. */
function zod(): Real {
  loaded ??= createRequire(import.meta.url)('./zod.cjs') as { z: Real };
  return loaded.z;
}

/** What stands for a schema that is not made yet → makes it, once. */
const pendingEntries = new WeakMap<object, () => unknown>();

/** zod is given its own schemas alone: those among arguments, in lists and in the shapes of objects are made now. */
function made(value: unknown): unknown {
  if (typeof value === 'function') return pendingEntries.get(value)?.() ?? value;
  if (Array.isArray(value)) return value.map(made);
  if (typeof value !== 'object' || value === null || Object.getPrototypeOf(value) !== Object.prototype) return value;
  return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, made(part)]));
}

const call = (on: Real, key: PropertyKey, args: Args): unknown => (on[key] as (...args: Args) => unknown).apply(on, args.map(made) as unknown[]);

function note(make: () => unknown): unknown {
  let schema: Real | null = null;
  const whole = (): Real => {
    schema ??= make() as Real;
    return schema;
  };
  const proxy = new Proxy(() => undefined, {
    get(_target, key) {
      if (schema === null && STEPS.has(key)) return (...args: Args) => note(() => call(whole(), key, args));
      const value = whole()[key];
      return typeof value === 'function' ? value.bind(schema) : value;
    },
    has: (_target, key) => key in whole(),
  });
  pendingEntries.set(proxy, whole);
  return proxy;
}

const namespace = (makers: ReadonlySet<PropertyKey>, real: () => Real): object =>
  new Proxy(
    {},
    {
      get(_target, key) {
        if (makers.has(key)) return (...args: Args) => note(() => call(real(), key, args));
        const inner = typeof key === 'string' && Object.hasOwn(NAMESPACES, key) ? NAMESPACES[key] : undefined;
        return inner === undefined ? real()[key] : namespace(inner, () => real()[key] as Real);
      },
    },
  );

export const z = namespace(MAKERS, zod) as typeof Zod;
