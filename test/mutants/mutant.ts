/** A fault to plant: texts that stand in the product exactly once, what stands there instead, and the tests of which one must fail then. */
export interface Mutant {
  readonly name: string;
  readonly edits: readonly Edit[];
  readonly project: 'unit' | 'real' | 'system';
  readonly tests: readonly string[];
}

/** A `file` that ends in `/` is a folder: the one .sql file below it that holds the text, whatever it is called. */
export interface Edit {
  readonly file: string;
  readonly text: string;
  readonly instead: string;
}

/** A fault that is one edit. */
export const mutant = (name: string, file: string, text: string, instead: string, project: Mutant['project'], ...tests: string[]): Mutant => ({
  name,
  edits: [{ file, text, instead }],
  project,
  tests,
});
