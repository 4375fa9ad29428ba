/** One line of doctor: part, result, cause and hint. */

export interface Check {
  readonly part: string;
  readonly result: 'ok' | 'warn' | 'fail';
  readonly cause: string;
  /** Empty when the result is ok. */
  readonly hint: string;
}

export const ok = (part: string, cause: string): Check => ({ part, result: 'ok', cause, hint: '' });
export const warn = (part: string, cause: string, hint: string): Check => ({ part, result: 'warn', cause, hint });
export const fail = (part: string, cause: string, hint: string): Check => ({ part, result: 'fail', cause, hint });
