import { expect, test } from 'vitest';
import { topicOf } from '../../contract/topics.ts';
import { aclFile, CLOUD_IDENTITY, gateReads, gateWrites, INGEST_IDENTITY } from './broker-acl.ts';

const blockOf = (text: string, user: string): string => text.split('\n\n').find((block) => block.startsWith(`user ${user}\n`)) ?? '';

test('gives each gate a block of its own topics, sorted and once', () => {
  const text = aclFile([
    { gate: 'arena/north-04', revoked: false },
    { gate: 'arena/north-03', revoked: false },
    { gate: 'arena/north-04', revoked: false },
  ]);
  expect(text.match(/^user .*/gm)).toEqual([`user ${CLOUD_IDENTITY}`, `user ${INGEST_IDENTITY}`, 'user arena/north-03', 'user arena/north-04']);
  expect(blockOf(text, 'arena/north-03')).toBe(
    [
      'user arena/north-03',
      'topic readwrite stile/1/arena/north-03/alert/+',
      'topic write stile/1/arena/north-03/state',
      'topic write stile/1/arena/north-03/info',
      'topic write stile/1/arena/north-03/health',
      'topic write stile/1/arena/north-03/stats',
      'topic write stile/1/arena/north-03/ledger',
      'topic write stile/1/arena/north-03/handback',
      'topic write stile/1/arena/north-03/event',
      'topic write stile/1/arena/north-03/lookup',
      'topic write stile/1/arena/north-03/time',
      'topic write stile/1/arena/north-03/response/+',
      'topic read stile/1/arena/north-03/ack',
      'topic read stile/1/arena/north-03/manifest/want',
      'topic read stile/1/arena/north-03/overlay',
      'topic read stile/1/arena/north-03/request/+',
      'topic read stile/1/arena/north-03/lookup/+',
      'topic read stile/1/arena/north-03/time/+',
      'topic read stile/1/arena/_all/request/+',
      'topic read stile/1/arena/+/ledger',
      'topic read stile/1/arena/cloud/ledger/+',
    ].join('\n'),
  );
});

test('holds no pattern, and nothing that a gate writes is what only the cloud may say', () => {
  const text = aclFile([{ gate: 'arena/north-03', revoked: false }]);
  expect(text).not.toMatch(/^pattern|%[uc]/m);
  const gate = 'arena/north-03';
  const writes = gateWrites(gate);
  for (const kind of ['ack', 'want', 'overlay'] as const) expect(writes).not.toContain(topicOf({ kind, gate }));
  expect(writes.every((topic) => topic.startsWith(`stile/1/${gate}/`))).toBe(true);
  expect(gateReads(gate).filter((topic) => !topic.startsWith(`stile/1/${gate}/`))).toEqual([
    'stile/1/arena/_all/request/+',
    'stile/1/arena/+/ledger',
    'stile/1/arena/cloud/ledger/+',
  ]);
});

test('leaves a revoked gate without any right, also where it is named twice', () => {
  const text = aclFile([
    { gate: 'arena/north-03', revoked: true },
    { gate: 'arena/north-03', revoked: false },
  ]);
  expect(text).toContain('# arena/north-03 is revoked');
  expect(text).not.toMatch(/^(user|topic) .*north-03/m);
});

test('refuses names that would write rules of their own', () => {
  for (const gate of ['arena/+', 'arena/#', 'arena/x\ntopic readwrite #', 'arena', '_cloud', '_ingest', 'arena/cloud', 'a/b/c', ' arena/x'])
    expect(() => aclFile([{ gate, revoked: false }]), gate).toThrow(TypeError);
});
