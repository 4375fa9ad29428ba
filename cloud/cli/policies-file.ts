/** Reads policies from files. The only file of the cloud that imports yaml. */
import { readFileSync } from 'node:fs';
import { parseDocument } from 'yaml';
import { CliError, EXIT } from './context.ts';

/** Parses YAML (or JSON, which is YAML). Its content is checked where it is written. */
export function readPolicies(file: string): unknown {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw new CliError(EXIT.usage, `--policies ${file}: ${(error as Error).message}`);
  }
  const document = parseDocument(text, { prettyErrors: true });
  const errors = [...document.errors, ...document.warnings];
  if (errors.length > 0) throw new CliError(EXIT.usage, errors.map((error) => `${file}: ${error.message}`).join('\n'));
  return document.toJS({ maxAliasCount: 100 }) ?? {};
}
