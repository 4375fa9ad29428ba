import { expect, test } from 'vitest';
import { bytesText, lineOf } from './readers-watch.ts';

test('bytes are shown as text, and control bytes by name', () => {
  expect(bytesText(Buffer.from(']Q1AB\r\n\0\xff\x80', 'latin1').toString('hex'))).toBe(']Q1AB<CR><LF><NUL><FF><80>');
});

test('a line of readers watch names the verdict on the framing', () => {
  const problem = { cause: 'the terminator', hint: 'set CR LF' };
  expect(lineOf({ reader: 'in', kind: 'frame', hex: '4142', problem })).toBe('in         frame    2 bytes  AB   ! the terminator. set CR LF');
});
