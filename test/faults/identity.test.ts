/** The short form of PROMISES.md row 7, and its plants: two gates at each of two sites. The long form: node test/faults/identity-matrix.ts */
import { expect, test } from 'vitest';
import { DELIVERY, parseTopic } from '../../contract/topics.ts';
import { fleetOf } from './fleet.ts';
import { identityMatrix } from './identity-matrix.ts';

test('no identity says, hears, wills or takes what is another’s, with MQTT 3.1.1 and 5', async () => {
  const { attempts, crossings, broken } = await identityMatrix({ perSite: 2 });
  expect({ crossings, broken }).toEqual({ crossings: [], broken: [] });
  expect(Object.values(attempts).every((count) => count > 0)).toBe(true);
});

test('M1: every kind of message that the contract knows is tried, by every gate', () => {
  const { topics, gates } = fleetOf(2);
  const kinds = new Set(topics.map((topic) => parseTopic(topic)?.kind));
  expect(Object.keys(DELIVERY).filter((kind) => !kinds.has(kind as keyof typeof DELIVERY))).toEqual([]);
  // Another gate of one's own site, and one of another site.
  expect(gates).toHaveLength(4);
});

test('a wildcard in the ACL is seen, and so is a thief who knows the name of the ingesters’ share', async () => {
  const write = await identityMatrix({ perSite: 1, plant: 'write', only: ['publishing'] });
  expect(write.crossings.join('\n')).toContain('arena/g0 on stile/1/arena/cloud/ledger');
  const read = await identityMatrix({ perSite: 1, plant: 'read', only: ['subscribing'] });
  expect(read.crossings.join('\n')).toContain('stadium/g0 heard stile/1/arena/g0/request/open');
  const share = await identityMatrix({ perSite: 1, plant: 'share', only: ['lies'] });
  expect(share.broken.join('\n')).toMatch(/true rows of \S+ did not reach the cloud/);
});
