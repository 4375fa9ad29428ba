/** How commands come by the configuration and the running gate. */

import { formatMistake } from '../config/fields.ts';
import { type Config, DEFAULT_CONFIG_FILE, formatMistakes, loadConfig } from '../config/load.ts';
import { connectGate, type GateClient } from '../control/client.ts';
import { CliError, EXIT } from './exit-codes.ts';

/** The configuration, or CliError 78 with every mistake. Warnings go to stderr. `skipFiles`: the files that it names are not looked at. */
export function requireConfig(file: string, options: { readonly skipFiles?: boolean } = {}): Config {
  const loaded = loadConfig(file, process.env, options);
  for (const warning of loaded.warnings) process.stderr.write(`warning: ${formatMistake(warning)}\n`);
  if (!loaded.ok) throw new CliError(EXIT.badConfig, `bad configuration\n${formatMistakes(loaded.mistakes).trimEnd()}`);
  return loaded.config;
}

const DEFAULT_SOCKET = '/run/stile/gate.sock';

/** The socket that was named, else the configured one. A file with other mistakes in it does not hinder talking to a gate that runs. */
export function socketOf(options: { readonly config: string; readonly socket?: string }): string {
  if (options.socket !== undefined) return options.socket;
  const loaded = loadConfig(options.config, process.env);
  if (loaded.ok) return loaded.config.control.socket;
  if (options.config === DEFAULT_CONFIG_FILE) return DEFAULT_SOCKET;
  throw new CliError(EXIT.badConfig, `bad configuration\n${formatMistakes(loaded.mistakes).trimEnd()}`, "or name the gate's socket with --socket");
}

/** Connects, does the work, closes. */
export async function withGate<T>(options: { readonly config: string; readonly socket?: string }, work: (gate: GateClient) => Promise<T>): Promise<T> {
  const gate = await connectGate(socketOf(options));
  try {
    return await work(gate);
  } finally {
    gate.close();
  }
}
