/** The bundle, made and started: no checkout, no npm, the runtime that it carries. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { codeOf, createTestGate, until } from '../testkit/gate.ts';

const folder = mkdtempSync(join(tmpdir(), 'stile-bundle-'));
afterAll(() => rmSync(folder, { recursive: true }));
// Two parts have no prebuilt file (deploy/bundle.ts).
const compiler = ['gcc', 'g++'].every((name) => spawnSync(name, ['--version']).status === 0);

test.skipIf(!compiler)(
  'a gate admits from the bundle alone',
  async () => {
    const made = spawnSync(process.execPath, [join(import.meta.dirname, 'bundle.ts'), process.arch, folder, '--no-database'], { encoding: 'utf8' });
    expect(made.stderr).toBe('');
    expect(made.status).toBe(0);
    const bundle = join(folder, `gate-${process.arch}`);
    const { version } = JSON.parse(readFileSync(join(bundle, 'version.json'), 'utf8')) as { version: string };
    const at = await createTestGate(join(bundle, 'bin/stile-gate'));
    try {
      const gate = await at.start();
      expect(readFileSync(`/proc/${gate.pid}/maps`, 'utf8')).toContain(join(bundle, 'lib/native/better_sqlite3.node'));
      const outputs = at.outputs();
      at.show(codeOf(1));
      await until(
        () => outputs.seen,
        (seen) => seen.includes('release_in on'),
      );
      outputs.close();
      expect((await until(at.status, (now) => now.totals.passages === 1)).version).toBe(version);
      expect(await at.cli('ledger', 'verify')).toMatchObject({ code: 0 });
      expect(await at.end(gate, 'SIGTERM')).toBe(0);

      // The next start decides without a schema: what it reads was checked by this very program.
      renameSync(join(bundle, 'lib/zod.cjs'), join(bundle, 'lib/zod.away'));
      const next = await at.start();
      const later = at.outputs();
      at.show(codeOf(2));
      await until(
        () => later.seen,
        (seen) => seen.includes('release_in on'),
      );
      later.close();
      expect(await at.end(next, 'SIGTERM')).toBe(0);
    } finally {
      await at.killAll();
      at.remove();
    }
  },
  120_000,
);

test('another architecture than these is no use', () => {
  const { status, stderr } = spawnSync(process.execPath, [join(import.meta.dirname, 'bundle.ts'), 'riscv64'], { encoding: 'utf8' });
  expect({ status, stderr }).toEqual({ status: 2, stderr: expect.stringContaining('usage') });
});
