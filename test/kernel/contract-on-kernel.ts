/** The Board port's contract on a real kernel, with one driver: `node contract-on-kernel.ts onoff|cdev`. Runs inside the guest; exit code 0 or 1. */
import { closeSync } from 'node:fs';
import { createCdevBoard } from '../../daemon/board/cdev-board.ts';
import { createGpioCalls, type GpioCalls } from '../../daemon/board/gpio-ioctl.ts';
import { createOnoffBoard } from '../../daemon/board/onoff-board.ts';
import { BOARD_CONTRACT, CONTRACT_LANE, INPUTS_AT_REST } from '../../daemon/board/testing/board-conformance.ts';
import type { InputName } from '../../daemon/ports.ts';
import { loadLibc } from '../../runtime/libc.ts';
import { makeHeader } from './sim-gpio.ts';

const header = makeHeader();
/** The character device's outputs stay claimed until their process ends, and here one process has a board after the other. */
const claimed: number[] = [];
async function loadCalls(): Promise<GpioCalls> {
  const calls = createGpioCalls(loadLibc());
  return {
    ...calls,
    outputs(path, lines) {
      const fd = calls.outputs(path, lines);
      claimed.push(fd);
      return fd;
    },
  };
}
const clock = { boottimeMs: () => performance.now() };
// gpio-sim has one state for what drives an input and for its bias: claiming a line with a bias would undo what the test drives.
const unbiased = Object.fromEntries(Object.entries(CONTRACT_LANE.inputs).map(([name, input]) => [name, { ...input, bias: 'none' as const }]));
const lane = { outputs: CONTRACT_LANE.outputs, inputs: unbiased };
const driver = process.argv[2];
let failed = 0;
for (const { name, run } of BOARD_CONTRACT) {
  for (const [input, level] of Object.entries(INPUTS_AT_REST)) header.drive(CONTRACT_LANE.inputs[input as InputName]?.line ?? Number.NaN, level);
  const board = driver === 'cdev' ? createCdevBoard({ config: lane, calls: loadCalls }, clock) : createOnoffBoard({ config: lane }, clock);
  try {
    await run({
      board,
      wire: (output) => header.wire(CONTRACT_LANE.outputs[output]?.line ?? Number.NaN),
      drive: (input, level) => header.drive(CONTRACT_LANE.inputs[input]?.line ?? Number.NaN, level),
    });
  } catch (error) {
    failed += 1;
    process.stdout.write(`${name}: ${(error as Error).message}; `);
    await board.close({ releaseOpen: false }).catch(() => undefined);
  }
  for (const fd of claimed.splice(0)) closeSync(fd);
}
process.stdout.write(failed === 0 ? `${BOARD_CONTRACT.length} of ${BOARD_CONTRACT.length}` : `${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
