import type { Config } from './config.ts';
import type { DeskStore } from './desk-calls.ts';
import { releaseName } from './version.ts';

/** Which store a gate has. */
export const deskStore = (config: Config): DeskStore => ({ path: config.store.path, gate: config.gate, verifyKeys: config.keys, release: releaseName() });
