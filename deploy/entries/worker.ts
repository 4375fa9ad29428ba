/** Where the decider's worker begins in the bundle: its code is kept compiled as well. */
import { keepCompiled } from '../compile-cache.ts';

keepCompiled();
await import('../../daemon/decider/worker.ts');
