/** Every file that gate or cloud writes and promises something of. */
import type { Scenario } from './scenario.ts';
import { SMALL } from './small.ts';
import { newDatabase, store } from './store.ts';

export const SCENARIOS: readonly Scenario[] = [...SMALL, newDatabase, store(7), store(1), store(4)];
