/** One line of doctor: a part, how it is, why, and what mends it. */

export interface Check {
  readonly part: string;
  readonly result: 'ok' | 'warn' | 'fail';
  readonly cause: string;
  /** Empty where all is well. */
  readonly hint: string;
}

export const ok = (part: string, cause: string): Check => ({ part, result: 'ok', cause, hint: '' });
export const warn = (part: string, cause: string, hint: string): Check => ({ part, result: 'warn', cause, hint });
export const fail = (part: string, cause: string, hint: string): Check => ({ part, result: 'fail', cause, hint });
