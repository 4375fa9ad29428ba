/** Lists rows that do not follow what is stored, and lets a person take one into the account or set it aside. */
import { CLOUD_GATE, splitGateName } from '../../contract/ids.ts';
import type { DatabaseClient } from '../db/database.ts';
import { appendCloudRows, type CloudEntry } from './cloud-ledger.ts';

/** Rows in one list; of more, the oldest. */
const MAX_LISTED = 1_000;

export interface ForkedRow {
  readonly gate: string;
  readonly epoch: number;
  readonly seq: number;
  readonly hash: string;
  readonly kind: string;
  readonly entry: Readonly<Record<string, unknown>>;
  readonly firstAt: Date;
}

/** Returns the open ones, of one ledger or of all, the oldest first. */
export async function openForkedRows(client: DatabaseClient, gate: string | null): Promise<ForkedRow[]> {
  const { rows } = await client.query<Omit<ForkedRow, 'entry' | 'firstAt'> & { entry: string; first_at: Date }>(
    `SELECT gate, epoch, seq, encode(hash, 'hex') AS hash, kind, entry, first_at FROM forked_rows
     WHERE tenant_id = current_tenant_id() AND closed IS NULL AND ($1::text IS NULL OR gate = $1) ORDER BY first_at, gate, epoch, seq, hash LIMIT $2`,
    [gate, MAX_LISTED],
  );
  return rows.map(({ entry, first_at, ...row }) => ({ ...row, entry: JSON.parse(entry) as ForkedRow['entry'], firstAt: first_at }));
}

export interface ForkDecision {
  readonly gate: string;
  readonly epoch: number;
  readonly seq: number;
  /** The beginning of its hash, where several open rows have this place. */
  readonly hash: string;
  readonly actor: string;
}

/**
 * Takes an open forked row into the account: an `again` row in the cloud's ledger of its site, with the original's identity, so that it counts once
 * whatever its gate still sends. Returns false where no such row is open, or the beginning of the hash fits several.
 */
export async function admitForkedRow(client: DatabaseClient, decision: ForkDecision): Promise<boolean> {
  const { site } = splitGateName(decision.gate);
  // Both ledgers in their order: the row stands for one of the gate's.
  await client.query('SELECT 1 FROM ledgers WHERE tenant_id = current_tenant_id() AND gate = ANY ($1) ORDER BY gate FOR UPDATE', [
    [decision.gate, `${site}/${CLOUD_GATE}`],
  ]);
  const row = await onlyOpen(client, decision);
  if (row === null) return false;
  const { boottime_ms, clock_offset_ms, clock_bound_ms, boot_id: _boot, ts, seq: _seq, again: _again, ...said } = row.entry;
  const measured = typeof boottime_ms === 'number' && typeof clock_offset_ms === 'number';
  const atMs = measured ? boottime_ms + clock_offset_ms : Date.parse(String(ts));
  await appendCloudRows(client, site, [{ ...said, again: row.original } as unknown as CloudEntry], {
    atMs: Math.round(Number.isFinite(atMs) ? atMs : Date.now()),
    boundMs: typeof clock_bound_ms === 'number' ? clock_bound_ms : 0,
  });
  await close(client, row.id, 'admitted', decision.actor);
  return true;
}

/** Sets an open forked row aside: it never counts by itself. Returns as admitForkedRow does. */
export async function setForkedRowAside(client: DatabaseClient, decision: ForkDecision): Promise<boolean> {
  const row = await onlyOpen(client, decision);
  if (row === null) return false;
  await close(client, row.id, 'set_aside', decision.actor);
  return true;
}

interface OpenRow {
  readonly id: number;
  readonly entry: Readonly<Record<string, unknown>>;
  readonly original: readonly [ledger: string, epoch: number, seq: number, hash: string];
}

async function onlyOpen(client: DatabaseClient, { gate, epoch, seq, hash }: ForkDecision): Promise<OpenRow | null> {
  const { rows } = await client.query<{ id: number; entry: string; of_gate: string; of_epoch: number; of_seq: number; of_hash: string }>(
    `SELECT id, entry, of_gate, of_epoch, of_seq, encode(of_hash, 'hex') AS of_hash FROM forked_rows
     WHERE tenant_id = current_tenant_id() AND gate = $1 AND epoch = $2 AND seq = $3 AND starts_with(encode(hash, 'hex'), $4) AND closed IS NULL LIMIT 2 FOR UPDATE`,
    [gate, epoch, seq, hash],
  );
  const [row] = rows;
  if (row === undefined || rows.length > 1) return null;
  return { id: row.id, entry: JSON.parse(row.entry) as OpenRow['entry'], original: [row.of_gate, row.of_epoch, row.of_seq, row.of_hash] };
}

async function close(client: DatabaseClient, id: number, how: 'admitted' | 'set_aside', actor: string): Promise<void> {
  const { rows } = await client.query<{ gate: string }>(
    'UPDATE forked_rows SET closed = $2, closed_at = now(), closed_by = $3 WHERE tenant_id = current_tenant_id() AND id = $1 RETURNING gate',
    [id, how, actor],
  );
  await client.query('SELECT tell_of_forked_rows($1::text[])', [rows.map(({ gate }) => gate)]);
}
