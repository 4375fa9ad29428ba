import { ReadlineParser } from '@serialport/parser-readline';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { MAX_FRAME_BYTES } from '../../contract/limits.ts';
import { type Framed, type FrameMode, initialFraming, PARTIAL_TIMEOUT_MS, stepFraming } from './framing.ts';

/** Feeds chunks, 1 ms apart, and answers what came out: frames as text, garbled as their reason. */
function feed(mode: FrameMode, ...chunks: (string | Uint8Array)[]): string[] {
  return feedTimed(
    mode,
    chunks.map((chunk, index) => [index, chunk]),
  );
}

function feedTimed(mode: FrameMode, chunks: readonly (readonly [number, string | Uint8Array])[], silenceMs = 50): string[] {
  return run(mode, chunks, silenceMs).map((framed) => (framed.kind === 'frame' ? Buffer.from(framed.bytes).toString('latin1') : `!${framed.why}`));
}

function run(mode: FrameMode, chunks: readonly (readonly [number, string | Uint8Array])[], silenceMs = 50): Framed[] {
  let state = initialFraming;
  const all: Framed[] = [];
  for (const [atMs, chunk] of chunks) {
    const step = stepFraming({ mode, silenceMs }, state, typeof chunk === 'string' ? Buffer.from(chunk, 'latin1') : chunk, atMs);
    state = step.state;
    all.push(...step.framed);
  }
  return all;
}

const TERMINATORS: Readonly<Record<Exclude<FrameMode, 'silence'>, readonly string[]>> = {
  cr: ['\r', '\r\n', '\n\r'],
  lf: ['\n', '\r\n', '\n\r'],
  crlf: ['\r\n', '\r', '\n'],
  stx_etx: ['\x03', '\x03\r\n'],
};

describe.each(Object.entries(TERMINATORS))('%s', (name, terminators) => {
  const mode = name as FrameMode;
  const before = mode === 'stx_etx' ? '\x02' : '';
  const code = fc.string({ unit: fc.constantFrom(...'ABCxyz019-:\0\xff'), minLength: 1, maxLength: 40 });

  test('any fragmentation gives the same frames, whichever way the terminator is written', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(code, fc.constantFrom(...terminators)), { maxLength: 6 }), fc.array(fc.nat(60)), (codes, cuts) => {
        const wire = codes.map(([text, end]) => before + text + end).join('');
        const chunks: string[] = [];
        let rest = wire;
        for (const cut of cuts) {
          chunks.push(rest.slice(0, cut));
          rest = rest.slice(cut);
        }
        expect(feed(mode, ...chunks, rest)).toEqual(codes.map(([text]) => text));
      }),
    );
  });

  test('no bytes at all stop it, and no frame is too long', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 3_000 }), { maxLength: 5 }), (chunks) => {
        const framed = run(mode, [
          ...chunks.map((chunk, index) => [index, chunk] as const),
          [10, `\r\n${mode === 'stx_etx' ? '\x03' : ''}${before}GOOD${terminators[0]}`],
        ]);
        for (const one of framed) expect(one.kind === 'frame' ? one.bytes.length : 1).toBeLessThanOrEqual(MAX_FRAME_BYTES);
        const last = framed.at(-1);
        expect(last?.kind === 'frame' && Buffer.from(last.bytes).toString('latin1')).toBe('GOOD');
      }),
      { numRuns: 50 },
    );
  });

  test('1,024 bytes fit; one more is dropped up to the terminator and counted once', () => {
    const end = terminators[0] as string;
    expect(feed(mode, before + 'x'.repeat(1_024) + end)).toEqual(['x'.repeat(1_024)]);
    expect(feed(mode, before + 'x'.repeat(1_025), 'y'.repeat(5_000), `zz${end}`, `${before}GOOD${end}`)).toEqual(['!too_long', 'GOOD']);
  });

  test('a beginning that was left alone does not spoil the next code', () => {
    const whole = `${before}GOOD${terminators[0]}`;
    expect(
      feedTimed(mode, [
        [0, `${before}NOI`],
        [PARTIAL_TIMEOUT_MS, whole],
      ]),
    ).toEqual(['!framing', 'GOOD']);
    expect(
      feedTimed(mode, [
        [0, `${before}GO`],
        [PARTIAL_TIMEOUT_MS - 1, `OD${terminators[0]}`],
      ]),
    ).toEqual(['GOOD']);
  });

  test("says when the code's last byte came, not its terminator", () => {
    const framed = run(mode, [
      [5, `${before}CO`],
      [7, 'DE'],
      [9, (terminators[1] as string).slice(0, 1)],
      [11, (terminators[1] as string).slice(1)],
    ]);
    expect(framed).toEqual([{ kind: 'frame', bytes: new Uint8Array(Buffer.from('CODE')), lastByteMs: 7 }]);
  });
});

test('empty frames are nothing', () => {
  expect(feed('cr', '\r\r\n\r')).toEqual([]);
  expect(feed('lf', '\n\n\r\n')).toEqual([]);
  expect(feed('crlf', '\r\n\r\n\n\r')).toEqual([]);
  expect(feed('stx_etx', '\x02\x03\x02\x03')).toEqual([]);
});

test('in cr mode a line feed within a code is part of it', () => {
  expect(feed('cr', 'A\nB\n\rC\n\n\r')).toEqual(['A\nB', 'C\n']);
});

test('between STX and ETX: rubbish outside is counted once a run, a new STX begins anew', () => {
  expect(feed('stx_etx', 'xx', 'yy\x02A\x03\r\n\0\x02B\x02C\x03zz\x03\x02D\x03')).toEqual(['!framing', 'A', '!framing', 'C', '!framing', 'D']);
});

describe('silence', () => {
  test('ends a code by itself, at the deadline that was asked for', () => {
    const config = { mode: 'silence', silenceMs: 30 } as const;
    const begun = stepFraming(config, initialFraming, Buffer.from('CODE'), 100);
    expect([begun.framed, begun.deadlineMs]).toEqual([[], 130]);
    const more = stepFraming(config, begun.state, Buffer.from('2\r\n'), 120);
    expect([more.framed, more.deadlineMs]).toEqual([[], 150]);
    const early = stepFraming(config, more.state, new Uint8Array(0), 149);
    expect([early.framed, early.deadlineMs]).toEqual([[], 150]);
    const ended = stepFraming(config, early.state, new Uint8Array(0), 150);
    expect(ended.framed).toEqual([{ kind: 'frame', bytes: new Uint8Array(Buffer.from('CODE2')), lastByteMs: 120 }]);
    expect(ended.deadlineMs).toBeNull();
  });

  test('ends a code also where only the next one shows the silence', () => {
    expect(
      feedTimed('silence', [
        [0, 'ONE'],
        [20, 'ONE'],
        [71, 'TWO'],
        [200, ''],
      ]),
    ).toEqual(['ONEONE', 'TWO']);
  });

  test('too long ends with the silence', () => {
    expect(
      feedTimed('silence', [
        [0, 'x'.repeat(2_000)],
        [10, 'yy'],
        [70, 'GOOD'],
        [200, ''],
      ]),
    ).toEqual(['!too_long', 'GOOD']);
  });
});

test("agrees with serialport's ReadlineParser wherever that is bounded and one delimiter is used", async () => {
  const codes = fc.array(fc.string({ unit: fc.constantFrom(...'ABC09'), minLength: 1, maxLength: 20 }), { maxLength: 8 });
  await fc.assert(
    fc.asyncProperty(
      codes,
      fc.array(fc.nat(30), { maxLength: 10 }),
      fc.constantFrom(['cr', '\r'] as const, ['lf', '\n'] as const, ['crlf', '\r\n'] as const),
      async (lines, cuts, [mode, delimiter]) => {
        let rest = lines.map((line) => line + delimiter).join('');
        const chunks: string[] = [];
        for (const cut of cuts) {
          chunks.push(rest.slice(0, cut));
          rest = rest.slice(cut);
        }
        chunks.push(rest);
        const parser = new ReadlineParser({ delimiter, encoding: 'latin1' });
        const parsed: string[] = [];
        parser.on('data', (line: string) => parsed.push(line));
        for (const chunk of chunks) parser.write(Buffer.from(chunk));
        await new Promise((resolve) => parser.end(resolve));
        expect(feed(mode, ...chunks)).toEqual(parsed);
      },
    ),
    { numRuns: 50 },
  );
});
