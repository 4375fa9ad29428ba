import { releaseName } from '../../runtime/build-info.ts';
import type { Config } from '../config/load.ts';
import type { StoreIdentity } from './protocol.ts';

/** Which store a gate has. */
export const storeIdentity = (config: Config): StoreIdentity => ({
  path: config.store.path,
  gate: config.gate,
  verifyKeys: config.keys,
  release: releaseName(),
});
