/**
 * The gate's clock in its decisions (FAULTS M3): the shared vectors of midnight and of the days on which the clocks change, through a real
 * store with a signed list. cloud/scan/decisions.test.ts runs the same vectors in the database.
 */
import { sign } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import type { PlaceFacts, Recognised, Verdict } from '../../rules/facts.ts';
import { encodeSigned } from '../../rules/stile-code.ts';
import { KEY_ENDS } from '../../testkit/key-ends.ts';
import type { Decision } from '../ports.ts';
import type { Stamp } from '../store/ledger.ts';
import { openDeciderEngine } from './decider.ts';
import { createSigner, EVENT, type ManifestSpec, makeManifest, newCode, refOf, show, storeFolder, ticket } from './testing/store.ts';

interface Vector {
  readonly about: string;
  readonly facts: Extract<Recognised, { kind: 'ticket' }>;
  readonly policy: Record<string, unknown>;
  readonly place: PlaceFacts;
  readonly expected: Verdict;
}
const HOUR_MS = 3_600_000;
const BOOTTIME_MS = 1_000;
const folder = new URL('../../contract/examples/decisions/', import.meta.url);
const vectors = readdirSync(folder)
  .filter((name) => /^(midnight|clocks)-/.test(name))
  .map((name) => [name, JSON.parse(readFileSync(new URL(name, folder), 'utf8')) as Vector] as const);

const endings: (() => void)[] = [];
afterEach(() => {
  for (const end of endings.splice(0).reverse()) end();
});

/** At `nowMs`: with the cloud's time known, and the system's own clock `wallAheadMs` off it; or with a clock that nobody trusts. */
function stampOf(nowMs: number, trusted: boolean, wallAheadMs: number): Stamp {
  const offset = trusted ? { offsetMs: nowMs - BOOTTIME_MS, boundMs: 5 } : null;
  return { boottimeMs: BOOTTIME_MS, wallMs: nowMs + wallAheadMs, bootId: '6f1f0c1e-0000-4000-8000-000000000001', offset, trusted };
}

async function decided(gate: string, spec: Omit<ManifestSpec, 'version'>, code: string, stamp: Stamp): Promise<Decision> {
  const home = storeFolder();
  endings.push(home.remove);
  const signer = createSigner();
  const decider = await openDeciderEngine({ path: join(home.path, 'store'), gate, verifyKeys: [signer.publicKey], notice: () => undefined }, stamp);
  endings.push(() => decider.close());
  const { file, wanted } = await makeManifest(home.path, signer, { version: 7, ...spec });
  expect(await decider.installManifest(file, wanted, stamp)).toEqual({ ok: true, version: 7 });
  return decider.decide(1, show(code, stamp.boottimeMs), stamp, () => 0) as Decision;
}

test('there are vectors of midnight and of changed clocks', () => expect(vectors.length).toBeGreaterThanOrEqual(10));

for (const [name, { about, facts, policy, place, expected }] of vectors)
  test.each(place.clockTrusted ? [0, 3 * HOUR_MS] : [0])(`M3: ${name}: ${about} (system clock %d ms off the cloud's)`, async (aheadMs) => {
    const code = newCode();
    const usage = facts.entries.map(({ gate, atMs, direction, units }, index) => ({
      ticket_ref: refOf(code),
      gate,
      epoch: 1,
      seq: index + 1,
      at: new Date(atMs).toISOString(),
      direction,
      units,
      outcome: 'passed' as const,
    }));
    const spec = { beginsMs: place.nowMs - HOUR_MS, tickets: [ticket(code, { max_scans: facts.ticket.maxScans })], usage, policies: policy };
    const { verdict } = await decided(place.gate, spec, code, stampOf(place.nowMs, place.clockTrusted, aheadMs));
    expect(verdict).toMatchObject(
      expected.kind === 'grant' ? { kind: 'grant', type: expected.type } : { kind: 'refusal', reason: expected.reason, explanation: expected.explanation },
    );
  });

const NOW_MS = Date.parse('2027-05-01T17:00:00.000Z');
for (const { about, endsInMs, clockTrusted, opens } of KEY_ENDS)
  test.each(clockTrusted ? [0, 3 * HOUR_MS] : [0])(
    `M3: ${about} ${opens ? 'opens' : 'does not open'} (system clock %d ms off the cloud's)`,
    async (aheadMs) => {
      const signer = createSigner('codes', 'code');
      const key = { ...signer.publicKey, not_after: endsInMs === null ? null : new Date(NOW_MS + endsInMs).toISOString() };
      const { bytes, assemble } = encodeSigned({
        keyId: 'codes',
        eventId: EVENT,
        ticketId: 'signed-1',
        tier: 'standard',
        zone: null,
        validFromMs: null,
        validUntilMs: null,
      });
      const policies = { event: { signed_unknown: 'admit', clock_untrusted: 'admit' } };
      const spec = { beginsMs: NOW_MS - HOUR_MS, tickets: [], keys: [key], policies };
      const { verdict } = await decided('arena/north-01', spec, assemble(sign(null, bytes, signer.privateKey)), stampOf(NOW_MS, clockTrusted, aheadMs));
      expect(verdict.kind).toBe(opens ? 'grant' : 'refusal');
    },
  );
