/** The self-test as a technician runs it: the launcher as a child, against a running gate with two readers and a software turnstile. */
import { spawn } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { createTestCa } from '../../deploy/mosquitto/test-ca.ts';
import { CHECKOUT_LAUNCHER, createTestGate, GATE, type TestGate, until } from '../../testkit/gate.ts';
import { connectGate } from '../control/client.ts';
import { openPtyPair, type PtyPair } from '../sim/pty-pair.ts';
import type { SelftestReport } from './selftest.ts';

let at: TestGate;
let outReader: PtyPair;
beforeAll(async () => {
  at = await createTestGate();
  outReader = openPtyPair({ readerLink: join(at.dir, 'reader-out'), guestLink: join(at.dir, 'guest-out') });
  const ca = await createTestCa();
  const { cert, key } = await ca.issue(GATE);
  for (const [name, text] of [
    ['ca.crt', ca.ca],
    ['gate.crt', cert],
    ['gate.key', key],
  ] as const)
    writeFileSync(join(at.dir, name), text, { mode: 0o600 });
  mkdirSync(join(at.dir, 'conf.d'));
  writeFileSync(
    join(at.dir, 'conf.d/two-ways.yaml'),
    `readers: [{ name: in, path: ../reader }, { name: out, path: ../reader-out, direction: out }]
turnstile: { passage_timeout_ms: 2000, exit: code }
mqtt: { url: "mqtts://127.0.0.1:9", ca: ../ca.crt, cert: ../gate.crt, key: ../gate.key }
`,
  );
});
afterEach(() => at.killAll());
afterAll(() => {
  outReader.close();
  at.remove();
});

/** Does what a person at the lane would do when they are told. */
function person(lane: { swapLines: boolean }) {
  const outputs = at.outputs((change) => {
    const direction = /^release_(in|out) on$/.exec(change)?.[1];
    if (direction === undefined) return;
    const line = lane.swapLines ? (direction === 'in' ? 'passage_out' : 'passage_in') : `passage_${direction}`;
    void at.tellTurnstile({ input: line, active: true }).then(() => at.tellTurnstile({ input: line, active: false }));
  });
  return { seen: outputs.seen, end: outputs.close };
}

/** Keeps showing a code until it is told to stop: the reader is asked for at its time. */
function showing(guest: string): () => void {
  const timer = setInterval(() => writeFileSync(join(at.dir, guest), 'ANY-CODE-1234\r\n'), 100);
  return () => clearInterval(timer);
}

const reports = () => readdirSync(at.root).filter((name) => /^selftest-.*\.json$/.test(name));

test('a good lane: every part tried, told as it goes, and a report that its gate signed', async () => {
  const gate = await at.start();
  expect(await at.cli('selftest', '--reason', 'new')).toMatchObject({ code: 1, stderr: expect.stringContaining('out_of_service') });
  expect(await at.cli('mode', 'out_of_service', '--reason', 'new', '--actor', 'tech-1')).toMatchObject({ code: 0 });
  await at.tellTurnstile({ walk: { mode: 'nobody' } });
  const who = person({ swapLines: false });
  const before = (await at.status()).totals;
  // Shows a code where and when it is asked for.
  const child = spawn(CHECKOUT_LAUNCHER, ['selftest', '--reason', 'new lane', '--actor', 'tech-1', '--config', at.config], { cwd: at.root });
  let stdout = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
    const asked = /show any code to the reader (\w+)/.exec(text)?.[1];
    if (asked !== undefined) writeFileSync(join(at.dir, asked === 'in' ? 'guest' : 'guest-out'), 'ANY-CODE-1234\r\n');
  });
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  who.end();
  expect({ code, stdout }).toMatchObject({ code: 0 });
  expect(stdout).toMatch(
    /lamp green_in is lit[\s\S]*ok {4}green_in[\s\S]*direction in is released: walk through[\s\S]*ok {4}release_in: driven; passage_in saw the passage/,
  );
  expect(stdout).toMatch(/show any code to the reader in[\s\S]*ok {4}reader in: read a code[\s\S]*ok {4}reader out: read a code/);
  for (const lamp of ['green_in', 'amber_in', 'red_in', 'green_out', 'amber_out', 'red_out', 'buzzer']) expect(who.seen).toContain(`${lamp} on`);
  // Nobody was decided, nobody was counted, and no code is anywhere.
  expect((await at.status()).totals).toEqual(before);
  const [name] = reports();
  const file = join(at.root, name as string);
  const report = JSON.parse(readFileSync(file, 'utf8')) as SelftestReport;
  expect(report).toMatchObject({ gate: GATE, actor: 'tech-1', reason: 'new lane', result: 'ok', seen: null, unsigned_because: null });
  expect(readFileSync(file.replace('.json', '.txt'), 'utf8')).toMatch(/result: passed\nsigned by the gate's key/);
  expect(readFileSync(file, 'utf8')).not.toContain('ANY-CODE');
  expect(await at.cli('selftest', '--check', file)).toMatchObject({
    code: 0,
    stdout: expect.stringMatching(/signed by arena\/north-03.*this installation's authority/),
  });
  const forged = join(at.root, 'forged.json');
  writeFileSync(forged, readFileSync(file, 'utf8').replace('"reason": "new lane"', '"reason": "old lane"'));
  expect(await at.cli('selftest', '--check', forged)).toMatchObject({ code: 1, stdout: expect.stringContaining('changed after it was signed') });
  await at.end(gate, 'SIGTERM');
});

test('swapped passage lines and swapped readers are named; the report fails', async () => {
  const gate = await at.start();
  await at.tellTurnstile({ walk: { mode: 'nobody' } });
  const who = person({ swapLines: true });
  const stop = showing('guest-out');
  const { code, stdout } = await at.cli('selftest', '--reason', 'rewired', '--actor', 'tech-1', '--json');
  stop();
  who.end();
  expect(code).toBe(1);
  const report = JSON.parse(stdout) as SelftestReport;
  const step = (name: string) => report.steps.find((one) => one.name === name);
  expect(step('release_in')).toMatchObject({ result: 'fail', detail: expect.stringContaining('passage_out answered instead of passage_in') });
  expect(step('release_out')).toMatchObject({ result: 'fail', detail: expect.stringContaining('swapped') });
  expect(step('reader in')).toMatchObject({ result: 'fail', detail: expect.stringContaining('reader out read it instead') });
  expect(step('reader out')).toMatchObject({ result: 'ok' });
  await at.end(gate, 'SIGTERM');
});

test('who goes away ends it', async () => {
  const gate = await at.start();
  const client = await connectGate(join(at.dir, 'gate.sock'));
  const news: unknown[] = [];
  const call = client.call('selftest', { actor: 'tech-1', reason: 'looked away' }, (item) => news.push(item)).catch(() => null);
  await until(
    () => news.length,
    (count) => count > 1,
  );
  client.close();
  await call;
  const outputs = at.outputs();
  await new Promise((resolve) => setTimeout(resolve, 2_500));
  expect(outputs.seen.filter((change) => change.startsWith('release') && change.endsWith('on'))).toEqual([]);
  outputs.close();
  // Another one may begin at once.
  const again = await connectGate(join(at.dir, 'gate.sock'));
  const more: unknown[] = [];
  void again.call('selftest', { actor: 'tech-1', reason: 'again' }, (item) => more.push(item)).catch(() => null);
  await until(
    () => more.length,
    (count) => count > 0,
  );
  again.close();
  await at.end(gate, 'SIGTERM');
});
