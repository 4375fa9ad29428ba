/** Payloads, topics and requests that nobody should send: made by chance, and never right by chance. */
import { randomBytes, randomInt } from 'node:crypto';

const pick = <T>(list: readonly T[]): T => list[randomInt(list.length)] as T;
const deep = (depth: number, open: string, close: string) => open.repeat(depth) + close.repeat(depth);

/** Bytes that are no message of any kind of ours: no UTF-8, no JSON, or JSON of another shape. */
export function rubbish(): Buffer {
  return Buffer.from(
    pick<() => string | Buffer>([
      () => randomBytes(randomInt(1, 2_000)),
      () => Buffer.concat([Buffer.from('{"schema":1,"gate":"'), randomBytes(40), Buffer.from('"}')]),
      () => '{"schema":1,',
      () => deep(5_000, '[', ']'),
      () => deep(5_000, '{"a":', '1}').replace('1}'.repeat(5_000), `1${'}'.repeat(5_000)}`),
      () => `{"schema":${pick(['2', '-1', '"1"', 'null', '1e400', '1.5', '[1]'])}}`,
      () => `{"schema":1,"__proto__":{"polluted":true},"constructor":{"prototype":{"polluted":true}}}`,
      () => JSON.stringify({ schema: 1, gate: 'x'.repeat(randomInt(1, 100_000)), entries: [] }),
      () => JSON.stringify({ schema: 1, epochs: 'none', events: 7, entries: {}, state: 'perhaps' }),
      () => `{"schema":1,"epochs":[{"epoch":-1,"upto_seq":1e300,"missing":[[1,${'9'.repeat(300)}]]}]}`,
      () => `"${'\\ud800'.repeat(100)}"`,
      () => `{"schema":1,"a":"\\u0000${'\\u0000'.repeat(randomInt(1, 50))}"}`,
      () => 'null',
      () => `[${'0,'.repeat(randomInt(1, 20_000))}0]`,
      () => `{"schema":1,"n":${randomInt(1_000)},"n":"twice","tickets":[{"ticket_ref":"${'z'.repeat(32)}"}]}`,
      () => Buffer.alloc(randomInt(1, 250_000), 0x7b),
    ])(),
  );
}

/** Words of topics and paths that mean nothing. */
export const word = (): string =>
  pick([
    '',
    '..',
    '%00',
    '%ff%fe',
    "';DROP TABLE tickets;--",
    '0',
    '-1',
    '1e9',
    'ü'.repeat(20),
    'x'.repeat(180),
    '{{7*7}}',
    '%2e%2e%2fetc%2fpasswd',
    'null',
    'true',
  ]);

/** Bytes that no HTTP server should take for a request, or only to refuse it. */
export function rawRequest(): Buffer {
  return Buffer.from(
    pick<() => string | Buffer>([
      () => randomBytes(randomInt(1, 4_000)),
      () => `GET /${'a'.repeat(20_000)} HTTP/1.1\r\nHost: x\r\n\r\n`,
      () => `GET /healthz HTTP/1.1\r\nHost: x\r\n${'X-A: b\r\n'.repeat(5_000)}\r\n`,
      () => `POST /scan HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /metrics`,
      () => `POST /scan HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n`,
      () => 'GET / HTTP/9.9\r\n\r\n',
      () => `BREW /coffee HTTP/1.1\r\nHost: x\r\n\r\n`,
      () => 'GET /healthz HTTP/1.1\r\n\r\n',
      () => '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03',
    ])(),
  );
}
