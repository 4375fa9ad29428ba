/** People inside, against a plain reference: all rows that the gate knows, counted from the beginning each time. */
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, expect, test } from 'vitest';
import type { LedgerVector } from '../../contract/ids.ts';
import type { UsageEntry } from '../../contract/manifest.ts';
import type { Decision } from '../ports.ts';
import { openDeciderEngine } from './decider.ts';
import type { DeciderEngine } from './engine.ts';
import { BOOT_WALL_MS, createSigner, EVENT, GATE, makeManifest, peerMessage, refOf, show, stampAt, storeFolder, ticket } from './testing/store.ts';

const PEERS = ['arena/north-02', 'arena/north-03'] as const;
const PEER_EPOCH = 1_700_000_000;
const CODES = ['GUEST-CODE-000001', 'GUEST-CODE-000002', 'GUEST-CODE-000003', 'PARTY-CODE-000001'] as const;
const PARTY_UNITS = 3;
/** Never admitted: its refusal says how many are inside. */
const PROBE = 'PROBE-CODE-000001';
const POLICIES = {
  event: { occupancy: { limit: 1_000, mode: 'alert' }, reentry: { rule: 'always' }, duplicate_window_s: 0, usage_lost: 'admit' },
  tiers: { probe: { occupancy: { limit: 1, mode: 'enforce' } } },
};
const TICKETS = [...CODES.map((code) => ticket(code, { units: code.startsWith('PARTY') ? PARTY_UNITS : 1 })), ticket(PROBE, { tier: 'probe', units: 2 })];

interface Row {
  readonly ledger: string;
  readonly epoch: number;
  readonly seq: number;
  readonly entry: Readonly<Record<string, unknown>>;
}

/** Entries that count, of these rows and no others: each grant less the units that were returned; of a grant that is not known yet, the units that are spoken of. */
function entriesOf(rows: readonly Row[]) {
  const grants = new Map<string, { readonly grant: Row[]; readonly words: Row[]; readonly place: readonly [string, number, number] }>();
  for (const row of rows) {
    const { kind } = row.entry;
    if (kind !== 'grant' && kind !== 'passage') continue;
    const [epoch, seq] = kind === 'grant' ? [row.epoch, row.seq] : (row.entry['of'] as [number, number]);
    const key = `${row.ledger} ${epoch} ${seq}`;
    const one = grants.get(key) ?? { grant: [], words: [], place: [row.ledger, epoch, seq] as const };
    grants.set(key, one);
    one[kind === 'grant' ? 'grant' : 'words'].push(row);
  }
  return [...grants.values()]
    .map(({ grant, words, place: [ledger, epoch, seq] }) => {
      const told = (grant[0] ?? words[0]) as Row;
      const returned = words.filter((word) => word.entry['outcome'] === 'returned').length;
      return {
        ledger,
        epoch,
        seq,
        ref: String(told.entry['ticket_ref']),
        direction: told.entry['direction'] as 'in' | 'out',
        units: (grant[0] === undefined ? words.length : Number(grant[0].entry['units'])) - returned,
        atMs: Math.min(...(grant.length > 0 ? grant : words).map(timeOf)),
        passed: words.some((word) => word.entry['outcome'] === 'passed'),
      };
    })
    .filter(({ units }) => units > 0)
    .sort((a, b) => a.atMs - b.atMs || (a.ledger < b.ledger ? -1 : 1));
}

function timeOf({ entry }: Row): number {
  const offset = Number(entry['clock_offset_ms']);
  return Number.isNaN(offset) ? Date.parse(String(entry['ts'])) : Math.round(Number(entry['boottime_ms']) + offset);
}

function insideOf(rows: readonly Row[]): number {
  const inside = new Map<string, number>();
  for (const { ref, direction, units } of entriesOf(rows)) inside.set(ref, Math.max(0, (inside.get(ref) ?? 0) + (direction === 'in' ? units : -units)));
  return [...inside.values()].reduce((sum, one) => sum + one, 0);
}

const Direction = fc.constantFrom('in' as const, 'out' as const);
const Op = fc.oneof(
  { weight: 5, arbitrary: fc.record({ op: fc.constant('decide' as const), code: fc.nat(CODES.length - 1), direction: Direction }) },
  { weight: 4, arbitrary: fc.record({ op: fc.constant('outcome' as const), which: fc.nat(), returned: fc.boolean() }) },
  { weight: 5, arbitrary: fc.record({ op: fc.constant('peer' as const), peer: fc.nat(1), code: fc.nat(CODES.length - 1), direction: Direction }) },
  { weight: 4, arbitrary: fc.record({ op: fc.constant('peer outcome' as const), peer: fc.nat(1), which: fc.nat(), returned: fc.boolean() }) },
  { weight: 5, arbitrary: fc.record({ op: fc.constant('deliver' as const), peer: fc.nat(1), from: fc.nat(20), count: fc.integer({ min: 1, max: 6 }) }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('manifest' as const), share: fc.double({ min: 0, max: 1, noNaN: true }) }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('restart' as const) }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('idle' as const) }) },
);
type Op = typeof Op extends fc.Arbitrary<infer T> ? T : never;

const endings: (() => void)[] = [];
afterEach(() => {
  for (const end of endings.splice(0).reverse()) end();
});

/** A gate and its site, where every row that any ledger has is known to the test. */
async function site() {
  const home = storeFolder('stile-inside-');
  const signer = createSigner();
  let nowMs = 1_000;
  let core: DeciderEngine;
  let ids = 0;
  let version = 0;
  let upto: LedgerVector = {};
  const peers: Row[][] = [[], []];
  const delivered = new Set<Row>();
  /** Units of own and of peers' grants without a word. */
  const open: { own: { row: Decision['row']; unit: number; direction: 'in' | 'out' }[]; peers: { row: Row; unit: number }[][] } = { own: [], peers: [[], []] };

  const stamp = () => stampAt(nowMs);
  const start = async () => {
    core = await openDeciderEngine({ path: join(home.path, 'store'), gate: GATE, verifyKeys: [signer.publicKey], notice: () => {} }, stamp());
  };
  const own = (): Row[] => core.rows(null, 500).map(({ epoch, entry }) => ({ ledger: GATE, epoch, seq: entry.seq, entry }));
  const isCovered = ({ ledger, epoch, seq }: Row) =>
    upto[ledger] !== undefined && (epoch < upto[ledger][0] || (epoch === upto[ledger][0] && seq <= upto[ledger][1]));
  const idle = () => {
    while (core.idle(stamp(), true)) {
      /* to the end */
    }
  };
  const add = (peer: number, entry: Record<string, unknown>): Row => {
    const rows = peers[peer] as Row[];
    const seq = rows.length + 1;
    const row = { ledger: PEERS[peer] as string, epoch: PEER_EPOCH, seq, entry: { seq, ts: new Date(BOOT_WALL_MS + nowMs).toISOString(), ...entry } };
    rows.push(row);
    return row;
  };
  const manifest = async (share: number, policies: Record<string, unknown> = POLICIES) => {
    const all = [own(), ...peers];
    upto = Object.fromEntries(
      all.flatMap((rows) => {
        const first = rows[0];
        const seq = first === undefined ? 0 : Math.max(upto[first.ledger]?.[1] ?? 0, Math.floor(share * rows.length));
        return first === undefined || seq === 0 ? [] : [[first.ledger, [first.epoch, seq]]];
      }),
    ) as LedgerVector;
    const usage = entriesOf(all.flat().filter(isCovered)).map(
      (one): UsageEntry => ({
        ticket_ref: one.ref,
        gate: one.ledger,
        epoch: one.epoch,
        seq: one.seq,
        at: new Date(one.atMs).toISOString(),
        direction: one.direction,
        units: one.units,
        outcome: one.passed ? 'passed' : 'open',
      }),
    );
    const made = await makeManifest(home.path, signer, { version: ++version, tickets: TICKETS, upto, usage, policies });
    expect(await core.installManifest(made.file, made.wanted, stamp())).toMatchObject({ ok: true });
  };
  await start();
  endings.push(home.remove, () => core.close());

  return {
    manifest,
    idle,
    known: () => [...own(), ...peers.flat().filter((row) => delivered.has(row) || isCovered(row))],
    /** As the gate tells it. */
    inside(): unknown {
      const { verdict } = core.decide(++ids, show(PROBE, nowMs), stamp(), () => 0) as Decision;
      return verdict.kind === 'refusal' && verdict.reason === 'capacity'
        ? (verdict.facts['inside'] ?? null)
        : `not refused for want of room: ${JSON.stringify(verdict)}`;
    },
    async carryOut(op: Op): Promise<void> {
      nowMs += 1_000;
      if (op.op === 'decide') {
        const decision = core.decide(++ids, show(CODES[op.code] as string, nowMs, { direction: op.direction }), stamp(), () => 0) as Decision;
        if (decision.verdict.kind === 'grant')
          for (let unit = 1; unit <= decision.verdict.units; unit++) open.own.push({ row: decision.row, unit, direction: op.direction });
      } else if (op.op === 'outcome') {
        const [one] = open.own.splice(op.which % Math.max(1, open.own.length), 1);
        if (one !== undefined)
          core.record({ kind: 'passage', of: one.row, direction: one.direction, unit: one.unit, outcome: op.returned ? 'returned' : 'passed' }, stamp());
      } else if (op.op === 'peer') {
        const code = CODES[op.code] as string;
        const units = code.startsWith('PARTY') ? PARTY_UNITS : 1;
        const row = add(op.peer, {
          kind: 'grant',
          event_id: EVENT,
          ticket_id: 't',
          ticket_ref: refOf(code),
          direction: op.direction,
          type: 'first_entry',
          units,
          medium: 'opaque',
          manifest_version: 1,
          online: true,
          latency_us: 1,
          seen: {},
        });
        for (let unit = 1; unit <= units; unit++) open.peers[op.peer]?.push({ row, unit });
      } else if (op.op === 'peer outcome') {
        const list = open.peers[op.peer] ?? [];
        const [one] = list.splice(op.which % Math.max(1, list.length), 1);
        if (one === undefined) return;
        const { event_id, ticket_id, ticket_ref, direction } = one.row.entry;
        add(op.peer, {
          kind: 'passage',
          of: [PEER_EPOCH, one.row.seq],
          event_id,
          ticket_id,
          ticket_ref,
          direction,
          unit: one.unit,
          outcome: op.returned ? 'returned' : 'passed',
        });
      } else if (op.op === 'deliver') {
        // Anywhere, in pieces, behind gaps, again.
        const rows = (peers[op.peer] as Row[]).slice(op.from % Math.max(1, peers[op.peer]?.length ?? 1)).slice(0, op.count);
        if (rows.length === 0) return;
        core.applyPeer(
          peerMessage(
            PEERS[op.peer] as string,
            PEER_EPOCH,
            rows.map(({ entry }) => entry),
          ),
        );
        for (const row of rows) delivered.add(row);
      } else if (op.op === 'manifest') {
        await manifest(op.share);
        // What was counted before stands until the new file was counted: no more than a moment, which is let pass here.
        idle();
      } else if (op.op === 'restart') {
        core.close();
        await start();
        open.own.length = 0;
      } else {
        idle();
      }
    },
  };
}

test('whatever happens in whatever order, the gate tells as many inside as its rows say', { timeout: 120_000 }, async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(Op, { minLength: 5, maxLength: 25 }), async (ops) => {
      const gate = await site();
      await gate.manifest(0);
      gate.idle();
      try {
        for (const op of ops) {
          await gate.carryOut(op);
          expect(gate.inside(), JSON.stringify(op)).toBe(insideOf(gate.known()));
        }
      } finally {
        for (const end of endings.splice(0).reverse()) end();
      }
    }),
    { numRuns: process.env['STILE_PROVE'] === '1' ? 60 : 8 },
  );
});

test('while another file is counted, what was counted before stands; without a rule nothing is counted', { timeout: 60_000 }, async () => {
  const gate = await site();
  await gate.manifest(0, { tiers: POLICIES.tiers });
  for (let guest = 0; guest < 3; guest++) await gate.carryOut({ op: 'decide', code: guest, direction: 'in' });
  gate.idle();
  expect(gate.inside()).toBe(3);
  await gate.manifest(1);
  expect(gate.inside()).toBe(3);
  gate.idle();
  expect(gate.inside()).toBe(3);
  await gate.manifest(1, {});
  expect(gate.inside()).toMatch(/not refused/);
});
