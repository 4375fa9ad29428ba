/**
 * One gate at ten times its peak: a code every 100 ms (a lane's peak is a guest in one to two seconds), half of them with tickets, for
 * minutes, as a whole process with broker, cloud and Postgres. Memory, loop, backlog and the wait for an answer over time.
 *
 *   node bench/soak-gate.ts [--minutes 10] [--every-ms 100] [--svg docs/soak-gate.svg]
 *
 * A code is shown when the last guest is through and its time has come. Guests are quick (90 ms from the release), so that the lane
 * nearly keeps up; nothing else is other than in a venue. Ends with 1 where a row was lost or a code was not answered.
 */
import { writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import type { GateProcess } from '../deploy/demo/gate-process.ts';
import { newCode, openVenue, openWires } from '../test/system/venue.ts';
import { chart } from './chart.ts';
import { growthMbPerHour, machine, probed, startProbes, windows } from './soak.ts';
import { quantile } from './table.ts';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    'every-ms': { type: 'string', default: '100' },
    svg: { type: 'string', default: 'docs/soak-gate.svg' },
  },
});
const MINUTES = Number(values.minutes);
const EVERY_MS = Number(values['every-ms']);
/** No answer by then: the guest would have gone; counted. */
const PATIENCE_MS = 5_000;
const SETTLE_MS = 180_000;

const probes = startProbes();
const venue = await openVenue({
  gates: ['north'],
  tickets: Math.ceil((MINUTES * 60_000) / EVERY_MS / 2) + 10,
  passageMs: 80,
  settings: { turnstile: { release: 'pulse', pulse_ms: 50, sensor: 'per_direction', repeat_ms: 100 } },
});
let unanswered = 0;
/** Passages that no sensor saw: on a busy machine a quick guest may be through before the process looks. */
let notSeen = 0;
try {
  const gate = venue.gates[0] as GateProcess;
  const wires = await openWires(gate);
  await wires.send({ walk: { delay_ms: 10 } });
  wires.close();
  const waits: (readonly [number, number])[] = [];
  const backlog: (readonly [number, number])[] = [];
  const beganMs = Date.now();
  const since = () => (Date.now() - beganMs) / 1_000;
  const looking = setInterval(
    () =>
      void gate
        .fresh()
        .then(({ ledger }) => backlog.push([since(), ledger.backlog]))
        .catch(() => undefined),
    1_000,
  );
  let shown = 0;
  for (let dueMs = Date.now(); since() < MINUTES * 60; dueMs = Math.max(dueMs + EVERY_MS, Date.now() - EVERY_MS)) {
    await sleep(Math.max(0, dueMs - Date.now()));
    const answered = gate.line(({ kind }) => kind === 'granted' || kind === 'refused', PATIENCE_MS);
    const through = gate.line(({ kind }) => kind === 'passage', PATIENCE_MS * 2).catch(() => null);
    const at = performance.now();
    gate.show(shown++ % 2 === 0 ? venue.ticket().code : newCode());
    await answered.then(
      async ({ kind }) => {
        waits.push([since(), performance.now() - at]);
        if (kind === 'granted' && (await through) === null) notSeen += 1;
      },
      () => {
        unanswered += 1;
      },
    );
  }
  clearInterval(looking);
  const load = machine();
  const rows = await venue.settled(SETTLE_MS);
  const lines = probes.lines(gate.pid() as number).filter(({ at }) => at <= beganMs + MINUTES * 60_000);
  const during = lines.filter(({ at }) => at >= beganMs);
  const ms = waits.map(([, wait]) => wait);
  const { p50, p99 } = windows(waits);
  writeFileSync(
    values.svg,
    chart(
      `One gate, ${(shown / (MINUTES * 60)).toFixed(1)} codes a second for ${MINUTES} minutes`,
      [
        { title: 'resident memory, MB', series: [probed('gate', lines, beganMs, 'rss')] },
        {
          title: 'loop, ms: kept busy at a time, and late by the clock',
          series: [probed('busy', lines, beganMs, 'busy'), probed('late', lines, beganMs, 'late')],
        },
        { title: 'rows that Postgres has not acknowledged', series: [{ name: 'backlog', points: backlog }] },
        { title: 'from the code to the answer, ms', series: [p50, p99] },
      ],
      load,
    ),
  );
  const rss = during.map((line) => line.rss);
  console.log(
    `figure: ${shown} codes in ${MINUTES} min (${(shown / (MINUTES * 60)).toFixed(1)} a second), ${unanswered} without an answer within ${PATIENCE_MS / 1_000} s, ${notSeen} passages unseen; answered after ${quantile(ms, 0.5).toFixed(0)} ms (p50), ${quantile(ms, 0.99).toFixed(0)} ms (p99)`,
  );
  console.log(
    `figure: memory ${rss[0]} MB at first, ${Math.max(...rss)} at most, ${rss.at(-1)} at last; ${growthMbPerHour(lines, beganMs).toFixed(1)} MB an hour over the second half; loop busy for ${Math.max(...during.map(({ busy }) => busy))} ms at a time at most, late by ${Math.max(...during.map(({ late }) => late))} ms`,
  );
  console.log(`figure: backlog at most ${Math.max(...backlog.map(([, n]) => n))} rows; at the end every one of ${rows.length} rows in Postgres, once`);
  console.log(`${load}; drawn in ${values.svg}`);
} finally {
  await venue.close();
}
process.exit(unanswered === 0 ? 0 : 1);
