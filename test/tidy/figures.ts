/**
 * Prints the tree in figures: files, rooms, circles, planted violations, SQL, and comments drawn by a seed.
 *
 *   node test/tidy/figures.ts [--seed 1] [--comments 20]
 */
import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { commentsOf, type DocComment, drawComments, nounClauses } from './comments.ts';
import { circles, importsBelow, isTestFile, PRODUCT, ROOMS, violations, wrongImports } from './layers.ts';

/** The measures of the tree's order. */
export interface Figures {
  /** Files that stand in a root itself, tests apart: name of the root → count. */
  readonly rootFiles: ReadonlyMap<string, number>;
  readonly productFiles: number;
  readonly productLines: number;
  readonly longestFile: { readonly path: string; readonly lines: number };
  readonly rooms: number;
  readonly circles: number;
  readonly violations: number;
  readonly planted: readonly { readonly room: string; readonly planted: number; readonly found: number }[];
  readonly sql: { readonly files: number; readonly lines: number; readonly functions: number; readonly definedTwice: readonly string[] };
  readonly comments: readonly DocComment[];
}

const linesOf = (text: string): number => text.split('\n').length - (text.endsWith('\n') ? 1 : 0);

/** Returns the names that CREATE FUNCTION gives in these texts, one for each definition. */
export const functionsMade = (texts: readonly string[]): string[] =>
  texts.flatMap((text) => [...text.replace(/--[^\n]*/g, '').matchAll(/\bCREATE (?:OR REPLACE )?FUNCTION ([a-z0-9_]+)/g)].map((match) => match[1] as string));

/** Measures the tree below `root`. */
export function measure(root: string): Figures {
  const imports = importsBelow(root);
  const below = (folder: string, ending: string): string[] =>
    readdirSync(join(root, folder), { withFileTypes: true, recursive: true })
      .filter((entry) => entry.isFile() && entry.name.endsWith(ending))
      .map((entry) => join(entry.parentPath, entry.name).slice(root.length).replace(/^\//, ''))
      .filter((path) => !path.includes('node_modules/'))
      .sort();
  const read = (path: string): string => readFileSync(join(root, path), 'utf8');
  const product = PRODUCT.flatMap((folder) => below(folder, '.ts'))
    .filter((path) => !isTestFile(path))
    .map((path) => ({ path, text: read(path) }));
  const byLines = product.map(({ path, text }) => ({ path, lines: linesOf(text) })).sort((a, b) => b.lines - a.lines);
  const sql = below('cloud/db', '.sql').map((path) => ({ path, text: read(path) }));
  const made = functionsMade(sql.map(({ text }) => text));
  return {
    rootFiles: new Map(
      PRODUCT.map((folder) => [
        folder,
        readdirSync(join(root, folder), { withFileTypes: true }).filter((entry) => entry.isFile() && !isTestFile(`${folder}/${entry.name}`)).length,
      ]),
    ),
    productFiles: product.length,
    productLines: byLines.reduce((sum, { lines }) => sum + lines, 0),
    longestFile: byLines[0] as Figures['longestFile'],
    rooms: new Set(product.map(({ path }) => path.slice(0, -basename(path).length))).size,
    circles: circles(imports.filter(({ from }) => product.some(({ path }) => path === from))).length,
    violations: violations(imports).length,
    planted: ROOMS.map((room) => {
      const wrong = wrongImports(room);
      return { room, planted: wrong.length, found: wrong.filter((one) => violations([one]).length === 1).length };
    }),
    sql: {
      files: sql.length,
      lines: sql.reduce((sum, { text }) => sum + linesOf(text), 0),
      functions: new Set(made).size,
      definedTwice: [...new Set(made.filter((name, index) => made.indexOf(name) !== index))],
    },
    comments: product.flatMap(({ path, text }) => commentsOf(path, text)),
  };
}

/** Formats the figures for a terminal, with comments drawn by the seed. */
export function format(figures: Figures, seed: number, count: number): string {
  const planted = figures.planted.reduce((sum, one) => sum + one.planted, 0);
  const found = figures.planted.reduce((sum, one) => sum + one.found, 0);
  const missed = figures.planted.filter((one) => one.found < one.planted).map(({ room }) => room);
  const rows: readonly (readonly [string, string | number])[] = [
    ...[...figures.rootFiles].map(([folder, files]) => [`files in ${folder}/ itself`, files] as const),
    ['product files (lines)', `${figures.productFiles} (${figures.productLines})`],
    ['longest product file', `${figures.longestFile.path} (${figures.longestFile.lines})`],
    ['folders of the product', figures.rooms],
    ['circles of imports', figures.circles],
    ['imports that no layer allows', figures.violations],
    ['violations planted in lines of the table', `${planted} in ${figures.planted.length}`],
    ['of these found', `${found}${missed.length === 0 ? ', in every one' : `, missed in ${missed.join(', ')}`}`],
    ['SQL files (lines)', `${figures.sql.files} (${figures.sql.lines})`],
    ['SQL functions', figures.sql.functions],
    ['SQL functions defined twice', figures.sql.definedTwice.join(', ') || 0],
    ['doc comments', figures.comments.length],
    ['of functions and types that begin with a noun clause', nounClauses(figures.comments).length],
  ];
  const drawn = drawComments(figures.comments, seed, count).map(({ path, line, name, text }) => `${path}:${line} ${name}\n    ${text}`);
  return [...rows.map(([what, value]) => `${what.padEnd(54)}${value}`), '', `${drawn.length} comments, seed ${seed}:`, ...drawn].join('\n');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({ options: { seed: { type: 'string', default: '1' }, comments: { type: 'string', default: '20' } } });
  const [seed, count] = [Number(values.seed), Number(values.comments)];
  if (!Number.isInteger(seed) || !Number.isInteger(count) || count < 0) throw new Error('--seed and --comments take whole numbers');
  process.stdout.write(`${format(measure(fileURLToPath(new URL('../..', import.meta.url))), seed, count)}\n`);
}
