/** The layers hold in the whole tree, and the checker finds a violation planted in every room, a circle, a dead file and an idle export. */
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { deadFiles, idleExports } from './exports.ts';
import { circles, importsBelow, importsOf, isTestFile, LAYERS, PRODUCT, ROOMS, violations, wrongImports } from './layers.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const imports = importsBelow(root);
const isProduct = (path: string): boolean => PRODUCT.some((room) => path.startsWith(`${room}/`)) && !isTestFile(path);

test('every import is one that its layer allows', () => {
  expect(violations(imports)).toEqual([]);
});

test('no files import one another in a circle, types included', () => {
  expect(circles(imports)).toEqual([]);
});

test('every product file is reached from a program', () => {
  expect(deadFiles(imports, root)).toEqual([]);
});

test('every export of product code is used by other code than tests', () => {
  expect(idleExports(root)).toEqual([]);
});

test.each(ROOMS)('%s: every planted import of a test, a bench, the workshop, an unknown library and the other side is found', (room) => {
  const wrong = wrongImports(room);
  expect(wrong.length).toBeGreaterThan(5);
  for (const one of wrong) expect([one.to, violations([one]).length]).toEqual([one.to, 1]);
});

const FORBIDDEN: readonly (readonly [string, string])[] = [
  ['contract/planted.ts', 'rules/facts.ts'],
  ['contract/planted.ts', 'node:fs'],
  ['contract/planted.ts', 'canonicalize'],
  ['rules/planted.ts', 'node:crypto'],
  ['rules/planted.ts', 'json-logic-js'],
  ['rules/planted.ts', 'signing/verify.ts'],
  ['signing/planted.ts', 'daemon/ports.ts'],
  ['manifest-format/planted.ts', 'rules/facts.ts'],
  ['runtime/planted.ts', 'rules/facts.ts'],
  ['daemon/lane/planted.ts', 'daemon/ports.ts'],
  ['daemon/lane/planted.ts', 'node:fs'],
  ['daemon/reader/planted.ts', 'daemon/board/sim-board.ts'],
  ['daemon/reader/planted.ts', 'serialport'],
  ['daemon/board/planted.ts', 'onoff'],
  ['daemon/store/planted.ts', 'daemon/link/mqtt-uplink.ts'],
  ['daemon/store/planted.ts', 'better-sqlite3'],
  ['daemon/link/planted.ts', 'daemon/store/ledger.ts'],
  ['daemon/link/planted.ts', 'mqtt'],
  ['daemon/gate/planted.ts', 'daemon/store/ledger.ts'],
  ['daemon/gate/planted.ts', 'node:fs'],
  ['daemon/gate/planted.ts', 'mqtt'],
  ['daemon/decider/planted.ts', 'daemon/gate/gate.ts'],
  ['daemon/clock/planted.ts', 'daemon/config/load.ts'],
  ['daemon/control/planted.ts', 'daemon/cli/exit-codes.ts'],
  ['daemon/cli/planted.ts', 'commander'],
  ['daemon/main.ts', 'mqtt'],
  ['daemon/planted.ts', 'contract/ids.ts'],
  ['cloud/tickets/planted.ts', 'cloud/manifest/build.ts'],
  ['cloud/tickets/planted.ts', 'qrcode'],
  ['cloud/ingest/planted.ts', 'cloud/reconcile/reconcile.ts'],
  ['cloud/scan/planted.ts', 'cloud/reconcile/routes.ts'],
  ['cloud/reconcile/planted.ts', 'cloud/scan/online.ts'],
  ['cloud/http/planted.ts', 'cloud/tickets/routes.ts'],
  ['cloud/http/planted.ts', 'fastify'],
  ['cloud/db/planted.ts', 'cloud/http/server.ts'],
  ['cloud/db/planted.ts', 'pg'],
  ['cloud/main.ts', 'pg'],
  ['cloud/planted.ts', 'cloud/db/database.ts'],
];
test.each(FORBIDDEN)('%s may not import %s', (from, to) => {
  expect(violations([{ from, to, line: 1 }])).toHaveLength(1);
});

const ALLOWED: readonly (readonly [string, string])[] = [
  ['contract/planted.ts', 'zod'],
  ['contract/hash-chain.ts', 'canonicalize'],
  ['rules/planted.ts', 'contract/ids.ts'],
  ['daemon/lane/planted.ts', 'contract/ledger.ts'],
  ['daemon/reader/serial-reader.ts', 'serialport'],
  ['daemon/gate/planted.ts', 'daemon/lane/state-machine.ts'],
  ['daemon/main.ts', 'daemon/store/ledger.ts'],
  ['cloud/tickets/planted.ts', 'cloud/db/database.ts'],
  ['cloud/tickets/codes/qr-sheet.ts', 'qrcode'],
  ['cloud/scan/planted.ts', 'cloud/reconcile/queries.ts'],
  ['daemon/gate/gate.test.ts', 'test/simulation/run.ts'],
];
test.each(ALLOWED)('%s may import %s', (from, to) => {
  expect(violations([{ from, to, line: 1 }])).toEqual([]);
});

test('imports are read in every form, with their lines', () => {
  const text = [
    "import a from './a.ts';",
    "import type { B } from './b.ts';",
    'import {',
    '  c,',
    "} from './c.ts';",
    "export * from './d.ts';",
    "import './e.ts';",
    "const f = await import('./f.ts');",
    "// import g from './g.ts' in a comment counts where it begins a line only",
  ].join('\n');
  expect(importsOf('room/x.ts', text).map(({ to, line }) => `${to}:${line}`)).toEqual([
    'room/a.ts:1',
    'room/b.ts:2',
    'room/c.ts:3',
    'room/d.ts:6',
    'room/e.ts:7',
    'room/f.ts:8',
  ]);
});

test('a planted circle, dead file and idle export are found', () => {
  const circle = [
    { from: 'rules/a.ts', to: 'rules/b.ts', line: 1 },
    { from: 'rules/b.ts', to: 'rules/a.ts', line: 1 },
  ];
  expect(circles([...imports, ...circle])).toContainEqual(['rules/a.ts', 'rules/b.ts']);
  expect(deadFiles([...imports, { from: 'rules/planted.ts', to: 'zod', line: 1 }], root)).toEqual(['rules/planted.ts']);
  expect(idleExports(root, new Map([['rules/planted.ts', 'export const nobodyNeedsThis = 1;\n']]))).toEqual(['rules/planted.ts: nobodyNeedsThis']);
});

test('the picture of rooms: every product file stands in a room of the table', () => {
  const files = new Set(imports.map(({ from }) => from).filter(isProduct));
  for (const file of files) expect([file, LAYERS.some(({ of }) => file === of || file.startsWith(`${of}/`))]).toEqual([file, true]);
});
