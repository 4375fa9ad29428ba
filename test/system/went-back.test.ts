/** A gate's store goes back in time, on the real daemon and the real cloud: a copy is put back, and every admission counts once (T1). */
import { cpSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { GateProcess } from '../../testkit/gate-process.ts';
import { enter, eventually, openVenue, show, type Ticket, type Venue } from './environment.ts';

let venue: Venue;
let north: GateProcess;
let south: GateProcess;
beforeAll(async () => {
  venue = await openVenue({ tickets: 40, passageMs: 50, policies: { usage_lost: 'admit' } });
  [north, south] = venue.gates as [GateProcess, GateProcess];
});
afterAll(() => venue?.close());

const storeOf = (gate: GateProcess): string => join(dirname(gate.configFile), 'store');
let copies = 0;
/** Copies the store of a gate that is stopped for it, and starts it again. */
async function copyStore(gate: GateProcess): Promise<string> {
  const to = join(venue.dir, `copy-${copies++}`);
  await gate.stop();
  cpSync(storeOf(gate), to, { recursive: true });
  await gate.start();
  return to;
}
async function putBack(gate: GateProcess, from: string): Promise<void> {
  await gate.stop();
  rmSync(storeOf(gate), { recursive: true });
  cpSync(from, storeOf(gate), { recursive: true });
  await gate.start();
}
async function enterAll(gate: GateProcess, count: number): Promise<readonly Ticket[]> {
  const tickets = Array.from({ length: count }, () => venue.ticket());
  for (const ticket of tickets) await enter(gate, ticket);
  return tickets;
}
const acknowledged = (gate: GateProcess) => eventually(`${gate.gate} to be acknowledged`, async () => (await gate.fresh()).ledger.backlog === 0, 90_000);
/** Waits until each of these tickets has one admission that counts, and none has another. */
async function countedOnce(tickets: readonly Ticket[]): Promise<void> {
  const ids = tickets.map(({ ticketId }) => ticketId);
  let found: { ticket_id: string; n: number }[] = [];
  await eventually(
    'every admission to count',
    async () => {
      found = await venue.ask<{ ticket_id: string; n: number }>(
        "SELECT ticket_id, count(*)::int AS n FROM admissions WHERE ticket_id = ANY($1) AND verdict IN ('winner', 'excess') GROUP BY ticket_id ORDER BY ticket_id",
        [ids],
      );
      return found.length === ids.length;
    },
    90_000,
  ).catch((error: Error) => {
    throw new Error(`${error.message}; counted: ${JSON.stringify(found)} of ${ids.join(', ')}`);
  });
  expect(found.filter(({ n }) => n !== 1)).toEqual([]);
}

test('as many rows offline as the cloud is ahead: the store begins a new epoch, and everybody counts once at cloud and gates (T1)', async () => {
  const before = await enterAll(north, 1);
  await venue.settled();
  const copy = await copyStore(north);
  const lost = await enterAll(north, 2);
  await venue.settled();
  const { epoch } = (await north.fresh()).ledger;
  await north.stop();
  await venue.broker.kill();
  await putBack(north, copy);
  const offline = await enterAll(north, 2);
  const alert = north.until(({ alerts }) => alerts.some(({ id, message }) => id === 'ledger' && /\d+ rows are sent once more/.test(message)), 90_000);
  await venue.broker.restart();
  await alert;
  await acknowledged(north);
  expect((await north.fresh()).ledger.epoch).toBeGreaterThan(epoch);
  await countedOnce([...before, ...lost, ...offline]);
  // Both gates know everybody, whichever life of the store admitted them.
  await eventually('usage to be whole', async () => (await north.fresh()).ledger.usage_complete, 90_000);
  for (const { code } of [...lost, ...offline]) {
    expect(await show(north, code)).toMatchObject({ kind: 'refused' });
    expect(await show(south, code)).toMatchObject({ kind: 'refused' });
  }
});

test('fewer rows offline than the cloud is ahead, and put back once more: nobody is lost, nobody counts twice (T1)', async () => {
  const copy = await copyStore(north);
  const lost = await enterAll(north, 4);
  await acknowledged(north);
  await north.stop();
  await venue.broker.kill();
  await putBack(north, copy);
  const offline = await enterAll(north, 1);
  // This life is put away before the cloud hears of it, and comes back later.
  const away = await copyStore(north);
  await putBack(north, copy);
  await venue.broker.restart();
  await acknowledged(north);
  const online = await enterAll(north, 1);
  await acknowledged(north);
  await putBack(north, away);
  await acknowledged(north);
  await countedOnce([...lost, ...offline, ...online]);
});
