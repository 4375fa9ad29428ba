/**
 * The cloud of a simulated world: what it commits of the gates' ledgers, what it acknowledges, which rights it publishes. Written from
 * ACCOUNT.md; its verdicts are counts.ts. What it took in, in order, is kept for the real SQL (sql.ts).
 */
import { createHash } from 'node:crypto';
import { entryHash, firstPredecessor } from '../../contract/hash-chain.ts';
import type { ManifestTicket, TicketChange, UsageEntry, WantedManifest } from '../../contract/manifest.ts';
import { makeOverlay } from '../../daemon/decider/testing/store.ts';
import type { CloudConnection, Delivery } from './broker.ts';
import { atOf, CLOUD_LEDGER, type Cloud, messageOf, type StoredRow } from './cloud-api.ts';
import { grantsOf } from './counts.ts';
import { createCloudDatabase } from './database.ts';
import { BASE_MS, HISTORIES_A_FLEET, isSoldLater, TICKETS_A_HISTORY, ticketOf } from './fixture.ts';
import type { Registry } from './registry.ts';
import type { Owner } from './scheduler.ts';
import type { World } from './types.ts';

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');
/** From the arrival of a message to its commit, ms. */
const COMMIT_MS = [2, 15] as const;
/** Without a connection it tries again so often, ms. */
const RECONNECT_MS = 700;

export function createCloud(world: () => World, gates: readonly string[], registry: Registry): Cloud {
  const mutant = () => world().mutant;
  let database = createCloudDatabase(mutant, 1);
  let dumped: ReturnType<typeof createCloudDatabase> | null = null;
  let lives = 1;
  let restored = 0;
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
  let ownEpoch = Math.floor(BASE_MS / 1000);

  for (let number = 0; number < HISTORIES_A_FLEET * TICKETS_A_HISTORY; number++) {
    if (!isSoldLater(number)) rights.set(`T-${number}`, [{ version: 1, ticket: ticketOf(number) }]);
  }

  const sinceOf = (): string => `life-${database.life}`;
  const ackOf = (gate: string): string =>
    JSON.stringify({
      schema: 1,
      since: sinceOf(),
      epochs: database.epochs(gate),
      cloud_time: new Date(BASE_MS + world().scheduler.nowMs()).toISOString(),
    });
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
    database.taken.push(batch);
    const answered = new Set<string>();
    for (const { gate, payload } of batch) {
      const message = messageOf(payload);
      answered.add(gate);
      if (message.gate !== gate && world().mutant !== 'tenant-from-the-payload') {
        quarantined += 1;
        continue;
      }
      database.store(message.gate, message.epoch, message.entries);
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
    get ledgers() {
      return database.ledgers;
    },
    rows: () => database.rows(),
    get taken() {
      return database.taken;
    },
    get forks() {
      return database.forks;
    },
    counted: () => database.counted(),
    originals: () => database.originals(),
    dump() {
      dumped = database.copy(database.life);
    },
    restore(renewed) {
      if (dumped === null) return false;
      lives += 1;
      restored += 1;
      const was = database;
      // Found out at the start as well: what is retained names another life, or more than this database holds.
      const behind =
        renewed ||
        [...gates, CLOUD_LEDGER].some((gate) =>
          was.epochs(gate).some((one) => database.upto(gate, Number(one['epoch'])) > (dumped as typeof was).upto(gate, Number(one['epoch']))),
        );
      database = dumped.copy(behind ? lives : dumped.life);
      // The ledgers that the cloud writes begin anew, above everything that any gate has seen.
      if (behind) {
        ownEpoch = Math.max(ownEpoch, Math.floor((BASE_MS + world().scheduler.nowMs()) / 1000)) + 1;
        ownSeq = 0;
      }
      unpublished = [];
      world().trace.add(world().scheduler.nowMs(), `the cloud's database is put back (${renewed ? 'restored' : 'as it lay'})`);
      return true;
    },
    get since() {
      return sinceOf();
    },
    get restored() {
      return restored;
    },
    get quarantined() {
      return quarantined;
    },
    has: (gate, epoch, seq) => database.ledgers.get(gate)?.get(epoch)?.get(seq)?.hash ?? null,
    upto: (gate, epoch) => database.upto(gate, epoch),
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
      for (const [gate, epochs] of database.ledgers) {
        const ordered = [...epochs].sort(([a], [b]) => a - b);
        for (const [epoch, rows] of ordered) {
          const seq = database.upto(gate, epoch);
          upto[gate] = [epoch, seq];
          if (seq < Math.max(0, ...rows.keys())) break;
        }
      }
      const covered = cloud.originals().filter((row) => {
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
          hash8: grant.hash.slice(0, 16),
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
      const unsure = grantsOf(cloud.originals()).filter((grant) => grant.uncertain > 0);
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
        of: [grant.gate, grant.epoch, grant.seq, grant.hash],
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
      database.store(CLOUD_LEDGER, ownEpoch, [entry]);
      registry.add({ gate: CLOUD_LEDGER, epoch: ownEpoch, seq: ownSeq, hash: previous, entry });
      const payload = Buffer.from(JSON.stringify({ schema: 1, gate: CLOUD_LEDGER, epoch: ownEpoch, entries: [entry] }));
      database.taken.push([{ gate: CLOUD_LEDGER, payload }]);
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

const unsigned = ({ signature: _signature, ...rest }: WantedManifest): Record<string, unknown> => rest;
