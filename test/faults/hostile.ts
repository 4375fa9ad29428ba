/**
 * Bad input is bounded (PROMISES.md, row 10): random bytes from a reader through a real pseudo-terminal, hostile MQTT messages to gate
 * and cloud, hostile HTTP requests to the cloud, all to real processes, with genuine guests in between. Memory and the loop are
 * measured inside the processes (loop-probe.ts).
 *
 *   node test/faults/hostile.ts [--serial-bytes 1000000] [--to-gate 3500] [--to-cloud 3500] [--requests 3000]
 */
import { randomBytes, randomInt } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { connectOwner } from '../../cloud/db/database.ts';
import { Reason } from '../../contract/reasons.ts';
import { enter, eventually, openVenue, type Venue } from '../system/environment.ts';
import { rawRequest, rubbish, word } from './garbage.ts';
import type { ProbeLine } from './loop-probe.ts';

export interface HostileOptions {
  readonly serialBytes: number;
  readonly toGate: number;
  readonly toCloud: number;
  readonly requests: number;
  /** Before each part as many hostile messages, uncounted, and a pause around it, ms: what is new to a process costs it memory once. */
  readonly warmUp: number;
  readonly quietMs: number;
  readonly say: (line: string) => void;
}

/** The load that a process had in one part. */
export interface Strain {
  readonly part: string;
  readonly who: 'gate' | 'cloud';
  /** MB: before (warmed up), at most, and a while after. */
  readonly beforeMb: number;
  readonly peakMb: number;
  readonly afterMb: number;
  /** MB held after a full collection: before, at most in its midst (where it was looked at), and after: what is not given back. */
  readonly heldBeforeMb: number;
  readonly heldMostMb: number;
  readonly heldAfterMb: number;
  /** The longest that the loop was kept busy by its own work, and the longest that it was late by the clock, ms. */
  readonly busyMs: number;
  readonly lateMs: number;
}

export interface HostileResult {
  readonly strains: readonly Strain[];
  readonly genuine: number;
  /** What was neither refused with a reason nor quarantined, in words. */
  readonly unanswered: readonly string[];
  readonly sent: { readonly serialBytes: number; readonly toGate: number; readonly toCloud: number; readonly requests: number };
  readonly quarantined: number;
  readonly refusedAtGate: number;
  /** Rows in the account that say why somebody was refused. */
  readonly refusals: number;
  readonly answers: Readonly<Record<string, number>>;
}

const CHUNK_BYTES = 2_048;
/** As many as a broker or a gate takes without a pause; then their answers are waited for. */
const WINDOW = 25;
const COLLECT_MS = 1_000;
const ANSWER_MS = 20_000;
/** Less than the cloud's brake holds: nothing that it must answer for may be let go. */
const HOLD_MS = 2_000;
const HOLD_COLLECT_MS = 500;
/** No answer for so long: nothing is under way. */
const SILENT_MS = 1_000;
const TICKETS = 60;
const COMMANDS = ['open', 'mode', 'reset-emergency', 'refresh', 'selftest', 'resend', 'restart', 'diagnostics', 'nonsense'];

interface Stage {
  readonly venue: Venue;
  readonly probes: string;
  readonly pids: Readonly<Record<'gate' | 'cloud', number>>;
  readonly unanswered: string[];
  genuine: number;
  /** The tokens of an operator and of the gate: routes behind the authentication must hold as well. */
  tokens(): Promise<readonly string[]>;
}

export async function hostile(options: HostileOptions): Promise<HostileResult> {
  // The processes that are started from here on carry the probe; callers are refused by their number only late.
  process.env['NODE_OPTIONS'] = `${process.env['NODE_OPTIONS'] ?? ''} --import ${fileURLToPath(new URL('loop-probe.ts', import.meta.url))}`;
  process.env['STILE_HTTP_RATE'] = '1000000';
  const probes = join(process.env['TMPDIR'] ?? '/tmp', `stile-probe-${process.pid}`);
  mkdirSync(probes, { recursive: true });
  process.env['STILE_PROBE'] = probes;
  const venue = await openVenue({
    gates: ['north'],
    tickets: TICKETS,
    passageMs: 150,
    settings: { turnstile: { release: 'pulse', sensor: 'per_direction', repeat_ms: 100 } },
  });
  try {
    const gatePid = venue.gates[0]?.pid() as number;
    const cloudPid = readdirSync(probes)
      .map(Number)
      .find((pid) => pid !== gatePid) as number;
    const stage: Stage = { venue, probes, pids: { gate: gatePid, cloud: cloudPid }, unanswered: [], genuine: 0, tokens: () => (tokens ??= tokensOf(venue)) };
    let tokens: Promise<readonly string[]> | undefined;
    const strains: Strain[] = [];
    const part = async (name: string, who: readonly ('gate' | 'cloud')[], warmUp: () => Promise<void>, work: () => Promise<void>) => {
      await warmUp();
      await sleep(options.quietMs);
      await collect(stage, who);
      const fromMs = Date.now();
      await work();
      const uptoMs = Date.now();
      await sleep(options.quietMs);
      await collect(stage, who);
      for (const one of who) strains.push(strainOf(stage, name, one, { fromMs, uptoMs }));
      options.say(`${name}: done in ${((uptoMs - fromMs) / 1000).toFixed(0)} s`);
    };
    const before = await standing(stage);
    await genuineGuest(stage);
    await part(
      'serial',
      ['gate'],
      () => serial(stage, Math.min(100_000, options.serialBytes / 5)),
      () => serial(stage, options.serialBytes),
    );
    const refusedAtGate = { count: 0 };
    await part(
      'MQTT to the gate',
      ['gate'],
      async () => void (await toGate(stage, options.warmUp)),
      async () => {
        refusedAtGate.count = await toGate(stage, options.toGate);
      },
    );
    await part(
      'MQTT to the cloud',
      ['cloud'],
      () => toCloud(stage, options.warmUp),
      () => toCloud(stage, options.toCloud),
    );
    const answers: Record<string, number> = {};
    await part(
      'HTTP',
      ['cloud'],
      () => http(stage, options.warmUp, {}),
      () => http(stage, options.requests, answers),
    );
    await genuineGuest(stage);
    const after = await standing(stage);
    if (JSON.stringify(before) !== JSON.stringify(after))
      stage.unanswered.push(`the gate is not as it was: ${JSON.stringify(before)} is now ${JSON.stringify(after)}`);
    const refusals = await reasons(stage);
    const quarantined = (await venue.ask<{ n: number }>('SELECT coalesce(sum(times), 0)::int AS n FROM quarantine'))[0]?.n ?? 0;
    return { strains, genuine: stage.genuine, unanswered: stage.unanswered, sent: options, quarantined, refusedAtGate: refusedAtGate.count, refusals, answers };
  } finally {
    await venue.close();
    rmSync(probes, { recursive: true, force: true });
  }
}

async function tokensOf({ dir, stack }: Venue): Promise<readonly string[]> {
  const operator = (await stack.cloud('operator', 'add', 'prover', '--any-actor')).trim().split('\n').at(-1) as string;
  return [operator.trim(), readFileSync(join(dir, 'arena-north.token'), 'utf8').trim()];
}

/** A guest with a ticket goes in: what is genuine must be taken whatever else comes. */
async function genuineGuest(stage: Stage): Promise<void> {
  const gate = stage.venue.gates[0] as Venue['gates'][number];
  await enter(gate, stage.venue.ticket());
  stage.genuine += 1;
}

/** Reads the gate's state that no hostile message may change. */
async function standing({ venue }: Stage): Promise<unknown> {
  const { modes, fire, manifests, ledger } = await (venue.gates[0] as Venue['gates'][number]).fresh();
  return { modes, fire, manifests: manifests.map(({ event_id, version }) => [event_id, version]), epoch: ledger.epoch };
}

/** Has the processes give back what they do not need, and say what remains. */
async function collect(stage: Stage, who: readonly ('gate' | 'cloud')[]): Promise<void> {
  for (const one of who) process.kill(stage.pids[one], 'SIGUSR2');
  await sleep(COLLECT_MS);
}

function strainOf({ probes, pids }: Stage, part: string, who: 'gate' | 'cloud', when: { readonly fromMs: number; readonly uptoMs: number }): Strain {
  const lines = readFileSync(join(probes, String(pids[who])), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as ProbeLine);
  const during = lines.filter(({ at }) => at >= when.fromMs && at <= when.uptoMs);
  const last = (list: readonly ProbeLine[]) => list.at(-1)?.rss ?? Number.NaN;
  return {
    part,
    who,
    heldBeforeMb: lines.findLast(({ at, held }) => held !== undefined && at < when.fromMs)?.held ?? Number.NaN,
    heldMostMb: Math.max(...lines.filter(({ at, held }) => held !== undefined && at >= when.fromMs).map(({ held }) => held as number)),
    heldAfterMb: lines.findLast(({ held }) => held !== undefined)?.held ?? Number.NaN,
    beforeMb: last(lines.filter(({ at }) => at < when.fromMs)),
    peakMb: Math.max(...during.map(({ rss }) => rss)),
    afterMb: last(lines),
    busyMs: Math.max(...during.map(({ busy }) => busy)),
    lateMs: Math.max(...during.map(({ late }) => late)),
  };
}

/** Random bytes, as fast as the pseudo-terminal takes them, with a guest after each tenth of them. */
async function serial(stage: Stage, bytes: number): Promise<void> {
  const gate = stage.venue.gates[0] as Venue['gates'][number];
  const file = await open(gate.reader.guestPath, 'w');
  try {
    for (let sent = 0; sent < bytes; sent += CHUNK_BYTES) {
      await file.write(randomBytes(Math.min(CHUNK_BYTES, bytes - sent)));
      if (Math.floor((sent + CHUNK_BYTES) / (bytes / 10)) > Math.floor(sent / (bytes / 10)) && bytes > 200_000) {
        // What was begun ends here, and is no part of the guest's code.
        await file.write('\r\n');
        await silence(gate);
        await genuineGuest(stage);
      }
    }
    await file.write('\r\n');
    await silence(gate);
  } finally {
    await file.close();
  }
}

/** Nothing more is answered: what was in the wire is through. Else a guest would be told what was meant for the rubbish before. */
async function silence(gate: Venue['gates'][number]): Promise<void> {
  let lastMs = performance.now();
  const unwatch = gate.watch((item) => {
    if ('line' in item) lastMs = performance.now();
  });
  const deadline = performance.now() + ANSWER_MS * 3;
  while (performance.now() - lastMs < SILENT_MS && performance.now() < deadline) await sleep(50);
  unwatch();
}

/** Hostile messages to the gate, WINDOW at a time; each request must be answered with an error. Answers how many were. */
async function toGate(stage: Stage, count: number): Promise<number> {
  const { venue } = stage;
  const gate = (venue.gates[0] as Venue['gates'][number]).gate;
  const own = `stile/1/${gate}`;
  let refused = 0;
  for (let sent = 0; sent < count; sent += WINDOW) {
    venue.spy.received.length = 0;
    let asked = 0;
    for (let n = 0; n < WINDOW; n++) {
      const command = COMMANDS[randomInt(COMMANDS.length)] as string;
      const plain = ['ack', 'manifest/want', 'overlay', `lookup/${randomInt(9)}`, `time/${randomInt(9)}`, 'alert/fire'].map((rest) => `${own}/${rest}`);
      const topics = [
        ...plain,
        `${own}/request/${command}`,
        `stile/1/arena/_all/request/${command}`,
        `${own}/request/${command}`,
        'stile/1/arena/ghost/ledger',
        'stile/1/arena/cloud/ledger',
      ];
      const topic = topics[randomInt(topics.length)] as string;
      if (topic.includes('/request/')) asked += 1;
      await venue.spy.publish(topic, hostileRequest(topic) ?? rubbish(), { qos: 1, retain: topic.includes('/request/') && randomInt(10) === 0 });
      // A retained request is refused each time it is seen: it must not be seen again with the next connection.
      if (topic.includes('/request/')) await venue.spy.publish(topic, '', { qos: 1, retain: true });
    }
    const responses = () => venue.spy.received.filter(({ topic }) => topic.startsWith(`${own}/response/`));
    await eventually(`${asked} answers to hostile requests`, () => responses().length >= asked, ANSWER_MS);
    for (const { topic, payload } of responses()) {
      const { status, error } = JSON.parse(payload.toString()) as { status: string; error?: { code: string; message: string } };
      if (status === 'error' && (error?.message ?? '') !== '') refused += 1;
      else stage.unanswered.push(`${topic} answered ${payload.toString().slice(0, 200)}`);
    }
    if (sent % (WINDOW * 40) === 0) await genuineGuest(stage);
  }
  return refused;
}

/** Some requests are nearly right: late, or of another life. */
function hostileRequest(topic: string): string | null {
  if (!topic.includes('/request/') || randomInt(2) === 0) return null;
  const at = (ms: number) => new Date(Date.now() + ms).toISOString();
  const late = { schema: 1, transaction: `t-${randomInt(1_000_000)}`, actor: 'a', reason: 'b', issued_at: at(-600_000), expires_at: at(-300_000), args: {} };
  const changed = [
    late,
    { ...late, expires_at: at(86_400_000), issued_at: at(86_000_000), args: { direction: 'sideways', units: -4 } },
    { ...late, transaction: { $gt: '' } },
    { ...late, expires_at: 'never' },
  ];
  return JSON.stringify(changed[randomInt(changed.length)]);
}

/** Hostile messages in an enrolled gate's name, and in nobody's; each must be in quarantine or among the refused. */
async function toCloud(stage: Stage, count: number): Promise<void> {
  const { venue } = stage;
  const gate = (venue.gates[0] as Venue['gates'][number]).gate;
  const put = async () => (await venue.ask<{ n: number }>('SELECT coalesce(sum(times), 0)::int AS n FROM quarantine'))[0]?.n ?? 0;
  const refused = async () => metric(await (await fetch(venue.stack.metricsUrl)).text(), 'stile_ingest_refused');
  const [putBefore, refusedBefore] = [await put(), await refused()];
  let toQuarantine = 0;
  let toRefuse = 0;
  const { over } = await holdQuarantine(stage);
  for (let sent = 0; sent < count; sent += WINDOW) {
    const batch = Array.from({ length: WINDOW }, () => {
      const kinds = ['ledger', 'ledger', 'state', 'info', 'health', 'alert/fire', 'lookup', 'time', 'nonsense/x'];
      const kind = kinds[randomInt(kinds.length)] as string;
      if (kind === 'lookup' || kind === 'time') toRefuse += 1;
      else if (kind !== 'nonsense/x') toQuarantine += 1;
      return venue.spy.publish(`stile/1/${gate}/${kind}`, rubbish(), { qos: 1 });
    });
    await Promise.all(batch);
    if (sent % (WINDOW * 40) === 0) await genuineGuest(stage);
  }
  await over;
  await eventually('every hostile message in quarantine', async () => (await put()) - putBefore >= toQuarantine, ANSWER_MS * 3).catch(async () => {
    stage.unanswered.push(`${toQuarantine} messages should be in quarantine, and ${(await put()) - putBefore} are`);
  });
  await eventually('every hostile question refused', async () => (await refused()) - refusedBefore >= toRefuse, ANSWER_MS).catch(async () => {
    stage.unanswered.push(`${toRefuse} questions should be among the refused, and ${(await refused()) - refusedBefore} are`);
  });
}

/** Lets nothing into quarantine for HOLD_MS, as a database that is slow: what the cloud holds at the end of it is what a flood makes it hold at most. */
async function holdQuarantine({ venue, pids }: Stage): Promise<{ readonly over: Promise<void> }> {
  const owner = await connectOwner(venue.database.url);
  await owner.query('BEGIN');
  await owner.query('LOCK TABLE quarantine IN EXCLUSIVE MODE');
  const release = async () => {
    await sleep(HOLD_MS);
    process.kill(pids.cloud, 'SIGUSR2');
    await sleep(HOLD_COLLECT_MS);
    await owner.query('ROLLBACK');
    await owner.close();
  };
  return { over: release() };
}

const metric = (text: string, name: string): number => Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(text)?.[1] ?? Number.NaN);

/** Hostile requests, WINDOW at a time: each path of the description with senseless ids, tokens and bodies; and bytes that are no HTTP. */
async function http(stage: Stage, count: number, answers: Record<string, number>): Promise<void> {
  const { cloudUrl } = stage.venue.stack;
  const { paths } = (await (await fetch(`${cloudUrl}/openapi.json`)).json()) as {
    paths: Record<string, Record<string, { requestBody?: { content?: Record<string, { schema?: { required?: string[] } }> } }>>;
  };
  const routes = Object.entries(paths).flatMap(([path, methods]) => Object.keys(methods).map((method) => [method.toUpperCase(), path] as const));
  const closed = routes.filter(([, path]) => !['/healthz', '/readyz', '/openapi.json'].includes(path));
  const tokens = await stage.tokens();
  const count1 = (what: string) => {
    answers[what] = (answers[what] ?? 0) + 1;
  };
  for (let sent = 0; sent < count; sent += WINDOW) {
    await Promise.all(
      Array.from({ length: WINDOW }, async () => {
        if (randomInt(6) === 0) return count1(await rawAnswer(cloudUrl));
        const [method, path] = closed[randomInt(closed.length)] as readonly [string, string];
        const url = `${cloudUrl}${path.replace(/\{[^}]+\}/g, () => encodeURI(word()))}${randomInt(2) === 0 ? `?${word()}=${word()}&since=${word()}&after=${word()}` : ''}`;
        // Where nothing in a body is required, one of another shape is no offence: there the door must hold.
        const schema = paths[path]?.[method.toLowerCase()]?.requestBody?.content?.['application/json']?.schema;
        const bodyless = method !== 'GET' && (schema?.required ?? []).length === 0;
        const genuine = !bodyless && randomInt(3) === 0 ? (tokens[randomInt(tokens.length)] as string) : null;
        const token = genuine ?? (randomInt(2) === 0 ? randomBytes(24).toString('base64url') : null);
        const headers: Record<string, string> = token === null ? {} : { authorization: `Bearer ${token}` };
        const body = method === 'GET' || method === 'HEAD' ? undefined : randomInt(50) === 0 ? Buffer.alloc(5 * 1024 * 1024, 0x20) : rubbish();
        const init = {
          method,
          headers: { ...headers, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
          ...(body === undefined ? {} : { body: body as Uint8Array<ArrayBuffer> }),
        };
        const response = await fetch(url, init).catch((error: Error) => error);
        if (response instanceof Error) {
          // A body that is too large may be answered and cut off while it is still being sent.
          return count1(`cut off (${String((response.cause as { code?: string } | undefined)?.code ?? response.message)})`);
        }
        const text = await response.text();
        count1(String(response.status));
        const refusal = response.status >= 400 && response.status < 500 && /"success":false,"error":"[A-Z_]+","message":".+"/.test(text);
        // Who may ask is told what there is at a senseless place: nothing.
        const asked = genuine !== null && method === 'GET' && response.status < 500;
        if (!refusal && !asked) stage.unanswered.push(`${method} ${url.slice(0, 200)}: ${response.status} ${text.slice(0, 200)}`);
      }),
    );
    if (sent % (WINDOW * 20) === 0) {
      const { status } = await fetch(`${cloudUrl}/readyz`);
      if (status !== 200) stage.unanswered.push(`a genuine request was answered with ${status}`);
    }
  }
}

/** Bytes on a bare connection: answered with a 4xx, or the connection is closed. */
function rawAnswer(cloudUrl: string): Promise<string> {
  return new Promise((resolve) => {
    let text = '';
    const socket = connect(Number(new URL(cloudUrl).port), '127.0.0.1', () => socket.end(rawRequest()));
    socket.on('data', (bytes: Buffer) => {
      text += bytes.toString('latin1');
    });
    socket.on('error', () => undefined).on('close', () => resolve(`bare ${/^HTTP\/1\.1 (\d+)/.exec(text)?.[1] ?? 'closed'}`));
    setTimeout(() => socket.destroy(), ANSWER_MS).unref();
  });
}

/** Every row that came of it is a refusal with a known reason; grants are the genuine guests' alone. */
async function reasons(stage: Stage): Promise<number> {
  const rows = await stage.venue.settled();
  const grants = rows.filter(({ kind }) => kind === 'grant').length;
  if (grants !== stage.genuine) stage.unanswered.push(`${grants} were admitted, and ${stage.genuine} had a ticket`);
  for (const { kind, entry } of rows)
    if (kind === 'refusal' && !Reason.safeParse(entry['reason']).success)
      stage.unanswered.push(`refused without a reason: ${JSON.stringify(entry).slice(0, 200)}`);
  return rows.filter(({ kind }) => kind === 'refusal').length;
}

/** MB that a process may grow by, and ms that its loop may stand by its own doing. How late it is by the clock is printed beside it: on a busy machine that is others' work. */
export const GROWTH_MB = 20;
export const STALL_MS = 50;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      'serial-bytes': { type: 'string', default: '1000000' },
      'to-gate': { type: 'string', default: '3500' },
      'to-cloud': { type: 'string', default: '3500' },
      requests: { type: 'string', default: '3000' },
    },
  });
  const result = await hostile({
    serialBytes: Number(values['serial-bytes']),
    toGate: Number(values['to-gate']),
    toCloud: Number(values['to-cloud']),
    requests: Number(values.requests),
    warmUp: 300,
    quietMs: 3_000,
    say: (line) => void process.stdout.write(`  ${line}\n`),
  });
  const { sent, strains, unanswered } = result;
  let ok = unanswered.length === 0;
  for (const { part, who, beforeMb, peakMb, afterMb, heldBeforeMb, heldMostMb, heldAfterMb, busyMs, lateMs } of strains) {
    const growth = heldMostMb - heldBeforeMb;
    // A gate has little memory: there all that the process takes is bounded. A server's heap is given room by the runtime as it is used.
    ok &&= growth < GROWTH_MB && busyMs < STALL_MS && (who === 'cloud' || afterMb - beforeMb < GROWTH_MB);
    process.stdout.write(
      `figure: ${part}: the ${who} holds ${growth >= 0 ? '+' : ''}${growth.toFixed(1)} MB (${heldBeforeMb} before, ${heldMostMb} at most, ${heldAfterMb} after, collected); resident ${beforeMb} MB before, ${peakMb} at most, ${afterMb} after; its loop was kept busy for ${busyMs} ms at a time at most, and late by ${lateMs.toFixed(1)} ms by the clock\n`,
    );
  }
  process.stdout.write(
    `figure: ${sent.serialBytes} random serial bytes, ${sent.toGate + sent.toCloud + sent.requests} hostile messages (${sent.toGate} MQTT to the gate, ${sent.toCloud} to the cloud, ${sent.requests} HTTP): ${unanswered.length} neither refused nor quarantined; ${result.refusedAtGate} requests refused by the gate, ${result.quarantined} messages quarantined, ${result.refusals} refusals recorded with their reasons, HTTP ${JSON.stringify(result.answers)}; ${result.genuine} genuine guests in between were admitted\n`,
  );
  for (const line of unanswered.slice(0, 20)) process.stdout.write(`  ${line}\n`);
  process.exitCode = ok ? 0 : 1;
}

if (import.meta.main) {
  await main();
  process.exit();
}
