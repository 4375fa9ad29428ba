/** Lost awaits and swallowed errors before something is promised (FAULTS M2). */
import type { Mutant } from './mutant.ts';

export const PROMISED: readonly Mutant[] = [];
