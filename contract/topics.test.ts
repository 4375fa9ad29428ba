import fc from 'fast-check';
import { expect, test } from 'vitest';
import { COMMANDS } from './requests.ts';
import { DELIVERY, gateSubscriptions, INGEST_SUBSCRIPTIONS, parseTopic, type Topic, topicOf } from './topics.ts';

const part = fc.stringMatching(/^[a-z0-9][a-z0-9-]{0,30}$/).filter((name) => name !== 'cloud');
const gate = fc.tuple(part, part).map(([site, id]) => `${site}/${id}`);
const ledgerGate = fc.oneof(
  gate,
  part.map((site) => `${site}/cloud`),
  fc.tuple(part, part).map(([site, device]) => `${site}/@${device}`),
);
const command = fc.constantFrom(...COMMANDS);
const topic: fc.Arbitrary<Topic> = fc.oneof(
  fc.record({ kind: fc.constantFrom('state', 'info', 'health', 'stats', 'event', 'lookup', 'time', 'ack', 'want', 'overlay'), gate }),
  fc.record({ kind: fc.constant('ledger' as const), gate: ledgerGate }),
  fc.record({
    kind: fc.constant('alert' as const),
    gate,
    alert: fc.oneof(
      fc.constantFrom('board', 'clone'),
      part.map((name) => `reader-${name}`),
    ),
  }),
  fc.record({ kind: fc.constantFrom('request', 'response'), gate, command }),
  fc.record({ kind: fc.constantFrom('lookup_answer', 'time_answer'), gate, n: fc.nat() }),
  fc.record({ kind: fc.constant('site_request' as const), site: part, command }),
  fc.record({ kind: fc.constant('cloud_state' as const), host: fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9.-]{0,63}$/) }),
);

/** Tells whether an MQTT filter matches a topic, as the specification says. */
function matches(filter: string, name: string): boolean {
  const [want, have] = [filter.split('/'), name.split('/')];
  return want.length === have.length && want.every((level, i) => level === '+' || level === have[i]);
}

test('every topic is read as it was written, and none has a wildcard', () => {
  fc.assert(
    fc.property(topic, (given) => {
      const text = topicOf(given);
      expect(parseTopic(text)).toEqual(given);
      expect(text).not.toMatch(/[+#\0]/);
      expect(new TextEncoder().encode(text).length).toBeLessThan(200);
    }),
  );
});

test.each<[string, Topic]>([
  ['stile/1/arena/north-03/ledger', { kind: 'ledger', gate: 'arena/north-03' }],
  ['stile/1/arena/cloud/ledger', { kind: 'ledger', gate: 'arena/cloud' }],
  ['stile/1/arena/cloud/ledger/phone-4', { kind: 'ledger', gate: 'arena/@phone-4' }],
  ['stile/1/arena/north-03/manifest/want', { kind: 'want', gate: 'arena/north-03' }],
  ['stile/1/arena/north-03/alert/reader-in', { kind: 'alert', gate: 'arena/north-03', alert: 'reader-in' }],
  ['stile/1/arena/north-03/time/12', { kind: 'time_answer', gate: 'arena/north-03', n: 12 }],
  ['stile/1/arena/_all/request/mode', { kind: 'site_request', site: 'arena', command: 'mode' }],
  ['stile/1/_cloud/ingest-1.example/state', { kind: 'cloud_state', host: 'ingest-1.example' }],
])('%s', (text, given) => {
  expect(parseTopic(text)).toEqual(given);
  expect(topicOf(given)).toBe(text);
});

test.each([
  '',
  'stile/1',
  'stile/1/',
  'stile/2/arena/north-03/state',
  'xstile/1/arena/north-03/state',
  '/stile/1/arena/north-03/state',
  'stile/1/arena/north-03',
  'stile/1/arena/north-03/',
  'stile/1/arena/north-03/state/',
  'stile/1/arena/north-03/state/x',
  'stile/1/arena/north-03/ledger/x',
  'stile/1/arena/north-03/manifest',
  'stile/1/arena/north-03/manifest/have',
  'stile/1/arena/north-03/request',
  'stile/1/arena/north-03/request/shutdown',
  'stile/1/arena/north-03/request/open/x',
  'stile/1/arena/north-03/alert/',
  'stile/1/arena/north-03/alert/lamp',
  'stile/1/arena/north-03/time/-1',
  'stile/1/arena/north-03/time/01',
  'stile/1/arena/north-03/time/1e3',
  'stile/1/arena/cloud/state',
  'stile/1/cloud/north-03/state',
  'stile/1/Arena/north-03/state',
  'stile/1/_all/north-03/state',
  'stile/1/arena/_all/state',
  'stile/1/arena/_all/request/open/x',
  'stile/1/_cloud/host/health',
  'stile/1/_cloud/-host/state',
  'stile/1/+/north-03/state',
  'stile/1/#',
])('%s is none of ours', (text) => {
  expect(parseTopic(text)).toBeNull();
});

test('parsing a topic never throws', () => {
  fc.assert(
    fc.property(
      fc.array(fc.oneof(part, fc.constantFrom('', '_all', '_cloud', 'cloud', 'request', 'open', 'ledger', 'state', '__proto__')), { maxLength: 6 }),
      (parts) => {
        const parsed = parseTopic(`stile/1/${parts.join('/')}`);
        if (parsed !== null) expect(topicOf(parsed)).toBe(`stile/1/${parts.join('/')}`);
      },
    ),
    { numRuns: 2_000 },
  );
});

test("a gate hears what is for it, its site's requests and ledgers, and nothing else", () => {
  const hears = (name: string) => gateSubscriptions('arena/north-03').some((filter) => matches(filter, name));
  for (const name of [
    'arena/north-03/ack',
    'arena/north-03/request/open',
    'arena/_all/request/mode',
    'arena/south-01/ledger',
    'arena/cloud/ledger',
    'arena/cloud/ledger/phone-4',
    'arena/north-03/lookup/3',
    'arena/north-03/manifest/want',
  ])
    expect(hears(`stile/1/${name}`)).toBe(true);
  for (const name of [
    'arena/south-01/ack',
    'arena/south-01/request/open',
    'other/south-01/ledger',
    'other/cloud/ledger/phone-4',
    'arena/south-01/state',
    'arena/north-03/response/open',
    'arena/north-03/lookup',
  ])
    expect(hears(`stile/1/${name}`)).toBe(false);
});

test('the cloud hears all that gates say of themselves, and every kind has its delivery', () => {
  const says: readonly Topic[] = [
    { kind: 'state', gate: 'a/b' },
    { kind: 'info', gate: 'a/b' },
    { kind: 'health', gate: 'a/b' },
    { kind: 'stats', gate: 'a/b' },
    { kind: 'ledger', gate: 'a/b' },
    { kind: 'alert', gate: 'a/b', alert: 'fire' },
    { kind: 'response', gate: 'a/b', command: 'open' },
    { kind: 'lookup', gate: 'a/b' },
    { kind: 'time', gate: 'a/b' },
  ];
  for (const name of says.map(topicOf)) expect(INGEST_SUBSCRIPTIONS.filter((filter) => matches(filter, name))).toHaveLength(1);
  for (const [kind, { retain, qos }] of Object.entries(DELIVERY)) {
    expect([0, 1]).toContain(qos);
    if (kind.includes('request')) expect(retain).toBe(false);
  }
});
