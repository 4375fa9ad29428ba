/** run: the gate itself, as a process: signals, unexpected errors, exit codes. */

import { createGateClock } from '../clock/clock.ts';
import { DEFAULT_CONFIG_FILE } from '../config/load.ts';
import { type EarlyWorker, storeIdentity, timestampNow } from '../decider/early-start.ts';
import { requireConfig } from './context.ts';
import { CliError, EXIT } from './exit-codes.ts';

/**
 * Returns when the gate has stopped. A second signal ends the process at once; the unit's stop step then returns the outputs.
 * `config`: the file, where it is not the usual one. `deskThread`: the decider's worker, where it was started already.
 */
export async function run(options: { readonly config?: string }, earlyWorker?: EarlyWorker): Promise<void> {
  const config = requireConfig(options.config ?? DEFAULT_CONFIG_FILE);
  const clock = createGateClock(config.certificate);
  earlyWorker?.openEarly(storeIdentity({ path: config.store.path, gate: config.gate, verifyKeys: config.keys }), timestampNow(clock));
  // What drives the lane is loaded while the store opens.
  const [{ runGate }, { ControlError }] = await Promise.all([import('../main.ts'), import('../control/server.ts')]);
  // A signal or an error that comes while the parts still open is kept until they have.
  const asked = Promise.withResolvers<string>();
  let signals = 0;
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      signals += 1;
      if (signals > 1) process.exit(EXIT.failed);
      asked.resolve(signal);
    });
  }
  // A closed terminal is no reason to leave a lane.
  process.on('SIGHUP', () => undefined);
  const unexpected = Promise.withResolvers<unknown>();
  process.on('uncaughtException', (error) => unexpected.resolve(error));
  process.on('unhandledRejection', (error) => unexpected.resolve(error));

  const opening = runGate(config, earlyWorker === undefined ? { clock } : { clock, earlyWorker }).catch((error: unknown) => {
    if (error instanceof ControlError) throw new CliError(EXIT.failed, error.message, error.hint);
    throw error;
  });
  // While the parts open there is nothing yet that could stop in order: the unit's stop step returns the outputs.
  const failed = unexpected.promise.then((error) => ({ error }));
  const opened = await Promise.race([opening, failed]);
  if ('error' in opened) crash(opened.error);
  const gate = opened;
  const end = await Promise.race([asked.promise.then((reason) => ({ reason })), gate.restartAsked.then(() => ({ reason: 'restart asked for' })), failed]);
  if ('error' in end) {
    await gate.panic(end.error);
    process.exit(EXIT.failed);
  }
  const whole = await gate.stop(end.reason);
  process.exit(whole ? EXIT.done : EXIT.failed);
}

function crash(error: unknown): never {
  process.stderr.write(`stile-gate: an error that nobody expected, while starting: ${(error as Error | null)?.stack ?? String(error)}\n`);
  process.exit(EXIT.failed);
}
