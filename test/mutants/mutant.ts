/** A fault to plant: texts that stand in the product exactly once, what stands there instead, and the tests of which one must fail then. */
export interface Mutant {
  readonly name: string;
  readonly edits: readonly { readonly file: string; readonly text: string; readonly instead: string }[];
  readonly project: 'unit' | 'real' | 'system';
  readonly tests: readonly string[];
}

/** A fault that is one edit. */
export const mutant = (name: string, file: string, text: string, instead: string, project: Mutant['project'], ...tests: string[]): Mutant => ({
  name,
  edits: [{ file, text, instead }],
  project,
  tests,
});
