/** Ways to forge a code. Each makes one text that must not open, out of genuine codes that were never shown. */

import type { Random } from '../../testkit/prng.ts';
import { base45, base45Group, reversed, signed, stileBytes, stileText } from './encoder.ts';
import { EVENT, type Fixture, KEY_IDS, NOW_S, OTHER_EVENT } from './fixture.ts';

/** Genuine, never shown, never to be shown: what forgeries are made from. */
export interface Material {
  readonly fixture: Fixture;
  readonly random: Random;
  readonly stile: readonly string[];
  readonly pretix: readonly string[];
  readonly opaque: readonly string[];
  /** Genuine codes that went in before. */
  readonly shown: readonly string[];
}
export type Forgery = (from: Material) => string;

/** The order of Ed25519's base point. */
const L = 2n ** 252n + 27742317777372353535851937790883648493n;
const BASE45 = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:';
const HOUR_S = 3_600;
/** More than any grace. */
const PAST_S = 48 * HOUR_S;

const any = ({ random, stile, pretix, opaque }: Material): string => random.pick(random.pick([stile, pretix, opaque]));
const signedOne = ({ random, stile, pretix }: Material): string => random.pick(random.pick([stile, pretix]));
const split = (text: string) => ({ body: text.slice('ST1:'.length) });

/** The bytes of a Stile text, by a table of its own. */
function bytesOf(text: string): Buffer {
  const { body } = split(text);
  const bytes: number[] = [];
  for (let at = 0; at < body.length; at += 3) {
    const value = [...body.slice(at, at + 3)].reduce((sum, character, digit) => sum + BASE45.indexOf(character) * 45 ** digit, 0);
    if (at + 2 < body.length) bytes.push(value >> 8);
    bytes.push(value & 0xff);
  }
  return Buffer.from(bytes);
}
const restile = (bytes: Buffer): string => `ST1:${base45(bytes)}`;
const pretixBytes = (text: string): Buffer => Buffer.from(reversed(text), 'base64');
const repretix = (bytes: Buffer): string => reversed(bytes.toString('base64'));
const flipped = (bytes: Buffer, random: Random, from = 0): Buffer => {
  const at = from + random.below(bytes.length - from);
  bytes[at] = (bytes[at] as number) ^ (1 << random.below(8));
  return bytes;
};
/** S of a signature in the last 32 bytes, raised by L as often as fits: the same point, another spelling. */
function raisedS(bytes: Buffer): Buffer {
  const s = BigInt(`0x${Buffer.from(bytes.subarray(-32)).reverse().toString('hex')}`);
  const raised = Buffer.from((s + L).toString(16).padStart(64, '0'), 'hex').reverse();
  return Buffer.concat([bytes.subarray(0, -32), raised]);
}

export const FORGERIES: Readonly<Record<string, Forgery>> = {
  'a bit of the text flipped'(m) {
    return flipped(Buffer.from(any(m), 'latin1'), m.random).toString('latin1');
  },
  'a bit of the signed bytes flipped': (m) =>
    m.random.below(2) === 0
      ? restile(flipped(bytesOf(m.random.pick(m.stile)), m.random))
      : repretix(flipped(pretixBytes(m.random.pick(m.pretix)), m.random, 5)),
  'cut short'(m) {
    const text = any(m);
    return text.slice(0, 1 + m.random.below(text.length - 1));
  },
  'its beginning lost'(m) {
    const text = any(m);
    return text.slice(1 + m.random.below(text.length - 1));
  },
  "another key's id on it": (m) => {
    const bytes = bytesOf(m.random.pick(m.stile));
    Buffer.from(m.random.pick([KEY_IDS.spare, KEY_IDS.weak, KEY_IDS.revoked, 'k2099'])).copy(bytes, 2);
    return restile(bytes);
  },
  'signed by a stranger': (m) => m.fixture.fresh(m.random.pick(['stile', 'pretix'] as const), 'stranger'),
  'signed by a key for something else': (m) =>
    m.random.pick([
      () => m.fixture.stile({ keyId: 'pretix' }, 'pretix'),
      () => m.fixture.stile({}, m.random.pick(['pretix', 'manifest'] as const)),
      () => m.fixture.stile({ keyId: 'm1' }, 'manifest'),
      () => m.fixture.pretix({}, m.random.pick(['ours', 'manifest'] as const)),
    ])(),
  'signed by a revoked key': (m) => (m.random.below(2) === 0 ? m.fixture.fresh('stile', 'revoked') : m.fixture.fresh('pretix', 'pretixRevoked')),
  'signed by a key that has ended': (m) => m.fixture.fresh('stile', 'ended'),
  'under a key of small order'(m) {
    const bytes = stileBytes({ keyId: KEY_IDS.weak, eventId: EVENT, ticketId: m.random.uuid(), tier: 'standard', zone: '', from: null, until: null });
    // R the neutral point, S nothing: right for every message under a neutral public key.
    return stileText(bytes, Buffer.concat([Buffer.of(1), Buffer.alloc(63)]));
  },
  'S + L in its signature': (m) =>
    m.random.below(2) === 0 ? restile(raisedS(bytesOf(m.random.pick(m.stile)))) : repretix(raisedS(pretixBytes(m.random.pick(m.pretix)))),
  'a signature of another code': (m) => {
    const [one, other] = [bytesOf(m.fixture.fresh('stile')), bytesOf(m.random.pick(m.stile))];
    return restile(Buffer.concat([one.subarray(0, -64), other.subarray(-64)]));
  },
  'no signature worth its name': (m) => {
    const bytes = bytesOf(m.random.pick(m.stile));
    return restile(
      Buffer.concat([bytes.subarray(0, -64), m.random.pick([Buffer.alloc(64), Buffer.alloc(64, 0xff), m.random.bytes(64), Buffer.alloc(0), Buffer.alloc(63)])]),
    );
  },
  'of another event': (m) =>
    m.fixture.stile({ eventId: m.random.pick([OTHER_EVENT, 'Cup-Final', 'cup-final.', 'x']) }, m.random.pick(['ours', 'spare'] as const)),
  'of another version': (m) =>
    m.random.pick([
      () => m.fixture.stile({ version: m.random.pick([0, 2, 0x81, 0xff]) }),
      () => m.fixture.pretix({ version: m.random.pick([0, 2, 0x81, 0xff]) }),
      () => `${m.random.pick(['ST2:', 'ST0:', 'St1:', 'ST1;', 'ST1'])}${split(m.random.pick(m.stile)).body}`,
    ])(),
  'no longer valid, or not yet': (m) =>
    m.random.pick([
      () => m.fixture.stile({ until: NOW_S - PAST_S - m.random.below(PAST_S) }),
      () => m.fixture.stile({ from: NOW_S + PAST_S + m.random.below(PAST_S) }),
      () => m.fixture.pretix({ until: NOW_S - PAST_S - m.random.below(PAST_S) }),
      () => m.fixture.pretix({ from: NOW_S + PAST_S + m.random.below(PAST_S) }),
    ])(),
  'shown before': (m) => m.random.pick(m.shown),
  'revoked, blocked or cancelled': (m) => m.random.pick(m.fixture.revoked),
  'another spelling of base45'(m) {
    const { body } = split(m.random.pick(m.stile));
    // A group may hold a number beyond its two bytes: taken modulo, it would be the same bytes.
    const groups = Math.floor(body.length / 3);
    for (let tries = 0; tries < groups * 4; tries++) {
      const at = m.random.below(groups) * 3;
      const value = [...body.slice(at, at + 3)].reduce((sum, character, digit) => sum + BASE45.indexOf(character) * 45 ** digit, 0) + 65_536;
      if (value < 45 ** 3) return `ST1:${body.slice(0, at)}${base45Group(value, 3)}${body.slice(at + 3)}`;
    }
    return `ST1:${body.toLowerCase()}`;
  },
  'in small letters': (m) =>
    m.random
      .pick(m.random.pick([m.stile, m.opaque]))
      .toLowerCase()
      .replace('st1:', 'ST1:'),
  'with more behind it': (m) => `${any(m)}${m.random.pick(['0', '00', '000', 'A', '+', '=', '==', any(m)])}`,
  // A true mark (]Q1) is none of these: it is the scanner's, and is taken off (L3).
  'with something before it': (m) => `${m.random.pick(['ST1:', 'A', '0', '=', '==', 'QR:', ']1Q', ']]Q1', any(m)])}${any(m)}`,
  'another spelling of base64'(m) {
    const straight = reversed(m.random.pick(m.pretix));
    const padding = straight.length - straight.replace(/=+$/, '').length;
    const spellings = [
      straight,
      reversed(`${straight}=`),
      reversed(`${straight.slice(0, 8)}=${straight.slice(8)}`),
      reversed(straight.replaceAll('+', '-').replaceAll('/', '_')),
    ];
    // Padding left out, and spare bits of the last character before it: the same bytes.
    if (padding > 0) spellings.push(reversed(straight.slice(0, -padding)), reversed(spareBits(straight, padding, m.random)));
    return m.random.pick(spellings);
  },
  'the bare id of a ticket': (m) => m.random.pick([m.random.pick(m.fixture.listedIds), m.random.uuid()]),
  'a guess': (m) => m.random.bytes(16).toString('hex').toUpperCase(),
  rubbish: (m) => m.random.bytes(1 + m.random.below(300)).toString('latin1'),
  'rubbish that begins like a code': (m) =>
    m.random.pick([
      () => `ST1:${base45(m.random.bytes(40 + m.random.below(120)))}`,
      () => repretix(Buffer.concat([Buffer.of(1, 0, m.random.below(90), 0, 64), m.random.bytes(90)])),
    ])(),
  'signed parts put together anew'(m) {
    const [one, other] = [signedOne(m), signedOne(m)];
    const at = m.random.below(Math.min(one.length, other.length));
    return one === other
      ? `${one}0`
      : one.slice(0, at) === other.slice(0, at) || at === 0
        ? `${one.slice(0, -1)}${other.slice(-2)}`
        : one.slice(0, at) + other.slice(at);
  },
  'signed twice over'(m) {
    const bytes = bytesOf(m.random.pick(m.stile));
    return stileText(bytes, signed(bytes, m.fixture.keys.stranger));
  },
};

const BASE64 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';
function spareBits(straight: string, padding: number, random: Random): string {
  const at = straight.length - padding - 1;
  const spare = 1 + random.below(padding === 2 ? 15 : 3);
  return straight.slice(0, at) + BASE64.charAt(BASE64.indexOf(straight.charAt(at)) ^ spare) + '='.repeat(padding);
}
