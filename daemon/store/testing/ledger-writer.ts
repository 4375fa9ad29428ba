/** A process of its own for the kill test: commits rows as fast as it can and says each one's number once it is answered. */
import { writeSync } from 'node:fs';
import { openLedger } from '../ledger.ts';

const [path = '', name = ''] = process.argv.slice(2);
const stamp = { boottimeMs: 1, wallMs: Date.now(), bootId: 'child', offset: null, trusted: true };
const ledger = openLedger({ path, name, stamp });
for (;;) {
  const [row] = ledger.append([{ kind: 'clock', what: 'tick', detail: 'x'.repeat(200) }], stamp);
  writeSync(1, `${row?.position.join(' ')}\n`);
  ledger.maybeCheckpoint('busy');
  if (ledger.lastSeq() % 50 === 0) ledger.maybeCheckpoint('idle');
}
