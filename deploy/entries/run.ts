/** The service's loop in the bundle, with everything that a start needs in one file. */
export { printFailure } from '../../daemon/cli/exit-codes.ts';
export { run } from '../../daemon/cli/run.ts';
