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
  const mistakes = [...document.errors, ...document.warnings];
  if (mistakes.length > 0) throw new CliError(EXIT.usage, mistakes.map((mistake) => `${file}: ${mistake.message}`).join('\n'));
  return document.toJS({ maxAliasCount: 100 }) ?? {};
}
