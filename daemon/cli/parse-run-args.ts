/**
 * The command line of a service: `run`, and at most the file with the configuration. Known without the library that reads command lines,
 * which takes longer to load than it takes to be ready for a guest.
 */

/** The configuration that `run` is given (undefined: the usual one); null: any other line, for the library to read. `args`: without runtime and program. */
export function readRunLine(args: readonly string[], env: Readonly<Record<string, string | undefined>>): { readonly config: string | undefined } | null {
  const [command, option, value, ...more] = args;
  if (command !== 'run' || more.length > 0) return null;
  if (option === undefined) return { config: env['STILE_CONFIG'] };
  if (option.startsWith('--config=') && value === undefined) return { config: option.slice('--config='.length) };
  if ((option === '--config' || option === '-c') && value !== undefined && !value.startsWith('-')) return { config: value };
  return null;
}
