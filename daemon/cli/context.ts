/** Gives commands the configuration and the running gate. */

import { formatConfigError } from '../config/fields.ts';
import { type Config, DEFAULT_CONFIG_FILE, formatConfigErrors, loadConfig } from '../config/load.ts';
import { connectGate, type GateClient } from '../control/client.ts';
import { CliError, cliErrorOf, EXIT } from './exit-codes.ts';

/** Returns the configuration; throws CliError 78 with every error in it. Prints warnings to stderr. `skipFiles`: does not read the files that it names. */
export function requireConfig(file: string, options: { readonly skipFiles?: boolean } = {}): Config {
  const loaded = loadConfig(file, process.env, options);
  for (const warning of loaded.warnings) process.stderr.write(`warning: ${formatConfigError(warning)}\n`);
  if (!loaded.ok) throw new CliError(EXIT.badConfig, `bad configuration\n${formatConfigErrors(loaded.errors).trimEnd()}`);
  return loaded.config;
}

const DEFAULT_SOCKET = '/run/stile/gate.sock';

/** Returns the socket given by --socket, else the configured one. Errors elsewhere in the default file do not prevent a call to a running gate. */
export function socketOf(options: { readonly config: string; readonly socket?: string }): string {
  if (options.socket !== undefined) return options.socket;
  const loaded = loadConfig(options.config, process.env);
  if (loaded.ok) return loaded.config.control.socket;
  if (options.config === DEFAULT_CONFIG_FILE) return DEFAULT_SOCKET;
  throw new CliError(EXIT.badConfig, `bad configuration\n${formatConfigErrors(loaded.errors).trimEnd()}`, "or name the gate's socket with --socket");
}

/** Connects. Throws CliError when no gate answers, and from every call that fails. */
export async function connect(options: { readonly config: string; readonly socket?: string }): Promise<GateClient> {
  const socket = socketOf(options);
  const asCliError = (error: unknown): never => {
    throw cliErrorOf(error);
  };
  const gate = await connectGate(socket).catch(asCliError);
  return { call: <T>(...call: Parameters<GateClient['call']>) => gate.call<T>(...call).catch(asCliError), close: () => gate.close() };
}

/** Connects, does the work, closes. Throws CliError when the gate does not answer or refuses. */
export async function withGate<T>(options: { readonly config: string; readonly socket?: string }, work: (gate: GateClient) => Promise<T>): Promise<T> {
  const gate = await connect(options);
  try {
    return await work(gate);
  } finally {
    gate.close();
  }
}
