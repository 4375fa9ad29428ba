/** The stop step, compiled as it is shipped, for a gate that was killed with its lane open. */
import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const source = fileURLToPath(new URL('stile-release.c', import.meta.url));
const daemon = fileURLToPath(new URL('../../daemon', import.meta.url));
const compiler = ['cc', 'gcc', 'clang'].find((name) => spawnSync(name, ['--version']).status === 0);
let folder: string;
let program: string;

const release = (...given: string[]) => spawnSync(program, given, { encoding: 'utf8', timeout: 10_000 });
const at = (...parts: string[]): string => join(folder, ...parts);
const lines = (...text: string[]): string => {
  writeFileSync(at('release.conf'), text.map((line) => `${line}\n`).join(''));
  return at('release.conf');
};
const read = (...parts: string[]): string => readFileSync(at(...parts), 'utf8');

/** A gate with a simulated lane that has released its guest; answers once it has. */
async function gateThatReleased(name: string, fire: boolean) {
  const script = `
    import { createSimBoard } from '${daemon}/board/sim-board.ts';
    import { CONTRACT_LANE } from '${daemon}/board/testing/board-conformance.ts';
    import { writeReleaseFile } from '${daemon}/board/failsafe-file.ts';
    const board = createSimBoard({ config: { ...CONTRACT_LANE, simSocket: process.argv[1] + '.sock', simGuest: false } }, { boottimeMs: () => performance.now() });
    await board.open(() => {}, () => {});
    writeReleaseFile(process.argv[1] + '.conf', board.releaseTargets(${fire}));
    board.write('release_in', true);
    board.write('green_in', true);
    console.log('released');
    setInterval(() => {}, 1_000);`;
  const gate = spawn(process.execPath, ['--input-type=module', '-e', script, at(name)], { stdio: ['ignore', 'pipe', 'inherit'] });
  await new Promise<void>((resolve, reject) => {
    gate.stdout.once('data', () => resolve());
    gate.once('exit', (code) => reject(new Error(`the gate ended with ${code}`)));
  });
  return {
    wire: (output: string) => read(`${name}.sock.wires`, output).trim(),
    kill: () => new Promise((resolve) => gate.once('exit', resolve).kill('SIGKILL')),
    conf: at(`${name}.conf`),
  };
}

if (compiler === undefined) test.skip('stop-step');
else
  describe('stop-step', () => {
    beforeAll(() => {
      folder = mkdtempSync(join(tmpdir(), 'stile-stop-'));
      program = at('stile-release');
      const { status, stderr } = spawnSync(compiler, ['-static', '-O2', '-Wall', '-Wextra', '-Werror', '-o', program, source], { encoding: 'utf8' });
      if (status !== 0) throw new Error(`stile-release.c does not compile: ${stderr}`);
      mkdirSync(at('gpio', 'gpio529'), { recursive: true });
      writeFileSync(at('gpio', 'gpio529', 'direction'), '');
      mkdirSync(at('gpio', 'gpio530'));
      writeFileSync(at('gpio', 'gpio530', 'direction'), '');
    });
    afterAll(() => rmSync(folder, { recursive: true, force: true }));

    test('a gate killed with its lane open: the release returns to its defined state', async () => {
      const gate = await gateThatReleased('killed', false);
      await gate.kill();
      // What is to be proven is worth nothing if the wire had gone back by itself.
      expect([gate.wire('release_in'), gate.wire('green_in')]).toEqual(['1', '0']);
      expect(release(gate.conf)).toMatchObject({ status: 0, stderr: '' });
      expect(['release_in', 'release_out', 'stop', 'green_in', 'buzzer'].map(gate.wire)).toEqual(['0', '1', '1', '1', '0']);
    });

    test('a gate killed while fire is latched: the releases stand open, in both directions', async () => {
      const gate = await gateThatReleased('fire', true);
      await gate.kill();
      expect(release(gate.conf)).toMatchObject({ status: 0, stderr: '' });
      expect(['release_in', 'release_out', 'stop'].map(gate.wire)).toEqual(['1', '0', '0']);
    });

    test('sysfs lines are set with direction and level in one', () => {
      expect(release(lines('# a comment', '', 'sysfs 529 0', 'sysfs 530 1'), at('gpio'))).toMatchObject({ status: 0, stderr: '' });
      expect([read('gpio', 'gpio529', 'direction'), read('gpio', 'gpio530', 'direction')]).toEqual(['low', 'high']);
    });

    test('a line that is not exported is exported; what cannot be had is said, and the others are returned all the same', () => {
      writeFileSync(at('gpio', 'export'), '');
      const { status, stderr } = release(lines('sysfs 531 0', 'chip /dev/null 17 0', `chip ${at('no chip')} 17 0`, `sim ${at('a wire')} 1`), at('gpio'));
      expect([status, read('a wire'), read('gpio', 'export')]).toEqual([1, '1\n', '531']);
      expect(stderr.split('\n').filter((line) => line !== '')).toEqual([
        expect.stringMatching(/line 1: cannot set gpio531: No such file/),
        expect.stringMatching(/line 2: cannot claim a line of \/dev\/null: Inappropriate ioctl/),
        expect.stringMatching(/line 3: cannot open .*no chip: No such file/),
      ]);
    });

    test('the stop step reports each line that it cannot read, and goes on', () => {
      const bad = [
        'sysfs',
        'sysfs 529',
        'sysfs 529 2',
        'sysfs -1 0',
        'sysfs 5x 0',
        'sysfs 99999999999 0',
        'chip /dev/null 0',
        'sim  ',
        'relay 4 0',
        'x'.repeat(10_000),
        '\xff\x01 1',
      ];
      const { status, stderr } = release(lines(...bad, 'sysfs 529 1'), at('gpio'));
      expect(status).toBe(1);
      expect(stderr.split('\n').filter((line) => line !== '')).toHaveLength(bad.length);
      expect(read('gpio', 'gpio529', 'direction')).toBe('high');
      expect(release(lines(...Array.from({ length: 65 }, () => 'sysfs 529 1')), at('gpio'))).toMatchObject({
        status: 1,
        stderr: expect.stringContaining('more than 64'),
      });
    });

    test('the stop step fails without a file', () => {
      expect(release(at('none'))).toMatchObject({ status: 1, stderr: expect.stringContaining('No such file') });
    });
  });
