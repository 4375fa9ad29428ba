/**
 * A gate's decider as it ships, worker and all, busy until it is killed: guests, passages, notes, acknowledgements, requests, short pauses.
 * What each call had answered goes to standard output, one mark a line.
 *
 *   node mounted-gate.ts <store> <seed> <ms on the venue's clock> <downloads, or nothing where a manifest is there>
 */
import { writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { createDeciderClient } from '../../daemon/decider/client.ts';
import { BOOT_WALL_MS, GATE, makeManifest, show } from '../../daemon/decider/testing/store.ts';
import type { Clock } from '../../daemon/ports.ts';
import { createRandom } from '../../testkit/prng.ts';
import type { Mark } from './expected.ts';
import { codeOf, signer, TICKETS, ticketOf } from './fixture.ts';

/** Longer than the pause after which the store folds its log. */
const PAUSE_MS = 560;
const HOUR_MS = 3_600_000;

const [store = '', seedText = '', fromText = '', downloads = ''] = process.argv.slice(2);
const random = createRandom(Number(seedText));
let nowMs = Number(fromText);
/** With its moment (CLOCK_MONOTONIC, ns): what was answered after the power had gone nobody saw. */
const mark = (one: Mark): void => void writeSync(1, `${JSON.stringify({ ...one, atNs: String(process.hrtime.bigint()) })}\n`);
const clock: Clock = {
  bootId: `boot-${seedText}`,
  boottimeMs: () => nowMs,
  wallMs: () => BOOT_WALL_MS + nowMs,
  offset: () => ({ offsetMs: BOOT_WALL_MS, boundMs: 3 }),
  trusted: () => true,
  observe: () => {},
};

const decider = createDeciderClient({ path: store, gate: GATE, verifyKeys: [signer.publicKey], clock });
await decider.open();
if (downloads !== '') {
  const { file, wanted } = await makeManifest(downloads, signer, { version: 1, tickets: Array.from({ length: TICKETS }, (_, n) => ticketOf(n)) });
  const result = await decider.installManifest(file, wanted);
  if (!result.ok) throw new Error(result.message);
  mark({ mark: 'manifest', version: 1, overlay: 1 });
}
mark({ mark: 'doing', what: 'work' });
for (;;) {
  nowMs += 500 + random.below(5_000);
  const roll = random.below(100);
  if (roll < 60) {
    const code = random.below(TICKETS + 8);
    const decision = await decider.decide(show(codeOf(code), nowMs));
    mark({ mark: 'answered', epoch: decision.row[0], seq: decision.row[1] });
    if (decision.verdict.kind !== 'grant' || random.chance(0.1)) continue;
    const outcome = random.chance(0.8) ? 'passed' : 'returned';
    const [epoch, seq] = await decider.record({ kind: 'passage', of: [decision.row[0], decision.row[1]], direction: 'in', unit: 1, outcome });
    mark({ mark: 'answered', epoch, seq });
    if (outcome === 'passed') mark({ mark: 'used', code });
  } else if (roll < 85) {
    const [epoch, seq] = await decider.record({ kind: 'alarm', what: 'tamper', detail: 'x'.repeat(random.below(400)) });
    mark({ mark: 'answered', epoch, seq });
  } else if (roll < 92) {
    const batch = await decider.nextBatch(null);
    if (batch === null) continue;
    mark({ mark: 'acked', epoch: batch.epoch, seq: batch.uptoSeq });
    const epochs = [{ epoch: batch.epoch, upto_seq: batch.uptoSeq, missing: [] }];
    await decider.acknowledge({ schema: 1, epochs, cloud_time: new Date(clock.wallMs()).toISOString() });
  } else if (roll < 98) {
    const id = `t-${seedText}-${nowMs}`;
    if (await decider.rememberTransaction(id, clock.wallMs() + 100_000 * HOUR_MS)) mark({ mark: 'transaction', id });
  } else if (random.chance(0.1)) await sleep(PAUSE_MS);
}
