/** Every file that gate or cloud writes and promises something of. */
import type { Scenario } from './scenario.ts';
import { store } from './store.ts';

export const SCENARIOS: readonly Scenario[] = [store(1), store(4), store(7)];
