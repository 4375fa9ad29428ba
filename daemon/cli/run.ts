/** Implements run: the gate as a process, with signals, unexpected errors and exit codes. */

import { createGateClock } from '../clock/clock.ts';
import { DEFAULT_CONFIG_FILE } from '../config/load.ts';
import { type EarlyWorker, storeIdentity, timestampNow } from '../decider/early-start.ts';
import { requireConfig } from './context.ts';
import { CliError, EXIT } from './exit-codes.ts';

/**
 * Returns when the gate has stopped. A second signal ends the process at once; the unit's stop step then returns the outputs.
 * `config`: the configuration file, unless the default. `earlyWorker`: the decider's worker, if already started.
 */
export async function run(options: { readonly config?: string }, earlyWorker?: EarlyWorker): Promise<void> {
  const config = requireConfig(options.config ?? DEFAULT_CONFIG_FILE);
  const clock = createGateClock(config.certificate);
  earlyWorker?.openEarly(storeIdentity({ path: config.store.path, gate: config.gate, verifyKeys: config.keys }), timestampNow(clock));
  // Loads the modules of the lane while the store opens.
  const [{ runGate }, { ControlError }] = await Promise.all([import('../main.ts'), import('../control/server.ts')]);
  // Keeps a signal or an error until all parts are open.
  const stopRequested = Promise.withResolvers<string>();
  let signals = 0;
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      signals += 1;
      if (signals > 1) process.exit(EXIT.failed);
      stopRequested.resolve(signal);
    });
  }
  // A closed terminal does not stop the gate.
  process.on('SIGHUP', () => undefined);
  const unexpected = Promise.withResolvers<unknown>();
  process.on('uncaughtException', (error) => unexpected.resolve(error));
  process.on('unhandledRejection', (error) => unexpected.resolve(error));

  const opening = runGate(config, earlyWorker === undefined ? { clock } : { clock, earlyWorker }).catch((error: unknown) => {
    if (error instanceof ControlError) throw new CliError(EXIT.failed, error.message, error.hint);
    throw error;
  });
  // While the parts open, nothing can stop in order yet: the unit's stop step returns the outputs.
  const failed = unexpected.promise.then((error) => ({ error }));
  const opened = await Promise.race([opening, failed]);
  if ('error' in opened) crash(opened.error);
  const gate = opened;
  const end = await Promise.race([
    stopRequested.promise.then((reason) => ({ reason })),
    gate.restartAsked.then(() => ({ reason: 'restart asked for' })),
    failed,
  ]);
  if ('error' in end) {
    await gate.panic(end.error);
    process.exit(EXIT.failed);
  }
  const whole = await gate.stop(end.reason);
  process.exit(whole ? EXIT.done : EXIT.failed);
}

function crash(error: unknown): never {
  process.stderr.write(`stile-gate: starting failed: ${(error as Error | null)?.stack ?? String(error)}\n`);
  process.exit(EXIT.failed);
}
