/**
 * The parts of a run of faults (exactly-once.ts): how much of what is wanted, the cloud that is started again whenever it ends, whole gates
 * and their guests.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { GateProcess } from '../../testkit/gate-process.ts';
import { openStack, type Stack } from '../../testkit/stack.ts';
import { newCode } from '../system/environment.ts';
import { createIngestProcess, type World, type Writer } from './environment.ts';

export type Plant = 'puback' | 'early-ack' | 'doubled';

export interface ExactlyOnceOptions {
  readonly brokerKills: number;
  readonly postgresKills: number;
  readonly partitions: number;
  readonly cloudKills: number;
  readonly gateKills: number;
  /** Guests at each writing gate while the broker is away; 0: none. */
  readonly burst: number;
  readonly gates: number;
  readonly wholeGates: number;
  readonly guestsPerS: number;
  readonly seed: number;
  readonly plant: Plant | null;
  readonly say: (line: string) => void;
}

export interface Cloud {
  start(): Promise<void>;
  kill(): Promise<void>;
  stop(): Promise<void>;
}

/** The parts of the system that faults strike. */
export interface Parts {
  readonly options: ExactlyOnceOptions;
  readonly world: World;
  readonly cloud: Cloud;
  readonly writer: Writer;
  readonly whole: readonly GateProcess[];
}

/** RestartSec of the unit is 1 s. */
const RESTART_MS = 1_000;
/** Guests at a whole gate come one after another; so long between them. */
const WHOLE_GUEST_MS = 900;
const SITE = 'arena';
const EVENT = 'concert';

/** The cloud as people run it where whole gates need one to fetch from; else the ingest alone, which is where plants live. */
export async function openCloud(options: ExactlyOnceOptions, world: World, dir: string): Promise<{ cloud: Cloud; stack: Stack | null }> {
  if (options.wholeGates === 0) {
    const script = options.plant === 'early-ack' ? 'hasty-ingest.ts' : '../../testkit/ingest-process.ts';
    const ingest = createIngestProcess(join(import.meta.dirname, script), world.cloudEnv);
    return { stack: null, cloud: { start: () => ingest.start(), kill: () => ingest.kill(), stop: () => ingest.kill() } };
  }
  const stack = await openStack({
    dir,
    databaseUrl: world.cloudEnv.DATABASE_URL,
    mqtt: { url: world.cloudEnv.STILE_MQTT_URL },
    env: { STILE_LOG_LEVEL: process.env['KEEP'] === undefined ? 'error' : 'info' },
  });
  return { stack, cloud: supervised(stack) };
}

/**
 * As systemd runs it (Restart=always): where the database goes away while the cloud starts, it ends with 75, "try again". A start that
 * fails is therefore no failure here, only one that never succeeds is: then nothing arrives.
 */
function supervised(stack: Stack): Cloud {
  let wanted = false;
  let first = true;
  const look = async () => {
    while (wanted) {
      if (!stack.cloudRunning()) await stack.startCloud().catch(() => undefined);
      await sleep(RESTART_MS);
    }
  };
  let looking: Promise<void> = Promise.resolve();
  const stop = async (end: () => Promise<void>) => {
    wanted = false;
    await end();
    await looking;
    await end();
  };
  return {
    async start() {
      if (wanted) return;
      wanted = true;
      // The first start meets no fault: one that fails is an error of ours.
      await (first ? stack.startCloud() : stack.startCloud().catch(() => undefined));
      first = false;
      looking = look();
    },
    kill: () => stop(() => stack.killCloud()),
    stop: () => stop(() => stack.close()),
  };
}

/** Holding an event without tickets. Not started. */
export async function openWholeGates(stack: Stack, world: World, count: number, dir: string): Promise<GateProcess[]> {
  const policies = join(dir, 'policies.json');
  writeFileSync(policies, JSON.stringify({ event: { duplicate_window_s: 0, unknown: 'refuse' } }));
  await stack.cloud('event', 'put', EVENT, '--site', SITE, '--name', 'Concert', '--ends', '2099-01-01T00:00Z', '--policies', policies, '--no-wait');
  const gates: GateProcess[] = [];
  for (let index = 0; index < count; index++)
    gates.push(
      await stack.addGate(`${SITE}/north-${index}`, [EVENT], {
        mqtt: { url: world.gateMqttUrl },
        passageMs: 50,
        settings: { turnstile: { release: 'pulse', sensor: 'per_direction', repeat_ms: 300 } },
      }),
    );
  return gates;
}

/** Guests with codes that nobody knows: each a refusal, which is a row like any other. */
export function showGuests(gates: readonly GateProcess[]): { stop(): Promise<void> } {
  let coming = true;
  const all = gates.map(async (gate) => {
    while (coming) {
      if (gate.running()) gate.show(newCode());
      await sleep(WHOLE_GUEST_MS);
    }
  });
  return {
    async stop() {
      coming = false;
      await Promise.all(all);
    },
  };
}
