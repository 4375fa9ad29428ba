/** Every command of a command line, found by its own help, so that a new one is asked without being listed anywhere. */
import { type CommandResult, run } from '../../testkit/stack.ts';

/** More levels than these are a help that names itself. */
const MAX_DEPTH = 4;

/** Asks each command, and each command below it, for its help. Answers `command words` and what was said. */
export async function everyHelp(
  launcher: string,
  env: NodeJS.ProcessEnv,
  path: readonly string[] = [],
): Promise<readonly { readonly command: string; readonly result: CommandResult }[]> {
  if (path.length > MAX_DEPTH) throw new Error(`the help of ${path.join(' ')} never ends`);
  const result = await run(launcher, [...path, '--help'], env);
  const below = await Promise.all(commandsOf(result.stdout).map((name) => everyHelp(launcher, env, [...path, name])));
  return [{ command: path.join(' '), result }, ...below.flat()];
}

/** The names in the part "Commands:" of a help; `help` itself is none. */
function commandsOf(help: string): readonly string[] {
  const part = /^Commands:\n((?: .*\n?)+)/m.exec(help)?.[1] ?? '';
  return [...part.matchAll(/^ {2}([a-z][a-z-]*)/gm)].map((match) => match[1] as string).filter((name) => name !== 'help');
}
