/**
 * The layers of the product: which room may import what. Closed by default: an import that no line allows is forbidden, and a
 * folder without a line may import nothing. The first line whose pattern fits a file decides; lines for single files stand first.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';

/** Parts: a folder (`rules`), a file (`daemon/ports.ts`), `node:*`, a Node module (`node:crypto`), or a package. */
export interface Layer {
  /** A folder, or a file of it that may import more than the folder (the folder's own line is added). */
  readonly of: string;
  readonly may: readonly string[];
}

const CLOUD_FEATURE = ['cloud/db', 'cloud/http', 'cloud/log.ts', 'contract', 'rules', 'signing', 'runtime', 'node:*', 'zod'] as const;
/** Of cloud/reconcile: what features may import; it imports none of them. */
const RECONCILE_FLOOR = ['cloud/reconcile/cloud-ledger.ts', 'cloud/reconcile/queries.ts', 'cloud/reconcile/usage.ts'] as const;

export const LAYERS: readonly Layer[] = [
  { of: 'contract/hash-chain.ts', may: ['canonicalize'] },
  { of: 'contract/generate.ts', may: ['node:*'] },
  { of: 'contract', may: ['zod'] },
  { of: 'rules/logic.ts', may: ['json-logic-js'] },
  { of: 'rules', may: ['contract', 'zod'] },
  { of: 'signing', may: ['contract', 'rules', 'node:*'] },
  { of: 'manifest-format', may: ['contract', 'better-sqlite3', 'node:*'] },
  { of: 'runtime/libc.ts', may: ['koffi'] },
  { of: 'runtime/mqtt-lengths.ts', may: ['mqtt-packet'] },
  { of: 'runtime', may: ['contract', 'node:*'] },

  { of: 'daemon/lane', may: ['contract', 'rules'] },
  { of: 'daemon/reader/serial-reader.ts', may: ['serialport'] },
  { of: 'daemon/reader', may: ['daemon/ports.ts', 'contract', 'node:*'] },
  { of: 'daemon/board/onoff-board.ts', may: ['onoff'] },
  { of: 'daemon/board', may: ['daemon/ports.ts', 'daemon/sim', 'daemon/timers.ts', 'contract', 'runtime', 'node:*'] },
  { of: 'daemon/sim', may: ['daemon/ports.ts', 'contract', 'runtime', 'node:*'] },
  { of: 'daemon/store/sqlite.ts', may: ['better-sqlite3'] },
  { of: 'daemon/store', may: ['daemon/ports.ts', 'contract', 'rules', 'node:*'] },
  { of: 'daemon/link/mqtt-session.ts', may: ['mqtt', 'mqtt-packet'] },
  // Composes decider, uplink and fetching for main.ts; loaded late, so it cannot stand in main.ts itself.
  { of: 'daemon/link/compose.ts', may: ['daemon/config', 'daemon/decider', 'daemon/gate', 'daemon/store'] },
  { of: 'daemon/link', may: ['daemon/ports.ts', 'daemon/timers.ts', 'daemon/log', 'contract', 'runtime', 'node:*'] },
  { of: 'daemon/gate', may: ['daemon/ports.ts', 'daemon/lane', 'daemon/timers.ts', 'daemon/log', 'contract', 'rules', 'node:crypto'] },
  { of: 'daemon/decider', may: ['daemon/ports.ts', 'daemon/store', 'contract', 'rules', 'signing', 'runtime', 'node:*'] },
  { of: 'daemon/clock', may: ['daemon/ports.ts', 'daemon/timers.ts', 'daemon/log', 'contract', 'runtime', 'node:*'] },
  { of: 'daemon/config/sources.ts', may: ['yaml'] },
  { of: 'daemon/config', may: ['daemon/ports.ts', 'daemon/lane', 'contract', 'rules', 'node:*', 'zod'] },
  { of: 'daemon/control/handlers.ts', may: ['daemon/clock', 'daemon/config'] },
  { of: 'daemon/control', may: ['daemon/ports.ts', 'daemon/gate', 'daemon/platform', 'contract', 'runtime', 'node:*'] },
  { of: 'daemon/telemetry', may: ['daemon/ports.ts', 'daemon/gate', 'daemon/timers.ts', 'contract', 'runtime', 'node:*'] },
  { of: 'daemon/log/log.ts', may: ['pino'] },
  { of: 'daemon/log', may: ['node:*'] },
  { of: 'daemon/platform', may: ['node:*'] },
  { of: 'daemon/ports.ts', may: ['contract', 'rules'] },
  { of: 'daemon/timers.ts', may: [] },
  { of: 'daemon/main.ts', may: ['daemon', 'contract', 'runtime', 'signing', 'node:*'] },
  { of: 'daemon/cli/main.ts', may: ['commander'] },
  { of: 'daemon/cli/csr.ts', may: ['@peculiar/x509', 'reflect-metadata'] },
  { of: 'daemon/cli', may: ['daemon', 'contract', 'rules', 'runtime', 'signing', 'node:*'] },

  { of: 'cloud/db/database.ts', may: ['pg'] },
  { of: 'cloud/db/migrate.ts', may: ['node-pg-migrate'] },
  { of: 'cloud/db', may: ['cloud/log.ts', 'contract', 'node:*'] },
  { of: 'cloud/http/server.ts', may: ['fastify', '@fastify/rate-limit', '@fastify/swagger', 'fastify-type-provider-zod', 'zod'] },
  { of: 'cloud/http', may: ['cloud/db', 'cloud/log.ts', 'cloud/metrics.ts', 'contract', 'node:*'] },
  { of: 'cloud/mqtt/client.ts', may: ['mqtt'] },
  { of: 'cloud/mqtt', may: ['cloud/log.ts', 'contract', 'runtime', 'node:*'] },
  { of: 'cloud/log.ts', may: ['pino', 'node:*'] },
  { of: 'cloud/metrics.ts', may: ['prom-client', 'node:*'] },
  { of: 'cloud/config.ts', may: ['cloud/db/logins.ts', 'cloud/http/addresses.ts', 'cloud/log.ts', 'contract', 'node:*'] },
  { of: 'cloud/reconcile', may: CLOUD_FEATURE },
  { of: 'cloud/ingest', may: [...CLOUD_FEATURE, ...RECONCILE_FLOOR, 'cloud/mqtt'] },
  { of: 'cloud/scan', may: [...CLOUD_FEATURE, ...RECONCILE_FLOOR] },
  { of: 'cloud/manifest', may: [...CLOUD_FEATURE, ...RECONCILE_FLOOR, 'manifest-format'] },
  { of: 'cloud/tickets/import/import-source.ts', may: ['csv-parse'] },
  { of: 'cloud/tickets/codes/qr-sheet.ts', may: ['qrcode'] },
  { of: 'cloud/tickets', may: [...CLOUD_FEATURE, ...RECONCILE_FLOOR] },
  { of: 'cloud/devices/certificates.ts', may: ['@peculiar/x509', 'reflect-metadata'] },
  { of: 'cloud/devices', may: [...CLOUD_FEATURE, ...RECONCILE_FLOOR] },
  { of: 'cloud/console', may: CLOUD_FEATURE },
  { of: 'cloud/main.ts', may: ['cloud', 'contract', 'runtime', 'signing', 'node:*'] },
  { of: 'cloud/cli/main.ts', may: ['commander'] },
  { of: 'cloud/cli/policies-file.ts', may: ['yaml'] },
  { of: 'cloud/cli', may: ['cloud', 'contract', 'rules', 'runtime', 'signing', 'node:*', 'zod'] },

  { of: 'tools', may: ['daemon/store', 'contract', 'node:*'] },
  { of: 'testkit', may: ['*'] },
  { of: 'deploy', may: ['*'] },
  { of: 'test', may: ['*'] },
  { of: 'bench', may: ['*'] },
  { of: 'vitest.config.ts', may: ['vitest', 'test'] },
];

/** Folders of the product. The rest of the tree builds, starts, tests or measures it. */
export const PRODUCT = ['contract', 'rules', 'signing', 'manifest-format', 'runtime', 'daemon', 'cloud'] as const;

/** What no product file may import, whatever its line says. `deploy`, `testkit`, `test` and `bench` may. */
const WORKSHOPS = ['deploy', 'testkit', 'test', 'bench', 'vitest.config.ts'];

/** One import: the importing file, what it imports (a path from the root, or a module's name), and the line, from 1. */
export interface Import {
  readonly from: string;
  readonly to: string;
  readonly line: number;
}

/** Returns every import of a source text: static, re-exported, dynamic with a literal, types included. */
export function importsOf(path: string, text: string): Import[] {
  const found: Import[] = [];
  const add = (specifier: string, index: number): void => {
    const to = specifier.startsWith('.') ? normalize(join(dirname(path), specifier)) : specifier;
    found.push({ from: path, to, line: text.slice(0, index).split('\n').length });
  };
  for (const match of text.matchAll(/^(?:import|export)\s(?:[^;'"]*?\sfrom\s)?\s*['"]([^'"\n]+)['"]/gms)) add(match[1] as string, match.index);
  for (const match of text.matchAll(/\bimport\(\s*['"]([^'"\n]+)['"]\s*\)/g)) add(match[1] as string, match.index);
  return found;
}

const within = (path: string, part: string): boolean => path === part || path.startsWith(`${part}/`);

/** Tells whether a file is a test or a helper of tests: these may import anything. */
export const isTestFile = (path: string): boolean => /\.test\.ts$/.test(path) || path.includes('/testing/');

/** Returns what a file may import: its own line, and for a file's line that of its folder as well. */
export function layerOf(path: string, layers: readonly Layer[] = LAYERS): { readonly room: string; readonly may: readonly string[] } | null {
  const fitting = layers.filter(({ of }) => within(path, of));
  const folder = fitting.filter(({ of }) => !of.endsWith('.ts')).sort((a, b) => b.of.length - a.of.length)[0];
  const file = fitting.find(({ of }) => of === path);
  const room = folder ?? file;
  if (room === undefined) return null;
  return { room: room.of, may: [...(file?.may ?? []), ...(folder?.may ?? [])] };
}

function isAllowed(to: string, may: readonly string[]): boolean {
  if (may.includes('*')) return true;
  if (to.startsWith('node:')) return may.includes('node:*') || may.includes(to);
  return may.some((part) => within(to, part));
}

/** Rooms that a violation can be planted in: folders of the product, and its single files. */
export const ROOMS = LAYERS.map(({ of }) => of).filter((of) => PRODUCT.some((room) => within(of, room)));

/** Returns imports that are wrong in this room: tests, benches, the workshop, an unknown library, and the other side. */
export function wrongImports(room: string): Import[] {
  const everywhere = ['test/run.ts', 'bench/table.ts', 'deploy/bundle.ts', 'testkit/stack.ts', 'left-pad', 'rules/testing/facts.ts'];
  const otherSide = within(room, 'daemon') ? ['cloud/db/database.ts'] : within(room, 'cloud') ? ['daemon/ports.ts'] : [];
  return [...everywhere, ...otherSide].map((to) => ({ from: room.endsWith('.ts') ? room : `${room}/planted.ts`, to, line: 1 }));
}

/** Returns a sentence for each import that no line allows, and for each file that no line names. */
export function violations(imports: readonly Import[], layers: readonly Layer[] = LAYERS): string[] {
  return imports.flatMap(({ from, to, line }) => {
    if (isTestFile(from)) return [];
    const layer = layerOf(from, layers);
    if (layer === null) return [`${from}:${line} imports ${to}; no line of test/tidy/layers.ts names this file`];
    const testHelper = isTestFile(to) && !WORKSHOPS.some((part) => within(from, part));
    if (within(to, layer.room) && !testHelper) return [];
    const workshop = WORKSHOPS.some((part) => within(to, part)) && !WORKSHOPS.some((part) => within(from, part));
    if (!workshop && !testHelper && isAllowed(to, layer.may)) return [];
    return [`${from}:${line} imports ${to}; ${layer.room} may import: ${layer.may.join(', ') || 'nothing'}`];
  });
}

/** Returns the circles of files that import one another, types included, each as the list of its files. */
export function circles(imports: readonly Import[]): string[][] {
  const next = new Map<string, string[]>();
  for (const { from, to } of imports) next.set(from, [...(next.get(from) ?? []), to]);
  // Tarjan's strongly connected components.
  const index = new Map<string, number>();
  const low = new Map<string, number>();
  const stack: string[] = [];
  const found: string[][] = [];
  const visit = (file: string): void => {
    index.set(file, index.size);
    low.set(file, index.get(file) as number);
    stack.push(file);
    for (const to of next.get(file) ?? []) {
      if (!next.has(to)) continue;
      if (!index.has(to)) visit(to);
      if (stack.includes(to)) low.set(file, Math.min(low.get(file) as number, low.get(to) as number));
    }
    if (low.get(file) !== index.get(file)) return;
    const circle = stack.splice(stack.indexOf(file));
    if (circle.length > 1 || (next.get(file) ?? []).includes(file)) found.push(circle.sort());
  };
  for (const file of next.keys()) if (!index.has(file)) visit(file);
  return found;
}

/** Reads the imports of every TypeScript file that git tracks or would track below `root`. */
export function importsBelow(root: string): Import[] {
  const listed = spawnSync('git', ['ls-files', '--cached', '--others', '--exclude-standard', '--deduplicate', '*.ts'], { cwd: root, encoding: 'utf8' });
  if (listed.status !== 0) throw new Error(`git ls-files failed: ${listed.stderr}`);
  return listed.stdout
    .trim()
    .split('\n')
    .flatMap((path) => importsOf(path, readFileSync(join(root, path), 'utf8')));
}
