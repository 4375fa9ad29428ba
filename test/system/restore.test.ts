/** The cloud's database goes back to an older copy while the gates have gone on: what they hold comes back without any person. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { connectOwner } from '../../cloud/db/database.ts';
import type { GateProcess } from '../../testkit/gate-process.ts';
import { enter, logOf, openVenue, type Venue } from './environment.ts';

let venue: Venue;
let north: GateProcess;
beforeAll(async () => {
  venue = await openVenue({ gates: ['north'], tickets: 20, passageMs: 50 });
  [north] = venue.gates as [GateProcess];
});
afterAll(() => venue?.close());

/** With the cloud stopped and nobody connected: a whole database becomes another's copy, or takes its name. */
async function withDatabaseAlone(work: (admin: Awaited<ReturnType<typeof connectOwner>>, name: string) => Promise<void>): Promise<void> {
  await venue.stack.stopCloud();
  const name = new URL(venue.database.url).pathname.slice(1);
  const admin = await connectOwner(venue.database.adminUrl);
  try {
    await admin.query('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1', [name]);
    await work(admin, name);
  } finally {
    await admin.close();
  }
  await venue.stack.startCloud();
}

test('a restored database: the cloud says that it went back, the gate how many rows it sends again, and every row comes back (T2)', async () => {
  for (let guest = 0; guest < 3; guest++) await enter(north, venue.ticket());
  await venue.settled();
  await withDatabaseAlone((admin, name) => admin.query(`CREATE DATABASE ${name}_copy OWNER stile_owner TEMPLATE ${name}`).then(() => undefined));
  for (let guest = 0; guest < 4; guest++) await enter(north, venue.ticket());
  const whole = await venue.settled();
  await north.until(({ ledger }) => ledger.backlog === 0, 90_000);
  const alert = north.until(
    ({ alerts }) => alerts.some(({ id, message }) => id === 'ledger' && /^\d+ rows that the cloud had acknowledged are sent again/.test(message)),
    90_000,
  );
  await withDatabaseAlone(async (admin, name) => {
    await admin.query(`DROP DATABASE ${name} WITH (FORCE)`);
    await admin.query(`ALTER DATABASE ${name}_copy RENAME TO ${name}`);
  });
  // The cloud finds it out by the acknowledgements that the broker kept, and every gate sends what the new life lacks.
  expect(logOf(venue.stack.cloudLog)).toMatch(/"alert":"ledger","msg":"the database went back in time: it begins a new life, and gates send what it lacks"/);
  // However fast the rows come back, the alert stays long enough for a person's screen to show it.
  await alert;
  await enter(north, venue.ticket());
  expect((await venue.settled()).length).toBeGreaterThan(whole.length);
  await north.until(({ ledger, alerts }) => ledger.backlog === 0 && !alerts.some(({ id }) => id === 'ledger'), 90_000);
  const [admissions] = await venue.ask<{ n: string }>("SELECT count(*) AS n FROM admissions WHERE verdict = 'winner'");
  expect(Number(admissions?.n)).toBe(8);
});
