/** What came of a run of faults: every row of every gate's own ledger, looked for in Postgres. */
import { setTimeout as sleep } from 'node:timers/promises';
import { connectOwner } from '../../cloud/db/database.ts';
import { ownLedger } from '../system/environment.ts';
import { agrees, compare, type Difference, type Row } from './counts.ts';
import { heldRows, type World, type Writer } from './environment.ts';
import type { ExactlyOnceOptions, Parts } from './run-parts.ts';

export interface ExactlyOnceResult {
  readonly difference: Difference;
  /** Rows that a caller was told of and that the ledger itself has not. */
  readonly forgotten: number;
  /** Grants of the writing gates, and what the account made of them: each ticket once, so every one is a winner. */
  readonly grants: number;
  readonly winners: number;
  readonly excess: number;
  readonly quarantined: number;
  /** Messages that the broker let fall because its queue was full. */
  readonly dropped: number;
  readonly backlogRows: number;
  readonly seconds: number;
}

const SETTLE_MS = 90_000;
/** What a plant has lost never comes: so long is enough for what is only late. */
const PLANTED_SETTLE_MS = 5_000;
const POLL_MS = 100;

/** Waits until gates and Postgres agree, or for as long as rows may take; then says what is. */
export async function judge({ options, world, writer, whole }: Omit<Parts, 'cloud'>): Promise<Omit<ExactlyOnceResult, 'dropped' | 'backlogRows' | 'seconds'>> {
  const deadline = performance.now() + (options.plant === null ? SETTLE_MS : PLANTED_SETTLE_MS);
  for (let before = -1; ; ) {
    const own = [...(await writer.rows()), ...(await Promise.all(whole.map(ownLedger))).flat()];
    if (options.plant === 'doubled' && before === -1) await plantDouble(world);
    const difference = compare(own, await heldRows(world.postgres.url));
    if (agrees(difference) || performance.now() > deadline) return { difference, ...(await sums(options, world, writer, own)) };
    before = difference.lost;
    await sleep(POLL_MS * 5);
  }
}

/** The primary key holds the time of arrival as well: a second copy of a row is possible, and must be seen. */
async function plantDouble(world: World): Promise<void> {
  const owner = await connectOwner(world.postgres.url);
  await owner.query(`INSERT INTO ledger_lines (tenant_id, gate, epoch, seq, received_at, kind, readable, hash, entry, at)
    SELECT tenant_id, gate, epoch, seq, received_at + interval '1 second', kind, readable, hash, entry, at FROM ledger_rows WHERE gate NOT LIKE '%/cloud' ORDER BY seq LIMIT 1`);
  await owner.close();
}

async function sums(options: ExactlyOnceOptions, world: World, writer: Writer, own: readonly Row[]) {
  const { told } = writer.stand();
  const last = new Map<string, readonly [number, number]>();
  for (const { gate, epoch, seq } of own) {
    const known = last.get(gate);
    if (known === undefined || epoch > known[0] || (epoch === known[0] && seq > known[1])) last.set(gate, [epoch, seq]);
  }
  let forgotten = 0;
  for (const [gate, [epoch, seq]] of told) {
    const known = last.get(gate);
    if (known === undefined || known[0] < epoch || (known[0] === epoch && known[1] < seq)) forgotten += seq - (known?.[0] === epoch ? known[1] : 0);
  }
  const owner = await connectOwner(world.postgres.url);
  try {
    const why = await owner.query<{ reason: string; detail: string; times: number }>(
      'SELECT reason, detail, sum(times)::int AS times FROM quarantine GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 5',
    );
    for (const { reason, detail, times } of why.rows) options.say(`quarantined ${times} times: ${reason}, ${detail}`);
    const { rows } = await owner.query<{ grants: number; winners: number; excess: number; quarantined: number }>(
      `SELECT (SELECT count(*) FROM ledger_rows WHERE tenant_id = $1 AND kind = 'grant')::int AS grants,
        count(*) FILTER (WHERE verdict = 'winner')::int AS winners, count(*) FILTER (WHERE verdict = 'excess')::int AS excess,
        (SELECT count(*) FROM quarantine)::int AS quarantined FROM admissions WHERE tenant_id = $1`,
      [writer.venue.tenantId],
    );
    return { forgotten, ...(rows[0] as { grants: number; winners: number; excess: number; quarantined: number }) };
  } finally {
    await owner.close();
  }
}

/** Nothing lost, nothing doubled, nothing forgotten, and every ticket's one grant is its winner. */
export function held(result: ExactlyOnceResult): boolean {
  return agrees(result.difference) && result.forgotten === 0 && result.excess === 0 && result.quarantined === 0 && result.grants === result.winners;
}
