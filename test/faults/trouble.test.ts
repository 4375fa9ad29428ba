/**
 * Faults on the real thing, one at a time, each with what is to be expected of it (test/faults/README.md has the table). A gate as a
 * process, with a reader, a lane in software, and its own ledger; where the network is at fault, the gate's own store and uplink against
 * a real broker and the real ingest.
 *
 *   make test                                                 the short ones
 *   STILE_PROVE=1 npx vitest run --project system test/faults/trouble.test.ts   all
 */
import { spawnSync } from 'node:child_process';
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { createDatabase } from '../../cloud/db/database.ts';
import { startBroker } from '../../testkit/broker.ts';
import { testPostgres } from '../../testkit/database.ts';
import { codeOf, createTestGate, type TestGate, until } from '../../testkit/gate.ts';
import { connectPeer } from '../../testkit/mqtt-client.ts';
import { compiler } from '../disk/faulty-disk.ts';
import { boottimeMs, type Wires, watchWires } from '../disk/lane-recorder.ts';
import { agrees, compare } from './counts.ts';
import { createIngestProcess, createWriter, heldRows, openWorld, through, type World, type Writer } from './environment.ts';
import { makeFaultyWorld } from './faulty-world.ts';
import { openProxy } from './proxy.ts';

const PROVE = process.env['STILE_PROVE'] === '1';
const figure = (text: string): void => void process.stdout.write(`figure: ${text}\n`);

interface Entry {
  readonly seq: number;
  readonly kind: string;
  readonly ts: string;
  readonly boottime_ms: number;
  readonly outcome?: string;
  readonly what?: string;
  readonly ticket_id?: string;
  readonly reason?: string;
}

describe('a gate as a process', () => {
  let at: TestGate;
  let wires: Wires;
  const status = () => at.status();
  const rows = async () => (await at.rows()).map(({ entry }) => entry as unknown as Entry);
  const alerts = async () => (await status()).alerts.map(({ id }) => id);
  const ready = () => until(status, ({ signals, readers }) => (signals.in === 'ready' || signals.in === 'refused') && readers.every(({ ok }) => ok));
  /** A guest with ticket `n` goes in, all the way. */
  async function enters(n: number): Promise<void> {
    await ready();
    const fromMs = boottimeMs();
    at.show(codeOf(n));
    await wires.next('release_in', true, fromMs);
    await until(rows, (all) => all.some(({ outcome, ticket_id }) => outcome === 'passed' && ticket_id === `t-${n}`));
  }
  async function start(env: Record<string, string> = {}) {
    const child = await at.start(env);
    wires = await watchWires(join(at.dir, 'sim.sock'));
    // A passage that is over before a loaded machine looks is seen by no sensor.
    wires.send({ walk: { rotate_ms: 200 } });
    return child;
  }
  /** The chain is whole, and the lane stands as it should. */
  async function wellInTheEnd(): Promise<void> {
    expect(await at.cli('ledger', 'verify')).toMatchObject({ code: 0 });
    expect(readFileSync(join(at.dir, 'sim.sock.wires/release_in'), 'utf8').trim()).toBe('0');
  }
  beforeEach(async () => {
    at = await createTestGate();
  });
  afterEach(async () => {
    wires?.close();
    await at.killAll();
    at.remove();
  });

  test('GPIO that fails with EIO: alert and a row of it, a guest meanwhile is not let in and keeps the ticket, and it heals by itself', async () => {
    await start();
    await enters(0);
    await ready();
    wires.send({ fault: 'write' });
    at.show(codeOf(1));
    await until(alerts, (now) => now.includes('board'));
    const releases = wires.changes.filter(({ wire, active }) => wire === 'release_in' && active).length;
    expect(releases).toBe(1);
    await until(rows, (all) => all.some(({ outcome, ticket_id }) => ticket_id === 't-1' && outcome === 'returned'));
    wires.send({ fault: 'none' });
    await until(alerts, (now) => !now.includes('board'));
    await until(rows, (all) => all.some(({ kind, what }) => kind === 'fault' && what === 'board'));
    await enters(1);
    await wellInTheEnd();
  });

  if (PROVE)
    test('a reader that is unplugged: alert and lamp at once; plugged in again the next guest goes in, and half a code is forgotten', async () => {
      await start();
      await enters(0);
      await ready();
      writeFileSync(join(at.dir, 'guest'), codeOf(2).slice(0, 9));
      await sleep(200);
      at.reader.unplug();
      await until(alerts, (now) => now.includes('reader-in'));
      at.reader.plug();
      await until(alerts, (now) => !now.includes('reader-in'));
      await enters(2);
      await wellInTheEnd();
    });

  if (compiler === undefined) test.skip('a wall clock that is set');
  else
    test('a wall clock that is set an hour ahead, then a day back: a row of each, guests go in, time between rows is true, the chain is whole', async () => {
      const world = makeFaultyWorld();
      try {
        await start(world.env);
        await enters(0);
        const jumps = async () => (await rows()).filter(({ kind, what }) => kind === 'clock' && what === 'jump').length;
        world.order({ clockS: 3_600 });
        await until(jumps, (count) => count === 1);
        await enters(1);
        world.order({ clockS: -86_400 });
        await until(jumps, (count) => count === 2);
        // The list of tickets is of today: whether it is in force cannot be told yesterday, and the policy is to admit and flag.
        await enters(2);
        const all = await rows();
        const times = all.map(({ boottime_ms }) => boottime_ms);
        expect(times).toEqual([...times].sort((a, b) => a - b));
        expect(times.at(-1)! - times[0]!).toBeLessThan(120_000);
        await wellInTheEnd();
      } finally {
        world.remove();
      }
    });

  if (compiler === undefined) test.skip('names that are not found');
  else if (PROVE)
    test('DNS that fails: the gate decides alone and says why; when names are found again it connects and sends what it has', async () => {
      const world = makeFaultyWorld();
      const broker = await startBroker();
      try {
        world.order({ names: 'lost' });
        appendFileSync(at.config, `mqtt: { url: "mqtt://broker.stile:${broker.port}" }\n`);
        await start(world.env);
        await enters(0);
        const uplink = await until(status, ({ alerts: now }) => now.some(({ id }) => id === 'uplink'));
        expect(uplink.alerts.find(({ id }) => id === 'uplink')?.message).toMatch(/EAI_AGAIN/);
        const cloud = await connectPeer(broker.url);
        await cloud.subscribe('stile/1/#');
        world.order({ names: 'found' });
        const sent = await cloud.wait(({ topic, payload }) => topic.endsWith('/ledger') && payload.includes('"passed"'), 45_000);
        expect(JSON.parse(sent.payload.toString())).toMatchObject({ gate: 'arena/north-03' });
        await cloud.end();
        await until(alerts, (now) => !now.includes('uplink'));
        await wellInTheEnd();
      } finally {
        await broker.stop();
        world.remove();
      }
    });

  const prlimit = spawnSync('prlimit', ['--version']).status === 0;
  if (!prlimit) test.skip('memory that is starved');
  else if (PROVE)
    test('memory that is starved: with 80 MB left guests go in as ever; with nothing left the process ends, and the next one finds every row', async () => {
      const gate = await start();
      await enters(0);
      const dataKb = () => Number(/VmData:\s+(\d+) kB/.exec(readFileSync(`/proc/${gate.pid}/status`, 'utf8'))?.[1]);
      const leave = (megabytes: number) => {
        const bytes = (dataKb() + megabytes * 1024) * 1024;
        const { status, stderr } = spawnSync('prlimit', ['--pid', String(gate.pid), `--data=${bytes}:${bytes}`], { encoding: 'utf8' });
        expect([status, stderr]).toEqual([0, '']);
      };
      const before = dataKb();
      leave(80);
      for (let n = 1; n <= 12; n++) await enters(n);
      const grown = (dataKb() - before) / 1024;
      expect(gate.exitCode).toBe(null);
      const kept = (await rows()).length;
      leave(0);
      // Whatever asks for memory now gets none: the process ends, or goes on within what it has.
      for (let n = 0; n < 40 && gate.exitCode === null && gate.signalCode === null; n++) {
        at.show('X'.repeat(200));
        await sleep(50);
      }
      await at.end(gate, 'SIGKILL');
      wires.close();
      await start();
      expect((await rows()).length).toBeGreaterThanOrEqual(kept);
      await enters(13);
      await wellInTheEnd();
      figure(
        `with 80 MB of memory left 12 guests went in and the process grew by ${grown.toFixed(1)} MB; with none left it ended or went on, and no row was lost`,
      );
    });
});

describe('the ways between gates, broker and Postgres', () => {
  let world: World;
  let writer: Writer;
  let stopIngest: () => Promise<void>;
  let folder: string | undefined;
  const drained = async (withinMs: number) => {
    const deadline = performance.now() + withinMs;
    for (;;) {
      const difference = compare(await writer.rows(), await heldRows(world.postgres.url));
      if (agrees(difference)) return difference;
      if (performance.now() > deadline) throw new Error(`not within ${withinMs} ms: ${JSON.stringify(difference)}`);
      await sleep(200);
    }
  };
  const open = async () => {
    world = await openWorld();
    const ingest = createIngestProcess(join(import.meta.dirname, '../../testkit/ingest-process.ts'), world.cloudEnv);
    stopIngest = () => ingest.kill();
    await ingest.start();
    folder = mkdtempSync(join(tmpdir(), 'stile-trouble-'));
    writer = await createWriter({
      dir: folder,
      databaseUrl: world.postgres.url,
      mqttUrl: world.gateMqttUrl,
      gates: 2,
      ticketsPerGate: 1_000,
    });
    await writer.start();
    writer.pace(10);
    await drainedSome();
  };
  const drainedSome = async () => {
    while ((await heldRows(world.postgres.url)).length < 20) await sleep(100);
  };
  afterEach(async () => {
    await writer?.stop();
    await stopIngest?.();
    await world?.close();
    if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
  });

  if (PROVE) {
    test('a broker that accepts and never answers: gates decide and write, and all of it arrives when it answers', async () => {
      await open();
      world.ways.gates.weather({ kind: 'cut' });
      world.ways.gates.weather({ kind: 'mute' });
      const before = (await heldRows(world.postgres.url)).length;
      await sleep(15_000);
      expect(writer.stand().online).toBe(0);
      expect(writer.stand().backlog).toBeGreaterThan(200);
      expect((await heldRows(world.postgres.url)).length - before).toBeLessThan(100);
      world.ways.gates.weather({ kind: 'fair' });
      writer.pace(0);
      const { rows } = await drained(60_000);
      figure(`a broker that accepted and never answered for 15 s: 0 of ${rows} rows lost, 0 doubled`);
    });

    test('a network with 2 s of delay and 10 kB/s: rows arrive in the end, each once, and not at the price of sending everything again and again', async () => {
      await open();
      world.ways.gates.weather({ kind: 'slow', latencyMs: 2_000, bytesPerSecond: 10_000 });
      writer.pace(2);
      await sleep(40_000);
      expect((await heldRows(world.postgres.url)).length).toBeGreaterThan(40);
      const backlog = writer.stand().backlog;
      writer.pace(0);
      world.ways.gates.weather({ kind: 'fair' });
      const { rows } = await drained(60_000);
      figure(`40 s with 2 s of delay and 10 kB/s: a backlog of ${backlog} rows at its end, then 0 of ${rows} lost, 0 doubled`);
    });
  }

  test('Postgres that hangs on a connection for good: the transaction fails in bounded time, and the next one goes another way', async () => {
    const { url } = await testPostgres();
    const proxy = await openProxy({ target: Number(new URL(url).port) });
    const database = createDatabase({ url: through(url, proxy), statementTimeoutMs: 500, answerTimeoutMs: 1_000 });
    try {
      const ask = () => database.asOwner((client) => client.query('SELECT 1 AS one'));
      await ask();
      proxy.freeze();
      const beganMs = performance.now();
      await expect(ask()).rejects.toThrow(/timeout/);
      expect(performance.now() - beganMs).toBeLessThan(10_000);
      expect((await ask()).rows).toEqual([{ one: 1 }]);
    } finally {
      await Promise.race([database.close(), sleep(2_000)]);
      await proxy.close();
    }
  });
});
