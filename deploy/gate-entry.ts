/** Where the bundle begins: the command line, the gate, and the desk's worker. Small, so that the cache of compiled code is on before the rest is read. */
import { enableCompileCache } from 'node:module';
import { join } from 'node:path';
import { isMainThread, workerData } from 'node:worker_threads';

// Compiled code is kept between starts, where only the service itself may write: systemd names that folder.
const state = process.env['STATE_DIRECTORY'];
if (state !== undefined && process.argv[2] === 'run') enableCompileCache(join(state, 'compile-cache'));

if (!isMainThread && (workerData as { role?: string } | null)?.role === 'desk') await import('../daemon/desk-worker.ts');
else await import('../daemon/cli/main.ts');
