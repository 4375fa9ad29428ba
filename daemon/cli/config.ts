/** Implements check-config and config. */
import { firmwareLines, normaliseLines } from '../board/pin-map.ts';
import { formatConfigError } from '../config/fields.ts';
import { effectiveSettings, formatConfigErrors, loadConfig } from '../config/load.ts';
import { requireConfig } from './context.ts';
import { CliError, EXIT, print } from './exit-codes.ts';
import type { CommonOptions } from './options.ts';

export function checkConfig(options: CommonOptions & { readonly skipFiles?: boolean }): void {
  const loaded = loadConfig(options.config, process.env, { skipFiles: options.skipFiles === true || process.env.STILE_SKIP_FILES === '1' });
  const errors = loaded.ok ? [] : loaded.errors;
  if (options.json === true) process.stdout.write(`${JSON.stringify({ ok: loaded.ok, errors, warnings: loaded.warnings }, null, 2)}\n`);
  else for (const warning of loaded.warnings) process.stderr.write(`warning: ${formatConfigError(warning)}\n`);
  if (loaded.ok) {
    if (options.json !== true)
      process.stdout.write(
        `${options.config}: ok${loaded.config.files.length > 1 ? `, with ${loaded.config.files.length - 1} from conf.d` : ''}; this is gate ${loaded.config.gate}\n`,
      );
    return;
  }
  if (options.json === true) process.exitCode = EXIT.badConfig;
  else throw new CliError(EXIT.badConfig, `bad configuration\n${formatConfigErrors(errors).trimEnd()}`);
}

export function showConfig(options: CommonOptions & { readonly bootLines?: boolean }): void {
  // The installer calls this too, on an SD card that has no certificates yet.
  const config = requireConfig(options.config, { skipFiles: options.bootLines === true });
  if (options.bootLines === true) {
    const lines = config.board.driver === 'gpio' ? firmwareLines(normaliseLines(config.board)) : [];
    print(options.json, lines, () => lines.join('\n'));
    return;
  }
  const settings = effectiveSettings(config);
  const loaded = loadConfig(options.config, process.env);
  const origins = loaded.ok ? loaded.origins : new Map();
  print(options.json, settings, () =>
    flat(settings)
      .map(([key, value]) => {
        const origin = nearest(origins, key);
        const from = origin === undefined ? 'default' : origin.line === null ? origin.file : `${origin.file}:${origin.line}`;
        return `${`${key}: ${JSON.stringify(value)}`.padEnd(56)} # ${from}`;
      })
      .join('\n'),
  );
}

function flat(value: unknown, key = ''): [string, unknown][] {
  if (Array.isArray(value)) return value.flatMap((item, index) => flat(item, `${key}[${index}]`));
  if (value !== null && typeof value === 'object') return Object.entries(value).flatMap(([name, inner]) => flat(inner, key === '' ? name : `${key}.${name}`));
  return [[key, value]];
}

/** Returns the origin of a setting; undefined for a default. */
const nearest = (origins: ReadonlyMap<string, { file: string; line: number | null }>, key: string) => origins.get(key);
