/** All the kills and cuts of a run, in an order that its seed gives. */
import { setTimeout as sleep } from 'node:timers/promises';
import { connectOwner } from '../../cloud/db/database.ts';
import type { GateProcess } from '../../testkit/gate-process.ts';
import { createRandom } from '../../testkit/prng.ts';
import type { World } from './environment.ts';
import type { Weather } from './proxy.ts';
import type { Parts } from './run-parts.ts';

const CALM_MS = 2_000;
const POLL_MS = 100;

type Fault = 'broker' | 'postgres' | 'partition' | 'cloud' | 'writer' | 'whole';

function shuffled<T>(list: readonly T[], random: () => number): T[] {
  const all = [...list];
  for (let left = all.length - 1; left > 0; left--) {
    const other = Math.floor(random() * (left + 1));
    [all[left], all[other]] = [all[other] as T, all[left] as T];
  }
  return all;
}

/** All faults in a mixed order, some of them two at a time, each when rows flow again (or CALM_MS after the last). */
export async function storm(parts: Parts): Promise<void> {
  const { options, world, writer } = parts;
  const random = createRandom(options.seed).next;
  const times = (fault: Fault, count: number): Fault[] => Array.from({ length: count }, () => fault);
  const kills = Math.min(parts.whole.length > 0 ? Math.floor(options.gateKills / 2) : 0, options.gateKills);
  const faults = shuffled(
    [
      ...times('broker', options.brokerKills),
      ...times('postgres', options.postgresKills),
      ...times('partition', options.partitions),
      ...times('cloud', options.cloudKills),
      ...times('whole', kills),
      ...times('writer', options.gateKills - kills),
    ],
    random,
  );
  const total = faults.length;
  let stored = await countRows(world);
  const calm = async () => {
    const deadline = performance.now() + CALM_MS;
    while (performance.now() < deadline) {
      const now = await countRows(world);
      if (now > stored + options.gates) {
        stored = now;
        return;
      }
      await sleep(POLL_MS);
    }
  };
  while (faults.length > 0) {
    await calm();
    await sleep(random() * 200);
    const first = faults.shift() as Fault;
    const second = random() < 0.45 && faults[0] !== first ? faults.shift() : undefined;
    await Promise.all([first, ...(second === undefined ? [] : [second])].map((fault) => strike(fault, parts, random)));
    const done = total - faults.length;
    if (done % 20 === 0) options.say(`${done} of ${total} faults, ${stored} rows in Postgres, backlog ${writer.stand().backlog}`);
  }
  await calm();
}

async function countRows(world: World): Promise<number> {
  const owner = await connectOwner(world.postgres.url);
  try {
    return Number((await owner.query<{ n: number }>("SELECT count(*)::int AS n FROM ledger_rows WHERE gate NOT LIKE '%/cloud'")).rows[0]?.n ?? 0);
  } finally {
    await owner.close();
  }
}

/** One fault and its end. */
async function strike(fault: Fault, { world, cloud, writer, whole }: Parts, random: () => number): Promise<void> {
  const holdMs = 50 + random() * 600;
  switch (fault) {
    case 'broker': {
      // Now and then it saves what it holds just before: then it comes back with a past.
      const { pid } = world.broker;
      if (random() < 0.3) process.kill(pid() as number, 'SIGUSR1');
      await world.broker.kill();
      await sleep(holdMs);
      return world.broker.restart();
    }
    case 'postgres':
      await world.postgres.kill(random() < 0.5 ? 'head' : 'all');
      await sleep(holdMs);
      return world.postgres.restart();
    case 'partition': {
      const way = [world.ways.gates, world.ways.cloud, world.ways.database][Math.floor(random() * 3)] as World['ways']['gates'];
      const kinds: readonly Weather[] = [{ kind: 'cut' }, { kind: 'silent' }, { kind: 'slow', latencyMs: 300, bytesPerSecond: 20_000 }];
      // Two of three part the sides for good; the third lets something through, late.
      way.weather(kinds[Math.floor(random() * kinds.length)] as Weather);
      await sleep(200 + random() * 900);
      way.weather({ kind: 'fair' });
      return;
    }
    case 'cloud':
      await cloud.kill();
      await sleep(holdMs);
      return cloud.start();
    case 'writer':
      await writer.kill();
      await sleep(holdMs);
      return writer.start();
    case 'whole': {
      const gate = whole[Math.floor(random() * whole.length)] as GateProcess;
      await gate.kill();
      await sleep(holdMs);
      return gate.start();
    }
  }
}
