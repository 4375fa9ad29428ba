/** What is done while operations on its files fail: by which code of the product, what it promised, and what must hold afterwards. */
export interface Trial {
  /** Everything that is written lies below it; made anew for each trial. */
  readonly folder: string;
  /** Beside it, where nothing fails. */
  readonly beside: string;
  /** What comes now: the failures of this part are judged as such. */
  phase(name: string): void;
  /** The caller was told: an error, a notice, an answer that says no. */
  told(what: string): void;
}

export interface Scenario {
  readonly name: string;
  /** Before anything fails. */
  prepare?(trial: Trial): Promise<void>;
  /** What is tried. Never rejects: what it throws is told. Answers what was promised. */
  act(trial: Trial): Promise<unknown>;
  /** All works again, after a restart: what does not hold. Does the same once more, which must succeed now. */
  check(trial: Trial, promised: unknown): Promise<readonly string[]>;
  /** Failures that may pass without a word, and why: matched against `<phase>: <operation> <path> <error>`. */
  readonly silent?: readonly (readonly [RegExp, string])[];
  /** What needs no sync before something is promised, and why: matched against `<path>: <operation>`. Of all others a write, and of folders a rename or a removal, is synced by the end. */
  readonly unsynced?: readonly (readonly [RegExp, string])[];
}
