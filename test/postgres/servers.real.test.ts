/**
 * B1, B4: migrations land, and what they make works, on what Debian 12 and 13 ship today and on the embedded server, by the logins that
 * docs/INSTALL.md makes: the SQL is taken from the document.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { connectOwner, createDatabase } from '../../cloud/db/database.ts';
import { checkServingUrl, SETUP_SQL } from '../../cloud/db/logins.ts';
import { migrate, migrationFiles } from '../../cloud/db/migrate.ts';
import { reconcile } from '../../cloud/reconcile/reconcile.ts';
import { makeVenue, type TestTicket } from '../../testkit/database.ts';
import { testLedger } from '../../testkit/ledgers.ts';
import { prepareDatabase } from '../../testkit/prepare-database.ts';
import { bringServer, SERVERS, startServer } from './servers.ts';

const INSTALL = readFileSync(join(import.meta.dirname, '../../docs/INSTALL.md'), 'utf8');
const printed = /```sql\n(CREATE ROLE stile_service[\s\S]*?)```/.exec(INSTALL)?.[1] ?? '';

test('B4: the SQL of INSTALL.md is what the error message prints', () => {
  expect(printed).toBe(SETUP_SQL);
});

describe.each(SERVERS)('PostgreSQL %s', (name) => {
  const missing = bringServer(name);
  if (missing !== null) process.stdout.write(`SKIPPED: PostgreSQL ${name}: ${missing}\n`);

  test.skipIf(missing !== null)('B1 B4: the owner migrates, the serving login serves, and the functions work', { timeout: 120_000 }, async () => {
    const server = await startServer(name);
    try {
      const { ownerUrl, servingUrl } = await prepareDatabase(server.url, 'stile', printed);
      const warnings: string[] = [];
      expect(await migrate(ownerUrl, { onWarning: (text) => warnings.push(text) })).toEqual([...migrationFiles().keys()]);
      expect(await migrate(ownerUrl)).toEqual([]);
      expect(warnings).toEqual([]);
      await checkServingUrl(servingUrl);

      const owner = await connectOwner(ownerUrl);
      try {
        const { rows } = await owner.query<{ super: boolean; version: number }>(
          "SELECT rolsuper AS super, current_setting('server_version_num')::integer / 10000 AS version FROM pg_roles WHERE rolname = current_user",
        );
        expect(rows).toEqual([{ super: false, version: name === 'embedded' ? 18 : Number(name) }]);
        const venue = await makeVenue(ownerUrl, { tickets: 3 });
        const database = createDatabase({ url: servingUrl });
        try {
          const ledger = testLedger(venue, 0);
          ledger.passage(ledger.grant(venue.tickets[0] as TestTicket, 1_000), 2_000, 'passed');
          ledger.grant(venue.tickets[1] as TestTicket, 3_000);
          const other = testLedger(venue, 1);
          other.grant(venue.tickets[0] as TestTicket, 60_000);
          const take = () => database.withTenant(venue.tenantId, (client) => reconcile(client, [...ledger.rows(), ...other.rows()]));
          expect(await take()).toMatchObject({ stored: 4, duplicates: 0 });
          expect(await take()).toMatchObject({ stored: 0, duplicates: 4 });
          const seen = await database.withTenant(venue.tenantId, async (client) => ({
            verdicts: (await client.query("SELECT split_part(gate, '/', 2) || '/' || seq AS key, verdict FROM admissions WHERE granted ORDER BY at")).rows,
            status: (await client.query("SELECT status FROM tickets WHERE ticket_id = 'T-1'")).rows,
            // A doubtful one at the decider: by the function that stopped every migration.
            lost: (await client.query("UPDATE tickets SET status = 'revoked' WHERE ticket_id = 'T-3' RETURNING right_lost_by(tickets, now()) AS lost")).rows,
          }));
          expect(seen).toEqual({
            verdicts: [
              { key: 'north/1', verdict: 'winner' },
              { key: 'north/3', verdict: 'winner' },
              { key: 'south/1', verdict: 'excess' },
            ],
            status: [{ status: 'checked_in' }],
            lost: [{ lost: 'revoked' }],
          });
          // A change waits for the gates, and the process that tells them finds it without knowing a tenant.
          await database.withTenant(venue.tenantId, (client) =>
            client.query("INSERT INTO outbox (tenant_id, kind, key) VALUES ($1, 'event', $2)", [venue.tenantId, venue.eventId]),
          );
          const due = await database.withoutTenant((client) => client.query<{ tenant_id: string }>('SELECT DISTINCT tenant_id FROM next_outbox(100)'));
          expect(due.rows).toEqual([{ tenant_id: venue.tenantId }]);
          expect((await database.withoutTenant((client) => client.query('SELECT * FROM resolve_device($1)', [venue.gates[0]]))).rows).toEqual([
            { tenant_id: venue.tenantId, revoked: false },
          ]);
        } finally {
          await database.close();
        }
        // The owner sees nobody's rows either.
        expect((await owner.query('SELECT 1 FROM tickets')).rowCount).toBe(0);
      } finally {
        await owner.close();
      }
    } finally {
      await server.stop();
    }
  });
});
