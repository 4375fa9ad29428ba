/**
 * The cloud of a simulated world: what it commits of the gates' ledgers, what it acknowledges, which rights it publishes. Written from
 * ACCOUNT.md; its verdicts are counts.ts. What it took in, in order, is kept for the real SQL (sql.ts).
 */
import { createHash } from 'node:crypto';
import { entryHash, firstPredecessor } from '../../contract/hash-chain.ts';
import type { LedgerVector } from '../../contract/ids.ts';
import type { ManifestTicket, TicketChange, UsageEntry, WantedManifest } from '../../contract/manifest.ts';
import { makeOverlay } from '../../daemon/decider/testing/store.ts';
import type { CloudConnection, Delivery } from './broker.ts';
import { type AccountTicket, grantsOf, type Row } from './counts.ts';
import { BASE_MS, HISTORIES_A_FLEET, isSoldLater, SITE, TICKETS_A_HISTORY, ticketOf } from './fixture.ts';
import type { Owner } from './scheduler.ts';
import type { World } from './types.ts';
import type { Registry } from './watch.ts';

export const CLOUD_LEDGER = `${SITE}/cloud`;
const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');
/** From the arrival of a message to its commit, ms. */
const COMMIT_MS = [2, 15] as const;
/** Without a connection it tries again so often, ms. */
const RECONNECT_MS = 700;

export interface StoredRow extends Row {
  readonly hash: string;
}
/** Messages that one transaction took, as they came. */
export type Taken = readonly { readonly gate: string; readonly payload: Uint8Array }[];

export interface LedgerMessage {
  readonly gate: string;
  readonly epoch: number;
  readonly entries: readonly (Readonly<Record<string, unknown>> & { readonly seq: number; readonly hash: string })[];
}
const messages = new WeakMap<Uint8Array, LedgerMessage>();
/** A batch of a ledger, read once for all who look at it: who sent it, the cloud, and who heard of it. */
export function messageOf(payload: Uint8Array): LedgerMessage {
  const message = messages.get(payload) ?? (JSON.parse(Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString('utf8')) as LedgerMessage);
  messages.set(payload, message);
  return message;
}

export interface Cloud {
  readonly gates: readonly string[];
  /** Every row, by ledger and epoch. */
  readonly ledgers: ReadonlyMap<string, ReadonlyMap<number, ReadonlyMap<number, StoredRow>>>;
  rows(): StoredRow[];
  readonly taken: readonly Taken[];
  readonly clones: readonly string[];
  readonly quarantined: number;
  has(gate: string, epoch: number, seq: number): string | null;
  upto(gate: string, epoch: number): number;
  start(): Promise<void>;
  crash(forMs: number): void;
  readonly up: boolean;
  // ---- HTTP
  ledgerAfter(vector: LedgerVector): readonly StoredRow[];
  manifestFile(wanted: WantedManifest): string;
  overlaysAfter(version: number): readonly Uint8Array[];
  // ---- rights
  change(ticket: number, change: 'revoke' | 'block' | 'restore' | 'vip' | 'sell'): void;
  buildManifest(): void;
  settle(pick: number, outcome: 'passed' | 'returned'): void;
  readonly version: number;
  /** Returns a ticket's right in a version; null when it is not sold yet. */
  rightAt(ticketId: string, version: number): ManifestTicket | null;
  accountTicket(ticketId: string): AccountTicket | null;
  /** Overlays that were published, for a late or forged copy. */
  published(): readonly Uint8Array[];
  /** Manifests that were built in this world alone. */
  ownFiles(): readonly string[];
}

export function createCloud(world: () => World, gates: readonly string[], registry: Registry): Cloud {
  const ledgers = new Map<string, Map<number, Map<number, StoredRow>>>();
  const uptos = new Map<string, number>();
  /** The highest row of each epoch, wherever there are holes. */
  const highests = new Map<string, number>();
  const taken: Taken[] = [];
  const clones: string[] = [];
  const seenTicketTimes = new Set<string>();
  const rights = new Map<string, { readonly version: number; readonly ticket: ManifestTicket }[]>();
  const changes: { readonly version: number; readonly overlay: Uint8Array }[] = [];
  let wanted: WantedManifest | null = null;
  const files = new Map<string, string>();
  let version = 1;
  let quarantined = 0;
  let waiting: { gate: string; payload: Uint8Array }[] = [];
  let committing = false;
  let process: Owner = { alive: false };
  let connection: CloudConnection | null = null;
  let unpublished: Uint8Array[] = [];
  let previous = '';
  let ownSeq = 0;
  const ownEpoch = Math.floor(BASE_MS / 1000);

  for (let number = 0; number < HISTORIES_A_FLEET * TICKETS_A_HISTORY; number++) {
    if (!isSoldLater(number)) rights.set(`T-${number}`, [{ version: 1, ticket: ticketOf(number) }]);
  }

  const epochOf = (gate: string, epoch: number): Map<number, StoredRow> => {
    const epochs = ledgers.get(gate) ?? new Map<number, Map<number, StoredRow>>();
    ledgers.set(gate, epochs);
    const rows = epochs.get(epoch) ?? new Map<number, StoredRow>();
    epochs.set(epoch, rows);
    return rows;
  };
  const store = (gate: string, epoch: number, entry: LedgerMessage['entries'][number]): void => {
    const rows = epochOf(gate, epoch);
    const known = rows.get(entry.seq);
    if (known !== undefined) {
      if (known.hash !== entry.hash) clones.push(`${gate} ${epoch} ${entry.seq}`);
      return;
    }
    if (world().mutant === 'duplicates-by-ticket-and-time' && entry['ticket_id'] !== undefined) {
      const key = `${entry['ticket_id']} ${entry['ts']}`;
      if (seenTicketTimes.has(key)) {
        // Taken for a repeat: acknowledged like any other, and its number counted as there.
        uptos.set(`${gate} ${epoch}`, Math.max(uptos.get(`${gate} ${epoch}`) ?? 0, entry.seq));
        return;
      }
      seenTicketTimes.add(key);
    }
    const { hash, ...rest } = entry;
    rows.set(entry.seq, { gate, epoch, seq: entry.seq, hash, entry: rest });
    const key = `${gate} ${epoch}`;
    highests.set(key, Math.max(highests.get(key) ?? 0, entry.seq));
    let upto = uptos.get(key) ?? 0;
    while (rows.has(upto + 1)) upto += 1;
    uptos.set(key, upto);
  };
  const ackOf = (gate: string): string => {
    const epochs = [...(ledgers.get(gate) ?? [])].sort(([a], [b]) => a - b);
    return JSON.stringify({
      schema: 1,
      epochs: epochs.map(([epoch, rows]) => {
        const upto = uptos.get(`${gate} ${epoch}`) ?? 0;
        const highest = highests.get(`${gate} ${epoch}`) ?? 0;
        const missing: [number, number][] = [];
        for (let seq = upto + 1; seq < highest && missing.length < 100; seq++) {
          if (rows.has(seq)) continue;
          const range = missing.at(-1);
          if (range !== undefined && range[1] === seq - 1) range[1] = seq;
          else missing.push([seq, seq]);
        }
        return { epoch, upto_seq: world().mutant === 'ack-above-a-hole' ? highest : upto, missing };
      }),
      cloud_time: new Date(BASE_MS + world().scheduler.nowMs()).toISOString(),
    });
  };
  const publish = (topic: string, text: string, retain: boolean): void => connection?.publish(topic, Buffer.from(text), retain);
  const acknowledge = (gate: string): void => publish(`stile/1/${gate}/ack`, ackOf(gate), true);
  const publishWants = (): void => {
    if (wanted === null) return;
    const { fixture, scheduler } = world();
    const one = fixture.signer.sign({ ...unsigned(wanted), overlay_version: version }) as unknown as WantedManifest;
    for (const gate of gates) connection?.publish(`stile/1/${gate}/manifest/want`, fixture.want(gate, one, scheduler.nowMs()), true);
  };

  const publishOwn = (): void => {
    if (connection === null) return;
    for (const payload of unpublished) connection.publish(`stile/1/${CLOUD_LEDGER}/ledger`, payload, false);
    unpublished = [];
  };

  // ---------------------------------------------------------------- ingest

  const take = (delivery: Delivery): void => {
    const { scheduler, random } = world();
    const [, , site, id, word] = delivery.topic.split('/');
    const gate = `${site}/${id}`;
    if (word === 'time') return answerTime(gate, delivery.payload);
    if (word !== 'ledger') return;
    waiting.push({ gate, payload: delivery.payload });
    if (committing) return;
    committing = true;
    scheduler.after(COMMIT_MS[0] + random.next() * (COMMIT_MS[1] - COMMIT_MS[0]), process, commit);
  };
  const commit = (): void => {
    committing = false;
    const batch = waiting;
    waiting = [];
    taken.push(batch);
    const answered = new Set<string>();
    for (const { gate, payload } of batch) {
      const message = messageOf(payload);
      answered.add(gate);
      if (message.gate !== gate && world().mutant !== 'tenant-from-the-payload') {
        quarantined += 1;
        continue;
      }
      for (const entry of message.entries) store(message.gate, message.epoch, entry);
    }
    world().trace.add(world().scheduler.nowMs(), `cloud commits ${batch.length}`);
    for (const gate of answered) acknowledge(gate);
  };
  const answerTime = (gate: string, payload: Uint8Array): void => {
    const { scheduler, random } = world();
    const question = JSON.parse(Buffer.from(payload).toString('utf8')) as { n: number; boot_id: string; sent_boottime_ms: number };
    const received = BASE_MS + scheduler.nowMs();
    scheduler.after(random.next() * 2, process, () => {
      const answered = BASE_MS + scheduler.nowMs();
      publish(`stile/1/${gate}/time/${question.n}`, JSON.stringify({ schema: 1, ...question, received_unix_ms: received, answered_unix_ms: answered }), false);
    });
  };

  // ---------------------------------------------------------------- the process

  const connect = (): void => {
    const { broker, scheduler } = world();
    const own = process;
    connection = broker.connectCloud(own, take, () => {
      connection = null;
      scheduler.after(RECONNECT_MS, own, connect);
    });
    if (connection === null) {
      scheduler.after(RECONNECT_MS, own, connect);
      return;
    }
    publishWants();
    publishOwn();
    for (const gate of gates) acknowledge(gate);
  };

  const addOverlay = (ticketChanges: readonly TicketChange[]): void => {
    const { fixture } = world();
    const overlay = makeOverlay(fixture.signer, version, version + 1, ticketChanges);
    version += 1;
    changes.push({ version, overlay });
    for (const gate of gates) connection?.publish(`stile/1/${gate}/overlay`, overlay, false);
    publishWants();
  };
  const rightAt = (ticketId: string, at: number): ManifestTicket | null => rights.get(ticketId)?.findLast((one) => one.version <= at)?.ticket ?? null;

  const cloud: Cloud = {
    gates,
    ledgers,
    rows: () => [...ledgers.values()].flatMap((epochs) => [...epochs.values()].flatMap((rows) => [...rows.values()])),
    taken,
    clones,
    get quarantined() {
      return quarantined;
    },
    has: (gate, epoch, seq) => ledgers.get(gate)?.get(epoch)?.get(seq)?.hash ?? null,
    upto: (gate, epoch) => uptos.get(`${gate} ${epoch}`) ?? 0,
    async start() {
      const { fixture, policy } = world();
      const first = await fixture.firstManifest(policy);
      wanted = first.wanted;
      files.set(first.wanted.sha256, first.file);
      process = { alive: true };
      connect();
    },
    crash(forMs) {
      const { scheduler, broker } = world();
      process.alive = false;
      connection = null;
      waiting = [];
      committing = false;
      broker.cut('cloud', true);
      scheduler.after(forMs, null, () => {
        broker.cut('cloud', false);
        if (process.alive) return;
        process = { alive: true };
        connect();
      });
    },
    get up() {
      return process.alive;
    },
    ledgerAfter(vector) {
      const after = (row: StoredRow): boolean => {
        const at = vector[row.gate];
        return at === undefined || row.epoch > at[0] || (row.epoch === at[0] && row.seq > at[1]);
      };
      return cloud
        .rows()
        .filter(after)
        .sort((a, b) => (a.gate < b.gate ? -1 : a.gate > b.gate ? 1 : a.epoch - b.epoch || a.seq - b.seq));
    },
    manifestFile(one) {
      const file = files.get(one.sha256);
      if (file === undefined) throw new Error(`no such manifest: ${one.version}`);
      return file;
    },
    overlaysAfter: (from) => changes.filter((change) => change.version > from).map(({ overlay }) => overlay),
    change(number, what) {
      const id = `T-${number}`;
      const now = rightAt(id, version);
      if (now === null ? what !== 'sell' : what === 'sell') return;
      const base = now ?? ticketOf(number);
      const next: ManifestTicket =
        what === 'revoke'
          ? { ...base, status: 'revoked' }
          : what === 'block'
            ? { ...base, status: 'blocked', note: 'see the box office' }
            : what === 'vip'
              ? { ...base, vip: true }
              : { ...base, status: 'valid' };
      rights.set(id, [...(rights.get(id) ?? []), { version: version + 1, ticket: next }]);
      addOverlay([next]);
    },
    buildManifest() {
      const { fixture, policy, scheduler } = world();
      version += 1;
      const upto: Record<string, [number, number]> = {};
      for (const [gate, epochs] of ledgers) {
        const ordered = [...epochs].sort(([a], [b]) => a - b);
        for (const [epoch, rows] of ordered) {
          const seq = uptos.get(`${gate} ${epoch}`) ?? 0;
          upto[gate] = [epoch, seq];
          if (seq < Math.max(0, ...rows.keys())) break;
        }
      }
      const covered = cloud.rows().filter((row) => {
        const at = upto[row.gate];
        return at !== undefined && (row.epoch < at[0] || (row.epoch === at[0] && row.seq <= at[1]));
      });
      const twice = world().mutant === 'manifest-counts-twice';
      const usage: UsageEntry[] = grantsOf(covered)
        .filter((grant) => grant.used > 0)
        .map((grant) => ({
          ticket_ref: String(grant.entry['ticket_ref']),
          gate: grant.gate,
          epoch: twice ? grant.epoch + 1_000_000 : grant.epoch,
          seq: grant.seq,
          at: new Date(atOf(grant.entry)).toISOString(),
          direction: grant.direction,
          units: grant.used,
          outcome: grant.outcome === 'returned' ? 'open' : grant.outcome,
        }));
      const tickets = [...rights.keys()].map((id) => rightAt(id, version)).filter((one) => one !== null);
      const made = version;
      scheduler.waitFor(
        fixture.manifest(policy, made, tickets, twice ? {} : upto, usage).then(({ file, wanted: one }) => {
          files.set(one.sha256, file);
          wanted = one;
          publishWants();
        }),
      );
    },
    settle(pick, outcome) {
      const unsure = grantsOf(cloud.rows()).filter((grant) => grant.uncertain > 0);
      const grant = unsure[pick % Math.max(1, unsure.length)];
      if (grant === undefined) return;
      const nowMs = world().scheduler.nowMs();
      ownSeq += 1;
      const row = {
        seq: ownSeq,
        kind: 'settlement',
        ts: new Date(BASE_MS + nowMs).toISOString(),
        boot_id: 'cloud',
        boottime_ms: Math.round(nowMs * 1000) / 1000,
        clock_offset_ms: BASE_MS,
        clock_bound_ms: 0,
        of: [grant.gate, grant.epoch, grant.seq],
        outcome,
        actor: 'op-1',
        reason: 'asked the guest',
        event_id: grant.eventId,
        ticket_id: grant.ticketId,
        ticket_ref: grant.entry['ticket_ref'],
        direction: grant.direction,
      };
      previous = entryHash(sha256, ownSeq === 1 ? firstPredecessor(sha256, CLOUD_LEDGER, ownEpoch) : previous, row);
      const entry = { ...row, hash: previous };
      store(CLOUD_LEDGER, ownEpoch, entry);
      registry.add({ gate: CLOUD_LEDGER, epoch: ownEpoch, seq: ownSeq, entry });
      const payload = Buffer.from(JSON.stringify({ schema: 1, gate: CLOUD_LEDGER, epoch: ownEpoch, entries: [entry] }));
      taken.push([{ gate: CLOUD_LEDGER, payload }]);
      unpublished.push(payload);
      publishOwn();
      world().trace.add(nowMs, `settled ${grant.key} ${outcome}`);
    },
    get version() {
      return version;
    },
    rightAt,
    accountTicket(ticketId) {
      const ticket = rightAt(ticketId, version);
      return ticket === null ? null : { ticketId, units: ticket.units, vip: ticket.vip, maxScans: ticket.max_scans };
    },
    published: () => changes.map(({ overlay }) => overlay),
    ownFiles: () => [...files.values()].slice(1),
  };
  return cloud;
}

/** Unix ms of a row as its writer corrected it; its wall clock where it could not. */
export function atOf(entry: Readonly<Record<string, unknown>>): number {
  const offset = entry['clock_offset_ms'];
  return typeof offset === 'number' ? Math.round(Number(entry['boottime_ms']) + offset) : Date.parse(String(entry['ts']));
}

const unsigned = ({ signature: _signature, ...rest }: WantedManifest): Record<string, unknown> => rest;
