/** Every file that gate or cloud writes and promises something of. */
import type { Scenario } from './scenario.ts';
import { SMALL } from './small.ts';
import { store } from './store.ts';

export const SCENARIOS: readonly Scenario[] = [...SMALL, store(7), store(1), store(4)];
