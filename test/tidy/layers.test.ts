/** The layers hold in the whole tree, and the checker finds a violation planted in every room, a circle, a dead file and an idle export. */
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { deadFiles, idleExports } from './exports.ts';
import { circles, type Import, importsBelow, importsOf, isTestFile, LAYERS, violations } from './layers.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const imports = importsBelow(root);
const PRODUCT = ['contract', 'rules', 'signing', 'manifest-format', 'runtime', 'daemon', 'cloud'];
const isProduct = (path: string): boolean => PRODUCT.some((room) => path.startsWith(`${room}/`)) && !isTestFile(path);

test('every import is one that its layer allows', () => {
  expect(violations(imports)).toEqual([]);
});

test('no files import one another in a circle, types included', () => {
  // The simulated cloud and the watcher of its rows describe one another; they are one thing in two files.
  expect(circles(imports.filter(({ from }) => !from.startsWith('test/simulation/')))).toEqual([]);
});

test('every product file is reached from a program', () => {
  expect(deadFiles(imports, root)).toEqual([]);
});

test('every export of product code is used by other code than tests', () => {
  expect(idleExports(root)).toEqual([]);
});

/** Rooms that a file can be planted in: folders of the product, and its single files. */
const ROOMS = LAYERS.map(({ of }) => of).filter((of) => PRODUCT.some((room) => of === room || of.startsWith(`${room}/`)));
const planted = (room: string, to: string): Import => ({ from: room.endsWith('.ts') ? room : `${room}/planted.ts`, to, line: 1 });

test.each(ROOMS)('%s: a planted import of a test, a bench, the workshop and an unknown library is found', (room) => {
  for (const to of ['test/run.ts', 'bench/table.ts', 'deploy/bundle.ts', 'testkit/stack.ts', 'left-pad', 'rules/testing/facts.ts'])
    expect([to, violations([planted(room, to)]).length]).toEqual([to, 1]);
});

test.each(ROOMS.filter((room) => room.startsWith('daemon')))('%s: a planted import of the cloud is found', (room) => {
  expect(violations([planted(room, 'cloud/db/database.ts')])).toHaveLength(1);
});

test.each(ROOMS.filter((room) => room.startsWith('cloud')))('%s: a planted import of the daemon is found', (room) => {
  expect(violations([planted(room, 'daemon/ports.ts')])).toHaveLength(1);
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
