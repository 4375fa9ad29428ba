/**
 * Finds the true address of a request. Pure. A trusted proxy names its caller in X-Forwarded-For; entries further left are written by untrusted
 * callers.
 */
import { BlockList, isIP, isIPv4 } from 'node:net';

/** Entries of X-Forwarded-For that are read, from the right; further ones are ignored. No chain of trusted proxies is longer. */
const MAX_HOPS = 16;
/** The default trusted proxies: a proxy on this machine. */
export const LOOPBACK: readonly string[] = ['127.0.0.0/8', '::1'];

/** Parses one address, or a network such as 10.0.0.0/8. Returns null for any other text. */
function readNetwork(text: string): { readonly address: string; readonly prefix: number; readonly family: 'ipv4' | 'ipv6' } | null {
  const [address = '', length, ...rest] = text.split('/');
  const version = isIP(address);
  if (version === 0 || rest.length > 0 || (length !== undefined && !/^\d{1,3}$/.test(length))) return null;
  const bits = version === 4 ? 32 : 128;
  const prefix = length === undefined ? bits : Number(length);
  return prefix > bits ? null : { address, prefix, family: version === 4 ? 'ipv4' : 'ipv6' };
}

/** Returns whether the setting `trustedProxies` may name this text. */
export const isNetwork = (text: string): boolean => readNetwork(text) !== null;

export interface Addresses {
  /** Returns whether this connection comes from a proxy whose headers are trusted. */
  trusted(socketAddress: string | undefined): boolean;
  /** Returns the address that a request counts against: the rightmost that is not a trusted proxy's; IPv6 by its /64. */
  of(socketAddress: string | undefined, forwardedFor: string | undefined): string;
}

/** `networks` must have been checked (isNetwork). */
export function createAddresses(networks: readonly string[]): Addresses {
  const list = new BlockList();
  for (const text of networks) {
    const network = readNetwork(text);
    if (network === null) throw new TypeError(`neither an address nor a network: ${JSON.stringify(text)}`);
    list.addSubnet(network.address, network.prefix, network.family);
  }
  const isTrusted = (address: string) => list.check(address, isIPv4(address) ? 'ipv4' : 'ipv6');
  return {
    trusted(socketAddress) {
      const address = plainAddress(socketAddress ?? '');
      return address !== null && isTrusted(address);
    },
    of(socketAddress, forwardedFor) {
      let address = plainAddress(socketAddress ?? '');
      if (address === null) return 'unknown';
      const hops = forwardedFor === undefined ? [] : forwardedFor.split(',').slice(-MAX_HOPS);
      while (hops.length > 0 && isTrusted(address)) {
        const next = plainAddress((hops.pop() as string).trim());
        // A trusted proxy wrote the unreadable entry: the proxy's own address counts.
        if (next === null) break;
        address = next;
      }
      return networkOf(address);
    },
  };
}

/** Parses an address without brackets, port and zone; an IPv4 address within IPv6 as IPv4. Returns null for any other text. */
function plainAddress(text: string): string | null {
  const bare = (/^\[([^\]]+)\](?::\d+)?$/.exec(text)?.[1] ?? (/^\d+(?:\.\d+){3}:\d+$/.test(text) ? text.slice(0, text.indexOf(':')) : text)).split(
    '%',
  )[0] as string;
  const version = isIP(bare);
  if (version === 4) return bare;
  if (version === 0) return null;
  const canonical = new URL(`http://[${bare}]/`).hostname.slice(1, -1);
  const mapped = /^::ffff:([0-9a-f]{1,4}):([0-9a-f]{1,4})$/.exec(canonical);
  if (mapped === null) return canonical;
  const [high, low] = [Number.parseInt(mapped[1] as string, 16), Number.parseInt(mapped[2] as string, 16)];
  return [high >> 8, high & 255, low >> 8, low & 255].join('.');
}

/** A /64 is one customer or one machine, which may choose any address in it. */
function networkOf(address: string): string {
  if (isIPv4(address)) return address;
  const [head = '', tail] = address.split('::');
  const left = head === '' ? [] : head.split(':');
  const right = tail === undefined || tail === '' ? [] : tail.split(':');
  const groups = tail === undefined ? left : [...left, ...new Array<string>(8 - left.length - right.length).fill('0'), ...right];
  const [one, two, three, four] = groups;
  return `${one}:${two}:${three}:${four}::/64`;
}
