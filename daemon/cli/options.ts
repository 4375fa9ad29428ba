/** Options that every command of `stile-gate` takes. */

/** Options of every command that reads the configuration. */
export interface CommonOptions {
  readonly config: string;
  readonly socket?: string;
  readonly json?: boolean;
}
