import { join } from 'node:path';
import { afterEach, expect } from 'vitest';
import { LedgerEntry } from '../../../contract/ledger.ts';
import type { Decision, Presentation } from '../../ports.ts';
import type { Stamp } from '../../store/ledger.ts';
import { openDeciderEngine } from '../decider.ts';
import type { DeciderEngine } from '../engine.ts';
import { createSigner, GATE, type ManifestSpec, makeManifest, show, stampAt, storeFolder } from './store.ts';

export const endings: (() => void)[] = [];
afterEach(() => {
  for (const end of endings.splice(0).reverse()) end();
});

/** A decider without its worker, with a clock that the test moves. */
export async function setUp(spec: Partial<ManifestSpec> | null = {}) {
  const home = storeFolder();
  endings.push(home.remove);
  const signer = createSigner();
  const notices: string[] = [];
  const path = join(home.path, 'store');
  const decider = {
    nowMs: 1_000,
    stamp: (change: Partial<Stamp> = {}) => stampAt(decider.nowMs, change),
    ids: 0,
    core: undefined as unknown as DeciderEngine,
    async open() {
      decider.core = await openDeciderEngine(
        { path, gate: GATE, verifyKeys: [signer.publicKey], notice: (what, detail) => notices.push(`${what}: ${detail}`) },
        decider.stamp(),
      );
    },
    decide: (code: string, change: Partial<Presentation> = {}): Decision =>
      decider.core.decide(++decider.ids, show(code, decider.nowMs, change), decider.stamp(), () => 0) as Decision,
    passed: (decision: Decision, outcome: 'passed' | 'returned' = 'passed') =>
      decider.core.record({ kind: 'passage', of: decision.row, direction: 'in', unit: 1, outcome }, decider.stamp()),
    async install(more: Partial<ManifestSpec>) {
      const { file, wanted } = await makeManifest(home.path, signer, { version: 1, tickets: [], ...more });
      expect(await decider.core.installManifest(file, wanted, decider.stamp())).toEqual({ ok: true, version: more.version ?? 1 });
    },
    rows: (): LedgerEntry[] => decider.core.rows(null, 500).map((row) => LedgerEntry.parse(row.entry)),
    idle: () => {
      while (decider.core.idle(decider.stamp(), true)) {
        /* to the end */
      }
    },
  };
  await decider.open();
  endings.push(() => decider.core.close());
  if (spec !== null) await decider.install(spec);
  return { decider, signer, notices, path, home: home.path };
}
export const ack = (epoch: number, upto_seq: number, missing: [number, number][] = []) => ({
  schema: 1 as const,
  epochs: [{ epoch, upto_seq, missing }],
  cloud_time: '2026-06-01T18:00:00.000Z',
});
export const reasonOf = (decision: Decision): string => (decision.verdict.kind === 'refusal' ? decision.verdict.reason : decision.verdict.type);
