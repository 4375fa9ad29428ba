/** One line of doctor: a part, how it is, why, and what mends it. */

export interface Check {
  readonly part: string;
  readonly result: 'ok' | 'warn' | 'fail';
  readonly cause: string;
  /** Empty where all is well. */
  readonly mend: string;
}

export const ok = (part: string, cause: string): Check => ({ part, result: 'ok', cause, mend: '' });
export const warn = (part: string, cause: string, mend: string): Check => ({ part, result: 'warn', cause, mend });
export const fail = (part: string, cause: string, mend: string): Check => ({ part, result: 'fail', cause, mend });
