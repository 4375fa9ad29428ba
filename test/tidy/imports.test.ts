/** The linter enforces the import rules of the house: each rule is broken on purpose here, and must be reported. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** Plants every import where it is said to stand, in a copy of the house, and answers which of them the linter reported, as `path source`. */
function reported(planted: readonly (readonly [string, string])[]): ReadonlySet<string> {
  const house = realpathSync(mkdtempSync(join(tmpdir(), 'stile-imports-')));
  try {
    const config = JSON.parse(readFileSync(join(root, 'biome.json'), 'utf8')) as Record<string, unknown>;
    delete config['$schema'];
    delete config['vcs'];
    writeFileSync(join(house, 'biome.json'), JSON.stringify(config));
    const sources = new Map<string, string[]>();
    for (const [path, source] of planted) sources.set(path, [...(sources.get(path) ?? []), source]);
    for (const [path, list] of sources) {
      mkdirSync(dirname(join(house, path)), { recursive: true });
      writeFileSync(join(house, path), list.map((source, index) => `export * as planted${index} from '${source}';\n`).join(''));
    }
    const { stdout } = spawnSync(join(root, 'node_modules/.bin/biome'), ['lint', '--reporter=github', '--max-diagnostics=none', '.'], {
      cwd: house,
      encoding: 'utf8',
    });
    const found = new Set<string>();
    for (const [, file, line] of stdout.matchAll(/title=lint\/style\/noRestrictedImports,file=([^,]*),line=(\d+)/g))
      found.add(`${relative(house, file as string)} ${sources.get(relative(house, file as string))?.[Number(line) - 1]}`);
    return found;
  } finally {
    rmSync(house, { recursive: true, force: true });
  }
}

const FORBIDDEN: readonly (readonly [string, string])[] = [
  ['contract/planted.ts', '../rules/facts.ts'],
  ['contract/planted.ts', 'node:fs'],
  ['rules/planted.ts', 'node:crypto'],
  ['rules/planted.ts', '../daemon/ports.ts'],
  ['daemon/lane/planted.ts', '../ports.ts'],
  ['daemon/lane/planted.ts', 'node:fs'],
  ['daemon/reader/planted.ts', '../board/sim-board.ts'],
  ['daemon/reader/planted.ts', 'serialport'],
  ['daemon/board/planted.ts', 'onoff'],
  ['daemon/store/planted.ts', '../link/mqtt-uplink.ts'],
  ['daemon/store/planted.ts', 'better-sqlite3'],
  ['daemon/link/planted.ts', '../store/ledger.ts'],
  ['daemon/gate.ts', './store/ledger.ts'],
  ['daemon/gate.ts', 'mqtt'],
  ['daemon/planted.ts', '../cloud/database.ts'],
  ['cloud/planted.ts', '../daemon/ports.ts'],
  ['cloud/tickets/planted.ts', '../manifest/build.ts'],
  ['cloud/ingest/planted.ts', '../reconcile/reconcile.ts'],
  ['cloud/planted.ts', 'pg'],
  ['cloud/tickets/planted.ts', 'qrcode'],
];
const ALLOWED: readonly (readonly [string, string])[] = [
  ['contract/planted.ts', 'zod'],
  ['rules/planted.ts', '../contract/ids.ts'],
  ['daemon/lane/planted.ts', '../../contract/ledger.ts'],
  ['daemon/reader/planted.ts', '../ports.ts'],
  ['daemon/reader/serial-reader.ts', 'serialport'],
  ['daemon/gate.ts', './lane/turnstile.ts'],
  ['daemon/main.ts', './store/ledger.ts'],
  ['cloud/tickets/planted.ts', '../database.ts'],
  ['cloud/tickets/sheet.ts', 'qrcode'],
];
const found = reported([...FORBIDDEN, ...ALLOWED]);
test.each(FORBIDDEN)('%s may not import %s', (path, source) => {
  expect([...found]).toContain(`${path} ${source}`);
});
test.each(ALLOWED)('%s may import %s', (path, source) => {
  expect([...found]).not.toContain(`${path} ${source}`);
});
