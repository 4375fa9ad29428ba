/** A piece of work whose file operations fail: the product's code that does it, its promise, and what must hold afterwards. */
export interface Trial {
  /** Everything that is written lies below it; made anew for each trial. */
  readonly folder: string;
  /** Beside it, where nothing fails. */
  readonly beside: string;
  /** Begins a phase: failures from now on are judged as its own. */
  phase(name: string): void;
  /** The caller was told: an error, a notice, an answer that says no. */
  told(what: string): void;
}

export interface Scenario {
  readonly name: string;
  /** Before anything fails. */
  prepare?(trial: Trial): Promise<void>;
  /** Does the work and answers its promises. Never rejects: an error is reported. */
  act(trial: Trial): Promise<unknown>;
  /** All works again, after a restart: what does not hold. Does the same once more, which must succeed now. */
  check(trial: Trial, promised: unknown): Promise<readonly string[]>;
  /** Failures that may pass without a word, and why: matched against `<phase>: <operation> <path> <error>`. */
  readonly silent?: readonly (readonly [RegExp, string])[];
  /** What needs no sync before something is promised, and why: matched against `<path>: <operation>`. Of all others a write, and of folders a rename or a removal, is synced by the end. */
  readonly unsynced?: readonly (readonly [RegExp, string])[];
}
