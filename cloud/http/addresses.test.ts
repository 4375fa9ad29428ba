import { expect, test } from 'vitest';
import { createAddresses, isNetwork, LOOPBACK } from './addresses.ts';

test('S2: the rightmost address that no trusted proxy has is counted, and a caller that invents others stays who it is', () => {
  const addresses = createAddresses([...LOOPBACK, '10.0.0.0/8', 'fd00::/8']);
  const from = (socket: string, header?: string) => addresses.of(socket, header);
  expect(from('127.0.0.1', '203.0.113.9')).toBe('203.0.113.9');
  expect(from('::ffff:127.0.0.1', '203.0.113.9')).toBe('203.0.113.9');
  expect(from('127.0.0.1', '1.1.1.1, 127.0.0.1, 203.0.113.9')).toBe('203.0.113.9');
  expect(from('127.0.0.1', '203.0.113.9, 10.1.2.3')).toBe('203.0.113.9');
  expect(from('fd00::7', '203.0.113.9,10.1.2.3, 127.0.0.1')).toBe('203.0.113.9');
  expect(from('127.0.0.1', '203.0.113.9:4711')).toBe('203.0.113.9');
  // Not a proxy of ours: what it says of others is its own invention.
  expect(from('203.0.113.9', '1.1.1.1')).toBe('203.0.113.9');
  expect(from('127.0.0.1')).toBe('127.0.0.1');
  for (const rubbish of ['', ',', 'unknown', 'x'.repeat(10_000), ', '.repeat(5_000), '999.1.1.1', '[::1', '::g'])
    expect(from('127.0.0.1', rubbish), rubbish.slice(0, 20)).toBe('127.0.0.1');
  expect(from('127.0.0.1', `203.0.113.9${', 127.0.0.1'.repeat(1_000)}`)).toBe('127.0.0.1');
});

test('S2: an IPv6 caller is its /64, however its address is written', () => {
  const addresses = createAddresses(LOOPBACK);
  const from = (text: string) => addresses.of('::1', text);
  const one = from('2001:db8:1:2::1');
  for (const same of ['2001:DB8:1:2:ffff:0:0:9', '[2001:db8:1:2::7]:443', '2001:0db8:0001:0002::1', '2001:db8:1:2::1%eth0']) expect(from(same), same).toBe(one);
  expect(from('2001:db8:1:3::1')).not.toBe(one);
  expect(from('2001:db8::1')).toBe(from('2001:db8:0:0:5::'));
  expect(from('::ffff:203.0.113.9')).toBe('203.0.113.9');
  expect(from('::ffff:cb00:7109')).toBe('203.0.113.9');
});

test('S6: a trusted proxy is an address or a network, and nobody is trusted when none is set', () => {
  for (const good of ['10.0.0.5', '10.0.0.0/8', '::1', 'fd00::/8', '0.0.0.0/0']) expect(isNetwork(good), good).toBe(true);
  for (const bad of ['', 'proxy.example', '10.0.0.0/33', '10.0.0.0/', 'fd00::/129', '10.0.0.0/8/8', '10.0.0.0/-1']) expect(isNetwork(bad), bad).toBe(false);
  expect(createAddresses([]).trusted('127.0.0.1')).toBe(false);
  expect(createAddresses(LOOPBACK).trusted('::ffff:127.0.0.1')).toBe(true);
  expect(createAddresses(LOOPBACK).trusted('192.0.2.1')).toBe(false);
  expect(createAddresses(LOOPBACK).trusted(undefined)).toBe(false);
});
