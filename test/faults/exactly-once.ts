/**
 * What a gate recorded reaches Postgres exactly once (PROMISES.md, row 3): gates write all the time while broker, Postgres, cloud, gates
 * and the network between them are killed, cut and slowed; then every row of every gate's own ledger is looked for in Postgres.
 *
 *   node test/faults/exactly-once.ts [--broker-kills 50] [--postgres-kills 20] [--partitions 50] [--cloud-kills 5] [--gate-kills 6]
 *                                    [--burst 6000] [--gates 4] [--whole-gates 2] [--guests-per-s 12] [--seed 1] [--plant …]
 *
 * Gates: `--gates` of them with their real store and uplink in one process (writer.ts), and `--whole-gates` as whole processes with
 * a reader. Plants, which must end with exit code 1: `puback` (a gate forgets what the broker has taken), `early-ack` (the cloud
 * acknowledges before its commit), `doubled` (a row is put into Postgres a second time).
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { createWriter, openWorld } from './environment.ts';
import { backlog, SMALL_QUEUE_BYTES } from './overflow.ts';
import { type ExactlyOnceResult, held, judge } from './result.ts';
import { type ExactlyOnceOptions, openCloud, openWholeGates, type Plant, showGuests } from './run-parts.ts';
import { storm } from './storm.ts';

/** Runs the whole, and answers what came of it. Throws where the world itself does not work. */
export async function exactlyOnce(options: ExactlyOnceOptions): Promise<ExactlyOnceResult> {
  const beganMs = performance.now();
  const dir = mkdtempSync(join(tmpdir(), 'stile-faults-'));
  const releases: (() => Promise<unknown> | unknown)[] = [
    () => (process.env['KEEP'] === undefined ? rmSync(dir, { recursive: true, force: true }) : options.say(`kept ${dir}`)),
  ];
  try {
    const world = await openWorld();
    releases.push(world.close);
    const { cloud, stack } = await openCloud(options, world, dir);
    releases.push(() => cloud.stop());
    const writer = await createWriter({
      dir: join(dir, 'writers'),
      databaseUrl: world.postgres.url,
      mqttUrl: world.gateMqttUrl,
      gates: options.gates,
      ticketsPerGate: 500 + options.burst,
      plant: options.plant === 'puback' ? 'puback' : null,
    });
    releases.push(() => writer.stop());
    const whole = stack === null ? [] : await openWholeGates(stack, world, options.wholeGates, dir);
    releases.push(...whole.map((gate) => () => gate.close()));
    await cloud.start();
    await writer.start();
    await Promise.all(whole.map((gate) => gate.start()));
    writer.pace(options.guestsPerS);
    const guests = showGuests(whole);
    releases.push(() => guests.stop());

    await storm({ options, world, cloud, writer, whole });
    const { dropped, rows: backlogRows } = options.burst === 0 ? { dropped: 0, rows: 0 } : await backlog({ options, world, writer });
    writer.pace(0);
    await guests.stop();
    return { ...(await judge({ options, world, writer, whole })), dropped, backlogRows, seconds: (performance.now() - beganMs) / 1_000 };
  } finally {
    for (const release of releases.reverse()) await Promise.resolve(release()).catch((error: Error) => options.say(`could not be released: ${error.message}`));
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      'broker-kills': { type: 'string', default: '50' },
      'postgres-kills': { type: 'string', default: '20' },
      partitions: { type: 'string', default: '50' },
      'cloud-kills': { type: 'string', default: '5' },
      'gate-kills': { type: 'string', default: '6' },
      burst: { type: 'string', default: '6000' },
      gates: { type: 'string', default: '4' },
      'whole-gates': { type: 'string', default: '2' },
      'guests-per-s': { type: 'string', default: '12' },
      seed: { type: 'string', default: '1' },
      plant: { type: 'string' },
    },
  });
  const options: ExactlyOnceOptions = {
    brokerKills: Number(values['broker-kills']),
    postgresKills: Number(values['postgres-kills']),
    partitions: Number(values.partitions),
    cloudKills: Number(values['cloud-kills']),
    gateKills: Number(values['gate-kills']),
    burst: Number(values.burst),
    gates: Number(values.gates),
    wholeGates: values.plant === undefined ? Number(values['whole-gates']) : 0,
    guestsPerS: Number(values['guests-per-s']),
    seed: Number(values.seed),
    plant: (values.plant as Plant | undefined) ?? null,
    say: (line) => void process.stdout.write(`  ${line}\n`),
  };
  const result = await exactlyOnce(options);
  const { difference } = result;
  const ok = held(result) && (options.burst === 0 || result.dropped > 0);
  process.stdout.write(
    `figure: ${options.brokerKills} broker kills, ${options.postgresKills} Postgres kills, ${options.partitions} partitions, ${options.cloudKills} cloud kills, ${options.gateKills} gate kills in ${result.seconds.toFixed(0)} s while ${options.gates + options.wholeGates} gates wrote: ${difference.lost} of ${difference.rows} rows lost, ${difference.doubled} doubled, ${difference.changed} changed, ${difference.foreign} made up\n`,
  );
  if (options.burst > 0)
    process.stdout.write(
      `figure: among them a backlog of ${result.backlogRows} rows (${Math.ceil(result.backlogRows / 100)} messages) before a broker that keeps ${SMALL_QUEUE_BYTES / 1000} kB; it let ${result.dropped} messages fall\n`,
    );
  process.stdout.write(
    `figure: ${result.forgotten} rows forgotten that a caller had been told of; ${result.grants} grants of as many tickets are ${result.winners} winners and ${result.excess} excess; ${result.quarantined} messages quarantined\n`,
  );
  for (const example of difference.examples) process.stdout.write(`  ${example}\n`);
  if (!ok) process.stdout.write('the promise did not hold\n');
  process.exitCode = ok ? 0 : 1;
}

if (import.meta.main) {
  await main();
  // Whatever still holds the loop (a proxy's socket in its last words) is nothing to wait for.
  process.exit();
}
