import { releaseName } from '../../runtime/build-info.ts';
import type { Config } from '../config/load.ts';
import type { DeskStore } from './protocol.ts';

/** Which store a gate has. */
export const deskStore = (config: Config): DeskStore => ({ path: config.store.path, gate: config.gate, verifyKeys: config.keys, release: releaseName() });
