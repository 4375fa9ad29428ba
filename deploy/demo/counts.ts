/** What Postgres holds, counted for the screen and for the table at the end. */
import { createDatabase } from '../../cloud/db/database.ts';

export interface IngestCounts {
  /** Ledger rows of every gate (the cloud's own are not counted). */
  rows(): Promise<number>;
  /** `admitted`, or a refusal's reason → how often. */
  verdicts(): Promise<ReadonlyMap<string, number>>;
  facts(): Promise<{ readonly passed: number; readonly ticketsUsed: number; readonly conflicts: number }>;
  close(): Promise<void>;
}

/** Looks as a superuser, so that no tenant has to be named. */
export async function openAccount(url: string): Promise<IngestCounts> {
  const database = createDatabase({ url, maxConnections: 2, name: 'stile-demo' });
  const ask = <Row>(text: string) => database.asOwner((client) => client.query<Row>(text)).then(({ rows }) => rows);
  return {
    rows: async () => Number((await ask<{ count: number }>("SELECT count(*) FROM ledger_rows WHERE gate NOT LIKE '%/cloud'"))[0]?.count ?? 0),
    async verdicts() {
      const rows = await ask<{ what: string; count: number }>(
        `SELECT CASE kind WHEN 'grant' THEN 'admitted' ELSE entry::jsonb ->> 'reason' END AS what, count(*) FROM ledger_rows WHERE kind IN ('grant', 'refusal') GROUP BY 1`,
      );
      return new Map(rows.map(({ what, count }) => [what, Number(count)]));
    },
    async facts() {
      const [row] = await ask<{ passed: number; used: number; conflicts: number }>(
        `SELECT (SELECT count(*) FROM ledger_rows WHERE kind = 'passage' AND entry::jsonb ->> 'outcome' = 'passed') AS passed,
                (SELECT count(*) FROM tickets WHERE scan_count > 0) AS used, (SELECT count(*) FROM conflicts) AS conflicts`,
      );
      return { passed: Number(row?.passed ?? 0), ticketsUsed: Number(row?.used ?? 0), conflicts: Number(row?.conflicts ?? 0) };
    },
    close: () => database.close(),
  };
}
