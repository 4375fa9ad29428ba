/**
 * Gates that write all the time, for the faults: the gate's real store (in its worker, synced) and the gate's real uplink, without
 * lane and reader. A process of its own, so that it can be killed. Spoken to over Node's own channel between processes.
 *
 * Plant (`plant: 'puback'`): an outbox that takes the broker's PUBACK for the cloud's word, which must lose rows.
 */
import type { RowPosition } from '../../contract/ids.ts';
import { SCHEMA_VERSION } from '../../contract/limits.ts';
import type { PublicKey, WantedManifest } from '../../contract/manifest.ts';
import { topicOf } from '../../contract/topics.ts';
import { createClock } from '../../daemon/clock/clock.ts';
import { createDeciderClient, type DeciderClient } from '../../daemon/decider/client.ts';
import { createUplink, type MqttUplink } from '../../daemon/link/mqtt-uplink.ts';
import { TEST_INFO, testLog } from '../../daemon/link/testing/ports.ts';
import { connectPeer, type Peer } from '../../testkit/mqtt-client.ts';
import type { Row } from './counts.ts';

export interface WriterGate {
  readonly gate: string;
  readonly store: string;
  /** Each opens once; then they come again and are refused. */
  readonly codes: readonly string[];
}

/** An order to a writer: first one `begin`, then any of the others. */
export type WriterOrder =
  | {
      readonly order: 'begin';
      readonly url: string;
      readonly gates: readonly WriterGate[];
      readonly key: PublicKey;
      /** Installed where the store has no manifest yet. */
      readonly manifest: { readonly files: readonly string[]; readonly wanted: WantedManifest };
      readonly plant: 'puback' | null;
    }
  /** Guests a second at each gate; two rows a guest. 0: nobody comes. */
  | { readonly order: 'pace'; readonly guestsPerS: number }
  /** So many guests at each gate now, as fast as the disk lets them. Answered by `burst`. */
  | { readonly order: 'burst'; readonly guests: number }
  | { readonly order: 'export' };

export type WriterNews =
  | { readonly news: 'ready' }
  /** How far each ledger is committed (as the store answered its callers), and what is not acknowledged; every NEWS_MS. */
  | {
      readonly news: 'stand';
      readonly gates: readonly { readonly gate: string; readonly told: RowPosition | null; readonly backlog: number; readonly online: boolean }[];
    }
  | { readonly news: 'burst' }
  | { readonly news: 'rows'; readonly rows: readonly Row[] }
  | { readonly news: 'failed'; readonly why: string };

const NEWS_MS = 200;
/** Quicker than a venue's, so that many outages fit into minutes. */
const TIMING = { reconnectFirstMs: 100, reconnectMaxMs: 800, resendFirstMs: 1_000, resendMaxMs: 5_000, timePeriodMs: 5_000 };
const EXPORT_ROWS = 500;

interface RunningGate {
  readonly gate: string;
  readonly decider: DeciderClient;
  readonly uplink: Pick<MqttUplink, 'kick' | 'online'>;
  readonly codes: readonly string[];
  next: number;
  told: RowPosition | null;
}

const say = (news: WriterNews) => void process.send?.(news);
const clock = createClock({ floorMs: 0 });
const running: RunningGate[] = [];

async function openGate(order: Extract<WriterOrder, { order: 'begin' }>, index: number): Promise<RunningGate> {
  const { gate, store, codes } = order.gates[index] as WriterGate;
  const decider = createDeciderClient({
    path: store,
    gate,
    verifyKeys: [order.key],
    clock,
    notice: (what, detail) => process.stderr.write(`${gate} ${what}: ${detail}\n`),
  });
  const status = await decider.open();
  if (status.manifests.length === 0) {
    await decider.want(Buffer.from(JSON.stringify({ schema: SCHEMA_VERSION, events: [order.manifest.wanted] })));
    const installed = await decider.installManifest(order.manifest.files[index] as string, order.manifest.wanted);
    if (!installed.ok) throw new Error(`the writer's manifest was refused: ${installed.message}`);
  }
  const uplink = order.plant === 'puback' ? credulous(order.url, gate, decider) : faithful(order.url, gate, decider);
  return { gate, decider, uplink, codes, next: 0, told: status.lastSeq > 0 ? [status.epoch, status.lastSeq] : null };
}

/** The gate's own uplink, wired as the gate wires it (daemon/gate/uplink-events.ts). */
function faithful(url: string, gate: string, decider: DeciderClient): MqttUplink {
  const uplink = createUplink({ gate, url, clock, decider, info: TEST_INFO, timing: TIMING, log: testLog(() => undefined) });
  uplink.open(async (event) => {
    if (event.kind === 'ack') await decider.acknowledge(event.ack);
    if (event.kind === 'peer') await decider.applyPeer(event);
    if (event.kind === 'ack' || event.kind === 'online') uplink.kick();
  });
  return uplink;
}

/** The planted fault: what the broker has taken is forgotten. */
function credulous(url: string, gate: string, decider: DeciderClient): RunningGate['uplink'] {
  let peer: Peer | null = null;
  const work = async () => {
    for (;;) {
      try {
        peer ??= await connectPeer(url, { clientId: gate, username: gate, connectTimeout: 2_000 });
        const batch = await decider.nextBatch(null);
        if (batch === null) {
          await new Promise((resolve) => setTimeout(resolve, 20));
          continue;
        }
        await Promise.race([
          peer.publish(topicOf({ kind: 'ledger', gate }), batch.payload),
          new Promise((_, reject) => setTimeout(() => reject(new Error('no PUBACK')), 1_000)),
        ]);
        await decider.acknowledge({
          schema: SCHEMA_VERSION,
          epochs: [{ epoch: batch.epoch, upto_seq: batch.uptoSeq, missing: [] }],
          cloud_time: new Date().toISOString(),
        });
      } catch {
        void peer?.end(true).catch(() => undefined);
        peer = null;
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    }
  };
  void work();
  return { kick: () => undefined, online: () => peer !== null };
}

/** One guest: decided and committed, then through. Two rows, or one where the code was used before. */
async function guest(at: RunningGate): Promise<void> {
  const code = at.codes[at.next++ % at.codes.length] as string;
  const atMs = clock.boottimeMs();
  const { row, verdict } = await at.decider.decide({
    bytes: Buffer.from(code),
    direction: 'in',
    reader: 'in',
    mode: 'controlled',
    atMs,
    lastByteMs: atMs,
    online: at.uplink.online(),
  });
  at.told = row;
  if (verdict.kind === 'grant') at.told = await at.decider.record({ kind: 'passage', of: row, direction: 'in', unit: 1, outcome: 'passed' });
  at.uplink.kick();
}

let guestsPerS = 0;
async function guests(at: RunningGate): Promise<void> {
  for (;;) {
    if (guestsPerS > 0) await guest(at);
    await new Promise((resolve) => setTimeout(resolve, guestsPerS > 0 ? 1_000 / guestsPerS : 20));
  }
}

async function everyRow(at: RunningGate): Promise<Row[]> {
  const rows: Row[] = [];
  for (let after: RowPosition | null = null; ; ) {
    const page = await at.decider.rows(after, EXPORT_ROWS);
    rows.push(...page.map(({ epoch, entry }) => ({ gate: at.gate, epoch, seq: entry.seq, hash: entry.hash })));
    const last = page.at(-1);
    if (last === undefined) return rows;
    after = [last.epoch, last.entry.seq];
  }
}

async function stand(): Promise<void> {
  const gates = await Promise.all(
    running.map(async ({ gate, decider, uplink, told }) => ({ gate, told, backlog: (await decider.status()).backlog, online: uplink.online() })),
  );
  say({ news: 'stand', gates });
}

async function obey(order: WriterOrder): Promise<void> {
  switch (order.order) {
    case 'begin':
      running.push(...(await Promise.all(order.gates.map((_, index) => openGate(order, index)))));
      for (const at of running) guests(at).catch(failed);
      setInterval(() => void stand().catch(failed), NEWS_MS);
      return say({ news: 'ready' });
    case 'pace':
      guestsPerS = order.guestsPerS;
      return;
    case 'burst':
      await Promise.all(
        running.map(async (at) => {
          for (let n = 0; n < order.guests; n++) await guest(at);
        }),
      );
      await stand();
      return say({ news: 'burst' });
    case 'export':
      return say({ news: 'rows', rows: (await Promise.all(running.map(everyRow))).flat() });
  }
}

function failed(error: unknown): void {
  say({ news: 'failed', why: (error as Error).message });
  process.exitCode = 1;
  setTimeout(() => process.exit(1), 200);
}

if (process.send !== undefined) {
  process.on('message', (order: WriterOrder) => void obey(order).catch(failed));
  // Whoever started it is gone.
  process.on('disconnect', () => process.exit(0));
}
