/**
 * Publishes changed rights to the gates: leases marks from the outbox, builds files where they are due, publishes overlays and renewed wants, in
 * version order, at least once. Any number of these may run side by side.
 */
import { MAX_OVERLAY_TICKETS } from '../../contract/limits.ts';
import { cutText } from '../../contract/text.ts';
import { DELIVERY, topicOf } from '../../contract/topics.ts';
import type { Database, DatabaseClient } from '../db/database.ts';
import type { Log } from '../log.ts';
import { type BuildOptions, buildManifest, manifestRow } from './build.ts';
import { overlayMessage, type WantOptions, wantMessages } from './messages.ts';

/** Marks of one drain; further ones wait for the next. */
const MARKS_AT_ONCE = 200;
/** Lease of a mark, in seconds: afterwards it is due again, in case its worker died. */
const LEASE_S = 120;
/** Largest backoff after failures (1, 2, 4 … s), in seconds. */
const MAX_BACKOFF_S = 30;
/** Polling interval without a notification, in milliseconds. */
const POLL_MS = 1_000;
/** Interval between two looks for manifests that near their expiry, in milliseconds. */
const RENEWAL_MS = 60_000;
/** Changes since the last file beyond which a new one is built: a tenth of the tickets, at least this many. */
const MIN_CHANGES_BEFORE_BUILD = 2_000;
/** Changes beside a file beyond which a new one is built: gates hold at most 200,000. */
const MAX_CHANGES_BEFORE_BUILD = 50_000;
const RENEWALS_AT_ONCE = 20;
/** Messages that wait for the broker at once: far fewer than its connection holds. Further ones follow, so that an event may have any number of gates. */
const PUBLISHES_AT_ONCE = 500;

/** Publishes one message; resolves when the broker has it, rejects after its timeout. */
export type Publish = (
  topic: string,
  payload: string,
  delivery: { readonly qos: 0 | 1; readonly retain: boolean; readonly expirySeconds?: number },
) => Promise<void>;
/** Calls back for each new mark in the outbox, until closed. Missing calls only delay. */
export type Listen = (onNotice: () => void) => Promise<{ close(): Promise<void> }>;

export interface OutboxOptions extends BuildOptions, WantOptions {
  readonly database: Database;
  readonly publish: Publish;
  /** Returns false while the broker is away: marks then wait unchanged. */
  readonly canPublish: () => boolean;
  readonly listen: Listen;
  readonly log: Log;
}

export interface Outbox {
  /** Starts: on every notice, and every second. */
  open(): Promise<void>;
  /** Ends after the running work. */
  close(): Promise<void>;
  /** Processes everything that is due, once. Returns how many marks were done and how many failed (they are due again). */
  drain(): Promise<{ readonly done: number; readonly failed: number }>;
  /** Marks every assigned gate's want for publication: after a start or a reconnection, in case the broker lost its retained messages. */
  republishAll(): Promise<void>;
}

interface Mark {
  readonly id: number;
  readonly kind: 'event' | 'gate';
  readonly key: string;
  readonly build: boolean;
  readonly attempts: number;
}

export function createOutbox(options: OutboxOptions): Outbox {
  const { database, log } = options;
  let listener: { close(): Promise<void> } | null = null;
  let timer: NodeJS.Timeout | undefined;
  let renewalTimer: NodeJS.Timeout | undefined;
  let running: Promise<unknown> | null = null;
  let again = false;
  let closed = false;

  const publishTo = (gate: string, kind: 'want' | 'overlay', payload: object) => {
    const { qos, retain, expiry_s } = DELIVERY[kind];
    return options.publish(topicOf({ kind, gate }), JSON.stringify(payload), { qos, retain, ...(expiry_s === undefined ? {} : { expirySeconds: expiry_s }) });
  };

  async function drain(): Promise<{ done: number; failed: number }> {
    let done = 0;
    let failed = 0;
    for (;;) {
      const due = (
        await database.withoutTenant((client) => client.query<{ tenant_id: string; id: number }>('SELECT tenant_id, id FROM next_outbox($1)', [MARKS_AT_ONCE]))
      ).rows;
      if (due.length === 0) return { done, failed };
      for (const [tenantId, marks] of Map.groupBy(due, ({ tenant_id }) => tenant_id)) {
        const taken = await take(
          tenantId,
          marks.map(({ id }) => id),
        );
        // Wants of gates go together, for one query reads them all; events one after the other.
        for (const [, same] of Map.groupBy(taken, ({ kind, key }) => (kind === 'gate' ? kind : `${kind} ${key}`))) {
          try {
            await work(tenantId, same);
            done += same.length;
          } catch (error) {
            failed += same.length;
            await putBack(tenantId, same, error as Error);
          }
        }
      }
    }
  }

  /** Leases marks; skips those that another worker leased meanwhile. */
  async function take(tenantId: string, ids: readonly number[]): Promise<Mark[]> {
    return (
      await database.withTenant(tenantId, (client) =>
        client.query<Mark>(
          'UPDATE outbox SET due_at = now() + make_interval(secs => $2) WHERE id = ANY($1) AND due_at <= now() RETURNING id, kind, key, build, attempts',
          [ids, LEASE_S],
        ),
      )
    ).rows;
  }

  /** Marks of the same event, or of gates: one piece of work. */
  async function work(tenantId: string, marks: readonly Mark[]): Promise<void> {
    const { kind, key } = marks[0] as Mark;
    const ids = marks.map(({ id }) => id);
    if (kind === 'event') {
      if (
        await needsBuild(
          tenantId,
          key,
          marks.some(({ build }) => build),
        )
      ) {
        const built = await buildManifest(options, tenantId, key);
        if (built !== null)
          log.info({ event: key, version: built.version, from: built.from, tickets: built.tickets, bytes: built.sizeBytes }, 'manifest built');
      }
      await database.withTenant(tenantId, (client) => publishEvent(client, tenantId, key, ids));
      return;
    }
    await database.withTenant(tenantId, async (client) => {
      await publishWants(client, [...new Set(marks.map((mark) => mark.key))]);
      await client.query('DELETE FROM outbox WHERE id = ANY($1)', [ids]);
    });
  }

  /** Only events that a gate holds have files; others get theirs when they are assigned. */
  async function needsBuild(tenantId: string, eventId: string, asked: boolean): Promise<boolean> {
    return database.withTenant(tenantId, async (client) => {
      if ((await client.query('SELECT 1 FROM gate_assignments WHERE event_id = $1 LIMIT 1', [eventId])).rowCount === 0) return false;
      const file = await manifestRow(client, eventId);
      if (asked || file === null) return true;
      const { rows } = await client.query<{ changes: number; notified: number; tickets: number }>(
        `SELECT (SELECT count(*) FROM tickets WHERE tenant_id = current_tenant_id() AND event_id = $1 AND changed_version > $2) AS changes,
          (SELECT count(*) FROM tickets t JOIN event_publications p ON p.tenant_id = t.tenant_id AND p.event_id = t.event_id WHERE t.tenant_id = current_tenant_id() AND t.event_id = $1 AND t.changed_version > $2 AND t.changed_version > p.published_version) AS notified,
          (SELECT ticket_count FROM manifests WHERE event_id = $1 AND version = $2) AS tickets`,
        [eventId, file.version],
      );
      const { changes = 0, notified = 0, tickets = 0 } = rows[0] ?? {};
      // Changes too large for an overlay reach the gates soonest as a file.
      return notified > MAX_OVERLAY_TICKETS || changes > Math.min(MAX_CHANGES_BEFORE_BUILD, Math.max(MIN_CHANGES_BEFORE_BUILD, tickets / 10));
    });
  }

  /** Publishes overlay, then want, to every gate of the event. The publication's row is locked, so that versions leave in order. */
  async function publishEvent(client: DatabaseClient, tenantId: string, eventId: string, ids: readonly number[]): Promise<void> {
    await client.query('INSERT INTO event_publications (tenant_id, event_id) SELECT $1, event_id FROM events WHERE event_id = $2 ON CONFLICT DO NOTHING', [
      tenantId,
      eventId,
    ]);
    const { published_version: from } = (
      await client.query<{ published_version: number }>('SELECT published_version FROM event_publications WHERE event_id = $1 FOR UPDATE', [eventId])
    ).rows[0] ?? { published_version: 0 };
    const to = (await client.query<{ version: number }>('SELECT version FROM events WHERE event_id = $1', [eventId])).rows[0]?.version ?? 0;
    const gates = (await client.query<{ gate: string }>('SELECT gate FROM gate_assignments WHERE event_id = $1 ORDER BY gate', [eventId])).rows.map(
      ({ gate }) => gate,
    );
    if (gates.length > 0 && from > 0 && to > from) {
      const overlay = await overlayMessage(client, options.signer, eventId, from, to);
      await inSlices(gates, (gate) => publishTo(gate, 'overlay', overlay));
    }
    await publishWants(client, gates);
    await client.query('UPDATE event_publications SET published_version = $2, published_at = now() WHERE event_id = $1', [eventId, Math.max(from, to)]);
    await client.query('DELETE FROM outbox WHERE id = ANY($1)', [ids]);
  }

  async function publishWants(client: DatabaseClient, gates: readonly string[]): Promise<void> {
    const wants = await wantMessages(client, options, gates);
    await inSlices([...wants], ([gate, want]) => publishTo(gate, 'want', want));
  }

  async function putBack(tenantId: string, marks: readonly Mark[], error: Error): Promise<void> {
    const { kind, key, attempts } = marks[0] as Mark;
    const waitS = Math.min(MAX_BACKOFF_S, 2 ** Math.min(attempts, 10));
    log.warn({ [kind]: key, attempts: attempts + 1, again_in_s: waitS, error: error.message }, 'publishing rights failed; retrying');
    await database
      .withTenant(tenantId, (client) =>
        client.query('UPDATE outbox SET attempts = attempts + 1, due_at = now() + make_interval(secs => $2), last_error = $3 WHERE id = ANY($1)', [
          marks.map(({ id }) => id),
          waitS,
          cutText(error.message, 500),
        ]),
      )
      .catch((failure: Error) => log.warn({ error: failure.message }, 'releasing an outbox mark failed; its lease expires'));
  }

  /** Runs one drain at a time; a notice during it starts another one after it. */
  function kick(): void {
    if (closed || !options.canPublish()) return;
    if (running !== null) {
      again = true;
      return;
    }
    running = drain()
      .catch((error: Error) => log.warn({ error: error.message }, 'reading the outbox failed; retrying'))
      .finally(() => {
        running = null;
        if (again) {
          again = false;
          kick();
        }
      });
  }

  async function renew(): Promise<void> {
    const due = (
      await database.withoutTenant((client) =>
        client.query<{ tenant_id: string; event_id: string }>('SELECT tenant_id, event_id FROM manifests_to_renew($1)', [RENEWALS_AT_ONCE]),
      )
    ).rows;
    for (const { tenant_id, event_id } of due)
      await database.withTenant(tenant_id, (client) =>
        client.query("INSERT INTO outbox (tenant_id, kind, key, build) VALUES ($1, 'event', $2, true)", [tenant_id, event_id]),
      );
  }
  const renewSafely = () => void renew().catch((error: Error) => log.warn({ error: error.message }, 'renewing manifests failed; retrying'));

  return {
    async open() {
      listener = await options.listen(kick);
      timer = setInterval(kick, POLL_MS);
      renewalTimer = setInterval(renewSafely, RENEWAL_MS);
      renewSafely();
      kick();
    },
    async close() {
      closed = true;
      clearInterval(timer);
      clearInterval(renewalTimer);
      await listener?.close();
      await running;
    },
    drain,
    async republishAll() {
      const tenants = (await database.withoutTenant((client) => client.query<{ tenant_id: string }>('SELECT tenant_id FROM tenants_with_gates()'))).rows;
      for (const { tenant_id } of tenants) {
        await database.withTenant(tenant_id, (client) =>
          client.query(
            "INSERT INTO outbox (tenant_id, kind, key) SELECT DISTINCT $1::uuid, 'gate', gate FROM gate_assignments a WHERE NOT EXISTS (SELECT FROM outbox o WHERE o.kind = 'gate' AND o.key = a.gate)",
            [tenant_id],
          ),
        );
        // Marks that failed while the broker was away are retried at once.
        await database.withTenant(tenant_id, (client) => client.query('UPDATE outbox SET due_at = now() WHERE attempts > 0'));
      }
      kick();
    },
  };
}

/** Publishes for all of them, some at a time: the broker has one slice before the next one begins. */
async function inSlices<Item>(items: readonly Item[], publish: (item: Item) => Promise<void>): Promise<void> {
  for (let from = 0; from < items.length; from += PUBLISHES_AT_ONCE) await Promise.all(items.slice(from, from + PUBLISHES_AT_ONCE).map(publish));
}
