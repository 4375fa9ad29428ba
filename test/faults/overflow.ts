/** More rows waiting than the broker's queue holds: what it lets fall must come again. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type Broker, startBroker } from '../../testkit/broker.ts';
import { connectPeer } from '../../testkit/mqtt-client.ts';
import type { Writer } from './environment.ts';
import type { ExactlyOnceOptions, Parts } from './run-parts.ts';

/** A backlog that has not drained by then never will, ms. */
const DRAIN_MS = 90_000;
const POLL_MS = 100;
/** The broker's queue for the backlog's part, bytes waiting and bytes under way: about ten messages. Counted in messages it would be 50,000 and the client's own bound. */
export const SMALL_QUEUE_BYTES = 200_000;
const SMALL_QUEUE = { max_queued_bytes: String(SMALL_QUEUE_BYTES), max_inflight_bytes: String(SMALL_QUEUE_BYTES), sys_interval: '1' };
const DROPPED = '$SYS/broker/publish/messages/dropped';
/** It counts anew every second. */
const COUNT_MS = 2_500;
const HANG_MS = 8_000;

/**
 * A backlog larger than the broker's queue: guests go on while the broker is away; when it is back (another one, with a small queue),
 * Postgres hangs, so that everything piles up before the cloud and the broker lets messages fall.
 */
export async function backlog({ options, world, writer }: Pick<Parts, 'options' | 'world' | 'writer'>): Promise<{ rows: number; dropped: number }> {
  await world.broker.kill();
  await writer.burst(options.burst);
  const rows = writer.stand().backlog;
  const small: Broker = await startBroker({ settings: SMALL_QUEUE });
  try {
    options.say(`${rows} rows wait; the broker comes back with a queue of ${SMALL_QUEUE_BYTES / 1000} kB, and Postgres hangs`);
    world.ways.database.weather({ kind: 'silent' });
    world.ways.gates.retarget(small.port);
    world.ways.cloud.retarget(small.port);
    await sleep(HANG_MS);
    world.ways.database.weather({ kind: 'fair' });
    await drained(writer, options);
    return { rows, dropped: await dropsOf(small) };
  } finally {
    await world.broker.restart();
    world.ways.gates.retarget(world.broker.port);
    world.ways.cloud.retarget(world.broker.port);
    await small.stop();
  }
}

/** Messages that this broker has let fall, as it counts them itself. */
async function dropsOf(broker: Broker): Promise<number> {
  const peer = await connectPeer(broker.url);
  await peer.subscribe(DROPPED);
  await sleep(COUNT_MS);
  const count = Number(peer.received.at(-1)?.payload.toString() ?? 0);
  await peer.end();
  return count;
}

/** Nothing waits at the gates any more, or DRAIN_MS are over (a plant may leave what never goes). */
async function drained(writer: Writer, options: ExactlyOnceOptions): Promise<void> {
  const deadline = performance.now() + DRAIN_MS;
  while (writer.stand().backlog > options.gates * 50 && performance.now() < deadline) await sleep(POLL_MS);
}
