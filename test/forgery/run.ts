/** Forged frames through the real framing, recognition and decider; genuine ones in between, so that a gate that refuses all is found as well. */
import type { Presentation } from '../../daemon/ports.ts';
import { type FramingState, initialFraming, stepFraming } from '../../daemon/reader/framing.ts';
import { createRandom, type Random } from '../../testkit/prng.ts';
import { type Fixture, openFixture } from './fixture.ts';
import { FORGERIES, type Forgery, type Material } from './forgeries.ts';

/** A genuine code after so many forged ones. */
const GENUINE_EVERY = 50;
/** Codes that forgeries are made from, of each kind. */
const MATERIAL = 200;
/** Between two codes before the reader, ms. */
const STEP_MS = 100;
/** Idle work of the store after so many codes. */
const TIDY_EVERY = 2_000;
/** Examples kept of what should not have been. */
const MAX_EXAMPLES = 5;

export interface ForgeryResult {
  readonly forged: number;
  /** Frames that the framing made of them. */
  readonly frames: number;
  readonly kinds: number;
  readonly admitted: number;
  /** Forged and admitted, by kind. */
  readonly broken: ReadonlyMap<string, number>;
  readonly genuine: number;
  readonly genuineAdmitted: number;
  readonly examples: readonly string[];
}

export async function runForgeries(options: { readonly count: number; readonly seed: number }): Promise<ForgeryResult> {
  const random = createRandom(options.seed);
  const genuineCount = Math.floor(options.count / GENUINE_EVERY);
  const fixture = await openFixture(random, MATERIAL + genuineCount);
  try {
    return feed(fixture, random, options.count);
  } finally {
    fixture.close();
  }
}

function feed(fixture: Fixture, random: Random, count: number): ForgeryResult {
  const shown: string[] = [];
  const material: Material = {
    fixture,
    random,
    stile: [
      ...Array.from({ length: MATERIAL }, () => fixture.fresh('stile', random.pick(['ours', 'spare'] as const))),
      ...fixture.listed.signed.slice(0, MATERIAL),
    ],
    pretix: Array.from({ length: MATERIAL }, () => fixture.fresh('pretix', random.pick(['pretix', 'pretixSpare'] as const))),
    opaque: fixture.listed.opaque.slice(0, MATERIAL),
    shown,
  };
  const kinds = Object.entries(FORGERIES);
  const reader = createReader(fixture, random);
  const genuineTexts = new Set([...material.stile, ...material.pretix, ...material.opaque]);
  const broken = new Map<string, number>();
  const examples: string[] = [];
  let [frames, admitted, genuine, genuineAdmitted] = [0, 0, 0, 0];
  for (let n = 0; n < count; n++) {
    if (n % GENUINE_EVERY === 0) {
      const code = genuineCode(fixture, random, genuine);
      const answers = reader.show(code);
      genuine += 1;
      if (answers.length === 1 && answers[0] === 'grant') genuineAdmitted += 1;
      else if (examples.length < MAX_EXAMPLES) examples.push(`a genuine code was not admitted: ${answers.join(', ') || 'no frame'}`);
      shown.push(code);
    }
    const [kind, forge] = kinds[n % kinds.length] as (typeof kinds)[number];
    const answers = reader.show(forgedText(forge, material, genuineTexts));
    frames += answers.length;
    const grants = answers.filter((answer) => answer === 'grant').length;
    if (grants > 0) {
      admitted += grants;
      broken.set(kind, (broken.get(kind) ?? 0) + grants);
      if (examples.length < MAX_EXAMPLES) examples.push(`admitted: ${kind}, number ${n}`);
    }
    if (n % TIDY_EVERY === TIDY_EVERY - 1) reader.maybeCheckpoint();
  }
  return { forged: count, frames, kinds: kinds.length, admitted, broken, genuine, genuineAdmitted, examples };
}

/** Chance may put a genuine code together again (the same key's id, the same half): that is no forgery. */
function forgedText(forge: Forgery, material: Material, genuine: ReadonlySet<string>): string {
  for (;;) {
    const text = forge(material);
    if (!genuine.has(text)) return text;
  }
}

/** In turn: signed and sold after the last sync, by both keys; pretix's by both; listed and opaque; listed and signed. */
function genuineCode(fixture: Fixture, random: Random, n: number): string {
  const at = MATERIAL + Math.floor(n / 4);
  switch (n % 4) {
    case 0:
      return fixture.fresh('stile', random.pick(['ours', 'spare'] as const));
    case 1:
      return fixture.fresh('pretix', random.pick(['pretix', 'pretixSpare'] as const));
    case 2:
      return fixture.listed.opaque[at] as string;
    default:
      return fixture.listed.signed[at] as string;
  }
}

/** Bytes in pieces, as serial ports give them, to frames, to decisions. A granted guest walks through. */
function createReader(fixture: Fixture, random: Random) {
  const config = { mode: 'crlf', silenceMs: 50 } as const;
  let framing: FramingState = initialFraming;
  let nowMs = 1_000;
  let id = 0;
  const decide = (bytes: Uint8Array): string => {
    const presentation: Presentation = { bytes, direction: 'in', reader: 'in', mode: 'controlled', atMs: nowMs, lastByteMs: nowMs, online: false };
    const decision = fixture.core.decide(++id, presentation, fixture.stamp(nowMs), () => 0);
    if ('ask' in decision) throw new Error('a gate that is offline asks nobody');
    if (decision.verdict.kind !== 'grant') return decision.verdict.reason;
    fixture.core.record({ kind: 'passage', of: decision.row, direction: 'in', unit: 1, outcome: 'passed' }, fixture.stamp(nowMs));
    return 'grant';
  };
  return {
    /** Answers what was decided of each frame, `grant` or the reason. */
    show(code: string): string[] {
      nowMs += STEP_MS;
      const bytes = Buffer.from(`${code}\r\n`, 'latin1');
      const answers: string[] = [];
      for (let at = 0; at < bytes.length; ) {
        const size = 1 + random.below(64);
        const step = stepFraming(config, framing, bytes.subarray(at, at + size), nowMs);
        framing = step.state;
        for (const framed of step.framed) if (framed.kind === 'frame') answers.push(decide(framed.bytes));
        at += size;
      }
      return answers;
    },
    maybeCheckpoint() {
      for (let n = 0; n < 100 && fixture.core.idle(fixture.stamp(nowMs), true); n++);
    },
  };
}
