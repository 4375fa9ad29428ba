/**
 * Parses the command line of the service: `run`, and at most the configuration file. Avoids commander, which takes longer to load
 * than the gate takes to start.
 */

/** Returns the configuration file of `run` (undefined: the default); null for any other command line. `args`: without runtime and program. */
export function parseRunArgs(args: readonly string[], env: Readonly<Record<string, string | undefined>>): { readonly config: string | undefined } | null {
  const [command, option, value, ...more] = args;
  if (command !== 'run' || more.length > 0) return null;
  if (option === undefined) return { config: env['STILE_CONFIG'] };
  if (option.startsWith('--config=') && value === undefined) return { config: option.slice('--config='.length) };
  if ((option === '--config' || option === '-c') && value !== undefined && !value.startsWith('-')) return { config: value };
  return null;
}
