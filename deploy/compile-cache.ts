/** Compiled code of the service is kept between its starts, for each of its two threads. */
import { enableCompileCache, flushCompileCache } from 'node:module';
import { join } from 'node:path';

/**
 * Written so long after the start, ms: by then what a start and the first guests need was compiled. It would be written at the end as
 * well, but a gate seldom ends otherwise than by its power, and a worker never writes it by itself. Where nothing is new it costs nothing.
 */
const KEEP_AFTER_MS = 20_000;

/** For the service alone: it lies where nobody else may write, in the folder that systemd names, and where there is none nothing is kept. */
export function keepCompiled(): void {
  const state = process.env['STATE_DIRECTORY'];
  if (state === undefined) return;
  enableCompileCache(join(state, 'compile-cache'));
  setTimeout(flushCompileCache, KEEP_AFTER_MS).unref();
}
