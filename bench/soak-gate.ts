/**
 * One gate at ten times its peak for minutes, as a whole process with broker, cloud and Postgres: memory, loop, backlog and the wait for
 * an answer over time. A fast lane takes 30 guests a minute at its peak; here it is 300 guests a minute among 600 codes (--rate 10).
 *
 *   node bench/soak-gate.ts [--minutes 10] [--rate 10] [--svg docs/soak-gate.svg] [--plant]
 *
 * Codes come at their times, whatever the lane is doing. Of ten, five are tickets, two are tickets whose guests are inside already, two
 * are unknown (the cloud is asked), and one is the code before it again, as a reader sees it that is held too long. The lane keeps up to
 * four codes while a guest passes (`while_open: queue`); its guests are quick (90 ms from the release), as no turnstile is. For a tenth
 * of the time the broker is away.
 *
 * Every code is accounted for: decided, or counted by the gate as not taken, with why. Ends with 1 where one is not, where a row is
 * lost or doubled, or where rows and answers differ. `--plant`: one code in fifty never reaches the reader, and it must end with 1.
 */
import { writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import type { RecentLine } from '../daemon/control/protocol.ts';
import { newCode, openVenue, openWires } from '../test/system/environment.ts';
import type { GateProcess } from '../testkit/gate-process.ts';
import { chart } from './chart.ts';
import { growthMbPerHour, machine, probed, startProbes, windowed, windows } from './soak.ts';
import { quantile } from './table.ts';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    rate: { type: 'string', default: '10' },
    svg: { type: 'string', default: 'docs/soak-gate.svg' },
    plant: { type: 'boolean', default: false },
  },
});
const SECONDS = Number(values.minutes) * 60;
const RATE = Number(values.rate);
/** Of ten codes; the order within each ten is drawn. */
const CROWD = ['ticket', 'ticket', 'ticket', 'ticket', 'ticket', 'inside', 'inside', 'unknown', 'unknown', 'again'] as const;
/** The broker is away in this part of the time. */
const AWAY = { from: 0.4, to: 0.5 } as const;
/** A code that waits is answered or given up by then (daemon/lane/presentations.ts, MAX_QUEUED_MS), ms. */
const LAST_ANSWERS_MS = 16_000;
const SETTLE_MS = 180_000;
const PLANTED_EVERY = 50;

interface Shown {
  readonly kind: (typeof CROWD)[number];
  readonly ticketId: string | null;
  readonly code: string;
  readonly atMs: number;
  readonly atS: number;
}

const shuffled = <T>(list: readonly T[]): T[] =>
  list
    .map((one) => [Math.random(), one] as const)
    .sort(([a], [b]) => a - b)
    .map(([, one]) => one);
const sum = (counts: Readonly<Record<string, number>>): number => Object.values(counts).reduce((all, one) => all + one, 0);

const probes = startProbes();
const venue = await openVenue({
  gates: ['north'],
  tickets: Math.ceil((SECONDS * RATE) / 2) + 10,
  passageMs: 80,
  settings: {
    turnstile: { release: 'pulse', pulse_ms: 50, sensor: 'per_direction', while_open: 'queue', passage_timeout_ms: 1_000, passage_grace_ms: 200 },
  },
});
let wrong = true;
try {
  const gate = venue.gates[0] as GateProcess;
  const wires = await openWires(gate);
  await wires.send({ walk: { delay_ms: 10 } });
  wires.close();

  const beganMs = Date.now();
  const since = () => (Date.now() - beganMs) / 1_000;
  const offered: number[] = [];
  const answers: { readonly atS: number; readonly kind: string; readonly waitedMs: number }[] = [];
  const passedOver: Shown[] = [];
  const inside: { readonly ticketId: string; readonly code: string }[] = [];
  /** Shown and not answered, in order. */
  let waiting: Shown[] = [];
  let strange = 0;

  /** The lane answers in order: who is before the one that is answered was not taken. */
  const answered = (line: RecentLine): void => {
    if (line.kind !== 'granted' && line.kind !== 'refused') return;
    const ticketId = /\(ticket ([^)]+)\)/.exec(line.words)?.[1] ?? null;
    const at = waiting.findIndex((one) => one.ticketId === ticketId);
    const one = waiting[at];
    if (one === undefined) return void (strange += 1);
    passedOver.push(...waiting.slice(0, at));
    waiting = waiting.slice(at + 1);
    answers.push({ atS: one.atS, kind: line.kind, waitedMs: performance.now() - one.atMs });
    if (line.kind === 'granted' && one.ticketId !== null) inside.push({ ticketId: one.ticketId, code: one.code });
  };
  gate.watch((item) => 'line' in item && answered(item.line));

  let last: Shown | null = null;
  const next = (kind: Shown['kind']): Shown => {
    const now = { atMs: performance.now(), atS: since() };
    if (kind === 'again' && last !== null) return { ...last, ...now, kind };
    const known = kind === 'ticket' ? venue.ticket() : kind === 'inside' ? inside[Math.floor(Math.random() * inside.length)] : undefined;
    return known === undefined ? { kind: 'unknown', ticketId: null, code: newCode(), ...now } : { kind, ...known, ...now };
  };

  const backlog: (readonly [number, number])[] = [];
  const looking = setInterval(
    () =>
      void gate
        .fresh()
        .then(({ ledger }) => backlog.push([since(), ledger.backlog]))
        .catch(() => undefined),
    1_000,
  );
  const away = (async () => {
    await sleep(SECONDS * AWAY.from * 1_000);
    await venue.broker.kill();
    await sleep(SECONDS * (AWAY.to - AWAY.from) * 1_000);
    await venue.broker.restart();
  })();
  for (let crowd: Shown['kind'][] = []; offered.length < SECONDS * RATE; ) {
    await sleep(Math.max(0, beganMs + (offered.length * 1_000) / RATE - Date.now()));
    if (crowd.length === 0) crowd = shuffled(CROWD);
    last = next(crowd.pop() as Shown['kind']);
    offered.push(last.atS);
    waiting.push(last);
    if (!values.plant || offered.length % PLANTED_EVERY !== 0) gate.show(last.code);
  }
  const load = machine();
  await away;
  clearInterval(looking);
  // Every code is decided or counted: until then, or until nobody waits that long.
  const accountedFor = async () => answers.length + strange + sum((await gate.fresh()).not_taken) === offered.length;
  for (const patienceMs = Date.now() + LAST_ANSWERS_MS; !(await accountedFor()) && Date.now() < patienceMs; ) await sleep(100);
  passedOver.push(...waiting);
  const notTaken = (await gate.fresh()).not_taken;
  const unaccounted = offered.length - answers.length - strange - sum(notTaken);
  const rows = await venue.settled(SETTLE_MS);

  const count = (kind: string) => answers.filter((one) => one.kind === kind).length;
  const outcome = (name: string) => rows.filter(({ kind, entry }) => kind === 'passage' && entry['outcome'] === name).length;
  const [admitted, refused] = [count('granted'), count('refused')];
  const differ =
    Math.abs(rows.filter(({ kind }) => kind === 'grant').length - admitted) + Math.abs(rows.filter(({ kind }) => kind === 'refusal').length - refused);
  wrong = unaccounted !== 0 || strange !== 0 || differ !== 0 || passedOver.length !== sum(notTaken);
  const lines = probes.lines(gate.pid() as number).filter(({ at }) => at <= beganMs + SECONDS * 1_000);
  const during = lines.filter(({ at }) => at >= beganMs);
  const rss = during.map((line) => line.rss);
  const waits = answers.map(({ atS, waitedMs }) => [atS, waitedMs] as const);
  const ms = waits.map(([, wait]) => wait);
  const { p50, p99 } = windows(waits);
  const rate = (list: readonly number[]) => (list.length / SECONDS).toFixed(1);
  const ignored = `${sum(notTaken)} not taken (${notTaken.held} still held before the reader, ${notTaken.repeat} shown the same refusal again, ${notTaken.busy} told to wait)`;
  const figures = [
    `${offered.length} codes in ${values.minutes} min (${rate(offered)} a second): ${answers.length} decided (${admitted} admitted, ${refused} refused), ${ignored}, ${unaccounted} unanswered; the broker was away for ${(SECONDS * (AWAY.to - AWAY.from)).toFixed(0)} s`,
    `answered after ${quantile(ms, 0.5).toFixed(0)} ms (p50), ${quantile(ms, 0.99).toFixed(0)} ms (p99), ${Math.max(...ms).toFixed(0)} ms at most, the wait for the guest before included; ${outcome('passed')} passed, ${outcome('returned')} seen by no sensor in time and returned`,
    `memory ${rss[0]} MB at first, ${Math.max(...rss)} at most, ${rss.at(-1)} at last; ${growthMbPerHour(lines, beganMs).toFixed(1)} MB an hour over the second half; loop busy for ${Math.max(...during.map(({ busy }) => busy))} ms at a time at most, late by ${Math.max(...during.map(({ late }) => late))} ms`,
    `backlog at most ${Math.max(...backlog.map(([, n]) => n))} rows; at the end every one of ${rows.length} rows in Postgres, once`,
  ];
  writeFileSync(
    values.svg,
    chart(
      `One gate, ${rate(offered)} codes a second for ${values.minutes} minutes: ten times its peak`,
      [
        {
          title: 'codes a second',
          series: [
            windowed('offered', offered),
            windowed(
              'decided',
              answers.map(({ atS }) => atS),
            ),
            windowed(
              'not taken',
              passedOver.map(({ atS }) => atS),
            ),
          ],
        },
        { title: 'resident memory, MB', series: [probed('gate', lines, beganMs, 'rss')] },
        {
          title: 'loop, ms: kept busy at a time, and late by the clock',
          series: [probed('busy', lines, beganMs, 'busy'), probed('late', lines, beganMs, 'late')],
        },
        { title: 'rows that Postgres has not acknowledged', series: [{ name: 'backlog', points: backlog }] },
        { title: 'from the code to the answer, ms; a code waits while a guest passes', series: [p50, p99] },
      ],
      [
        `${offered.length} codes offered, a code every ${(1_000 / RATE).toFixed(0)} ms: ${admitted} admitted, ${refused} refused, ${unaccounted} unanswered;`,
        `${ignored}.`,
        'Of ten codes five are tickets, two are used ones, two are unknown, one is the code before it again; four may wait while a guest passes.',
        `A lane's peak is 30 guests a minute; here ${((admitted / SECONDS) * 60).toFixed(0)} a minute pass, 90 ms each. The broker was away from ${((SECONDS * AWAY.from) / 60).toFixed(1)} to ${((SECONDS * AWAY.to) / 60).toFixed(1)} min.`,
        load,
      ].join('\n'),
    ),
  );
  for (const figure of figures) console.log(`figure: ${figure}`);
  if (wrong)
    console.log(
      `WRONG: ${unaccounted} codes unaccounted for, ${strange} answers to nobody, ${differ} rows other than told, ${passedOver.length} codes passed over`,
    );
  console.log(`${load}; drawn in ${values.svg}`);
} finally {
  await venue.close();
}
process.exit(wrong ? 1 : 0);
