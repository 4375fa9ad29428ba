/** The cloud names an address that nobody can fetch from (B3): gate and cloud say so, and blame nothing else. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { GateStatus } from '../../daemon/control/protocol.ts';
import { type Broker, freePort, startBroker } from '../../testkit/broker.ts';
import { type FreshDatabase, freshDatabase } from '../../testkit/database.ts';
import type { GateProcess } from '../../testkit/gate-process.ts';
import { openStack, run, type Stack } from '../../testkit/stack.ts';
import { eventually } from './environment.ts';

const STILE_GATE = fileURLToPath(new URL('../../daemon/stile-gate', import.meta.url));
const dir = mkdtempSync(join(tmpdir(), 'stile-address-'));
let database: FreshDatabase;
let broker: Broker;
let elsewhere: Server;
beforeAll(async () => {
  [database, broker] = await Promise.all([freshDatabase(), startBroker()]);
  // Somebody else's server: it answers, and has no tickets.
  elsewhere = createServer((_request, response) => response.writeHead(404).end('nothing here'));
  await new Promise<void>((listening) => elsewhere.listen(0, '127.0.0.1', listening));
});
afterAll(async () => {
  elsewhere?.close();
  await broker?.stop();
  await database?.drop();
  rmSync(dir, { recursive: true, force: true });
});

/** A stack whose cloud says that it is at `publicUrl`, and a gate that asks the right one; both run. */
async function withWrongAddress(name: string, publicUrl: string, work: (stack: Stack, gate: GateProcess) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(dir, name));
  const stack = await openStack({
    dir: folder,
    databaseUrl: database.servingUrl,
    mqtt: { url: broker.url },
    env: { STILE_PUBLIC_URL: publicUrl, STILE_TENANT: name, STILE_SIGNING_KEY_FILE: join(dir, 'signing-key.pem') },
  });
  try {
    await stack.cloud('event', 'put', `concert-${name}`, '--site', name, '--name', 'Concert', '--starts', new Date().toISOString(), '--no-wait');
    writeFileSync(join(folder, 'tickets.csv'), 'ticket_id,code\nT-1,Vq3mJk0TQyC2b7wEw2Xk1A\n');
    await stack.cloud('import', `concert-${name}`, join(folder, 'tickets.csv'), '--no-wait');
    const gate = await stack.addGate(`${name}/north`, [`concert-${name}`]);
    await stack.startCloud();
    await gate.start();
    await work(stack, gate);
  } finally {
    await stack.close();
  }
}

test.each([
  ['closed', 'nobody listens there', async () => `http://127.0.0.1:${await freePort()}`, 'ECONNREFUSED'],
  ['other', 'another server answers', async () => `http://127.0.0.1:${(elsewhere.address() as AddressInfo).port}`, 'HTTP 404'],
  ['plain', 'TLS where none is spoken', async () => `https://127.0.0.1:${(elsewhere.address() as AddressInfo).port}`, 'SSL'],
])('B3: %s: %s: status, doctor and the cloud name the address and the cause', async (name, _what, addressOf, cause) => {
  const publicUrl = await addressOf();
  await withWrongAddress(name, publicUrl, async (stack, gate) => {
    const cli = (...args: readonly string[]) => run(STILE_GATE, [...args, '--config', gate.configFile], process.env);
    await eventually('the failed fetch', async () => (JSON.parse((await cli('status', '--json')).stdout) as GateStatus).fetch_problem, 90_000);
    const named = (text: string) => expect(text).toMatch(new RegExp(`from ${publicUrl.replaceAll('.', '\\.')}/.*${cause}`));
    named((await cli('status')).stdout);
    named((await cli('manifest', 'show')).stdout);
    const doctor = (await cli('doctor')).stdout;
    const tickets = doctor.split('\n').findIndex((line) => /\btickets\b/.test(line));
    const part = doctor
      .split('\n')
      .slice(tickets, tickets + 3)
      .join('\n');
    named(part);
    expect(part).toContain('STILE_PUBLIC_URL');
    expect(part).not.toContain('assign');
    named(await eventually('the alert at the cloud', async () => /^.* manifest: .*$/m.exec(await stack.cloud('gates'))?.[0], 90_000));
  });
});
