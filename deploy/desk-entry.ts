/** Where the desk's worker begins in the bundle: its code is kept compiled as well. */
import { keepCompiled } from './compiled.ts';

keepCompiled();
await import('../daemon/desk-worker.ts');
