/**
 * Where settings come from: gate.yaml, conf.d beside it, the environment. Reads them into one tree whose
 * every value knows its file and line. What the values mean is defined in schema.ts.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { isMap, isScalar, isSeq, LineCounter, type ParsedNode, parseDocument } from 'yaml';
import { type ConfigError, envName, type Field, knownKeys, type Origin, suggest, type Tree } from './fields.ts';

/** A larger file is refused before it is parsed: a gate's settings take a few kilobytes. */
const MAX_CONFIG_BYTES = 256 * 1024;
/** Files in conf.d; further ones are an error, not silently left out. */
const MAX_CONFIG_FILES = 64;
/** Nesting of maps and lists; the deepest setting has 4. */
const MAX_CONFIG_DEPTH = 16;

export interface Sources {
  /** null: nothing could be read at all (the errors say why). */
  readonly tree: Tree | null;
  readonly files: readonly string[];
  readonly errors: readonly ConfigError[];
  readonly warnings: readonly ConfigError[];
}

/**
 * Reads `file`, then `conf.d/*.yaml` beside it in the order of their names, then STILE_… of `env`; later ones win, maps are merged, lists replaced. Never
 * throws.
 */
export function readSources(file: string, env: Readonly<Record<string, string | undefined>>, schema: Field<unknown>): Sources {
  const errors: ConfigError[] = [];
  const warnings: ConfigError[] = [];
  const files = [file, ...extraFiles(join(dirname(file), 'conf.d'), errors)];
  let tree: Tree | null = null;
  for (const name of files) {
    const part = readYamlFile(name, errors);
    if (part !== null) tree = tree === null ? part : merge(tree, part);
  }
  for (const part of readEnvironment(env, schema, errors, warnings)) tree = tree === null ? part : merge(tree, part);
  return { tree, files, errors, warnings };
}

function extraFiles(folder: string, errors: ConfigError[]): string[] {
  let names: string[];
  try {
    names = readdirSync(folder)
      .filter((name) => name.endsWith('.yaml') && !name.startsWith('.'))
      .sort();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code !== 'ENOENT')
      errors.push({ key: '', file: folder, line: null, what: `cannot be listed (${code})`, hint: 'make the folder readable for the gate' });
    return [];
  }
  if (names.length > MAX_CONFIG_FILES) {
    errors.push({ key: '', file: folder, line: null, what: `${names.length} files, at most ${MAX_CONFIG_FILES} are read`, hint: 'merge some of them' });
  }
  return names.slice(0, MAX_CONFIG_FILES).map((name) => join(folder, name));
}

function readYamlFile(file: string, errors: ConfigError[]): Tree | null {
  const fail = (what: string, hint: string, line: number | null = null) => {
    errors.push({ key: '', file, line, what, hint });
    return null;
  };
  let text: string;
  try {
    const size = statSync(file).size;
    if (size > MAX_CONFIG_BYTES) return fail(`${size} bytes, at most ${MAX_CONFIG_BYTES}`, "this is not a gate's configuration");
    text = readFileSync(file, 'utf8');
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT') return fail('there is no such file', 'write it (docs/gate.yaml.example shows every setting), or name another with --config');
    return fail(`cannot be read (${code})`, "make it a file that the gate's user may read");
  }
  return parseYaml(text, file, errors);
}

/** Parses one YAML document into a tree. All its syntax errors are added to `errors`; null where there is nothing to use. */
export function parseYaml(text: string, file: string, errors: ConfigError[]): Tree | null {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, uniqueKeys: true });
  for (const error of document.errors) {
    errors.push({
      key: '',
      file,
      line: lines.linePos(error.pos[0]).line,
      what: `not readable as YAML: ${error.message.split('\n')[0]}`,
      hint: 'fix the indentation, quotes or brackets there',
    });
  }
  if (document.errors.length > 0 || document.contents === null) return document.errors.length > 0 ? null : emptyMap({ file, line: 1 });
  const tree = toTree(document.contents as ParsedNode, file, lines, errors, 0);
  if (tree !== null && tree.kind === 'scalar' && tree.value === null) return emptyMap(tree.origin);
  return tree;
}

const emptyMap = (origin: Origin): Tree => ({ kind: 'map', entries: new Map(), origin });

function toTree(node: ParsedNode | null, file: string, lines: LineCounter, errors: ConfigError[], depth: number): Tree | null {
  const origin: Origin = { file, line: node?.range == null ? null : lines.linePos(node.range[0]).line };
  const fail = (what: string, hint: string) => {
    errors.push({ key: '', file, line: origin.line, what, hint });
    return null;
  };
  if (node === null) return { kind: 'scalar', value: null, origin };
  if (depth > MAX_CONFIG_DEPTH) return fail(`nested deeper than ${MAX_CONFIG_DEPTH}`, 'see docs/gate.yaml.example');
  if (isScalar(node)) return { kind: 'scalar', value: node.value, origin };
  if (isSeq(node)) {
    const items = node.items.map((item) => toTree(item as ParsedNode, file, lines, errors, depth + 1)).filter((item) => item !== null);
    return { kind: 'list', items, origin };
  }
  if (isMap(node)) {
    const entries = new Map<string, Tree>();
    for (const pair of node.items) {
      const key = pair.key as ParsedNode;
      if (!isScalar(key) || typeof key.value !== 'string') {
        fail('a key must be a word', 'see docs/gate.yaml.example');
        continue;
      }
      const value = toTree(pair.value as ParsedNode | null, file, lines, errors, depth + 1);
      // A value's line is its key's: that is where a person looks for it.
      if (value !== null) entries.set(key.value, { ...value, origin: { file, line: lines.linePos(key.range[0]).line } });
    }
    return { kind: 'map', entries, origin };
  }
  return fail('anchors and aliases (& and *) are not used here', 'write the value out');
}

/** Merges two trees: `over` wins; maps are merged key by key. */
function merge(under: Tree, over: Tree): Tree {
  if (under.kind !== 'map' || over.kind !== 'map') return over;
  const entries = new Map(under.entries);
  for (const [key, value] of over.entries) {
    const before = entries.get(key);
    entries.set(key, before === undefined ? value : merge(before, value));
  }
  return { kind: 'map', entries, origin: under.origin };
}

/** Variables that are the launcher's and the tests', not settings. */
const NOT_SETTINGS = new Set(['STILE_CONFIG', 'STILE_SOCKET', 'STILE_SKIP_FILES']);

/**
 * Reads settings from the environment: STILE_MQTT_URL and STILE_MQTT__URL both set `mqtt.url`; the value is read as YAML, so lists and maps can be given in
 * flow style. A variable that fits no setting is a warning only: the cloud's may live in the same environment.
 */
function readEnvironment(env: Readonly<Record<string, string | undefined>>, schema: Field<unknown>, errors: ConfigError[], warnings: ConfigError[]): Tree[] {
  const byName = new Map(knownKeys(schema).map((path) => [envName(path), path]));
  const trees: Tree[] = [];
  for (const [name, text] of Object.entries(env)) {
    if (!name.startsWith('STILE_') || NOT_SETTINGS.has(name) || text === undefined) continue;
    const path = byName.get(name.replace(/__/g, '_'));
    if (path === undefined) {
      const near = suggest(name, [...byName.keys()]);
      warnings.push({
        key: name,
        file: 'environment',
        line: null,
        what: 'is no setting of a gate and is left out',
        hint: near === null ? 'unset it if it was meant for the gate' : `did you mean ${near}?`,
      });
      continue;
    }
    const origin: Origin = { file: `environment ${name}`, line: null };
    const before = errors.length;
    const value = parseYaml(text, origin.file, errors);
    if (value === null || errors.length > before) continue;
    trees.push(path.reduceRight<Tree>((inner, key) => ({ kind: 'map', entries: new Map([[key, inner]]), origin }), withOrigin(value, origin)));
  }
  return trees;
}

function withOrigin(tree: Tree, origin: Origin): Tree {
  if (tree.kind === 'map') return { kind: 'map', entries: new Map([...tree.entries].map(([key, value]) => [key, withOrigin(value, origin)])), origin };
  if (tree.kind === 'list') return { kind: 'list', items: tree.items.map((item) => withOrigin(item, origin)), origin };
  return { ...tree, origin };
}
