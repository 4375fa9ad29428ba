/**
 * What docs/INSTALL.md tells people to type, taken from the document itself. A block is marked in the line before it:
 *
 *   <!-- run: server -->         once, on the server
 *   <!-- run: server, gate -->   on the server, for each gate
 *   <!-- run: gate -->           on each gate
 *   <!-- file: gate.yaml -->     written into a file of that name, for each gate
 *   <!-- carry -->               a list of files, `- name` each, carried from the server to the gate
 */

export type Step =
  | { readonly kind: 'run'; readonly where: 'server' | 'gate'; readonly eachGate: boolean; readonly command: string }
  | { readonly kind: 'file'; readonly name: string; readonly text: string }
  | { readonly kind: 'carry'; readonly files: readonly string[] };

const MARK = /^<!-- (run|file|carry)(?:: ([a-z0-9., -]+))? -->$/;

/** The marked blocks in their order, each command line a step of its own. Throws where a mark has no block, or says what is not known. */
export function stepsOf(document: string): readonly Step[] {
  const lines = document.split('\n');
  const steps: Step[] = [];
  lines.forEach((line, index) => {
    const mark = MARK.exec(line.trim());
    if (mark === null) {
      if (/^<!-- (run|file|carry)/.test(line.trim())) throw new Error(`line ${index + 1}: ${line} is no mark that is known`);
      return;
    }
    const [, kind, what = ''] = mark;
    if (kind === 'carry') {
      steps.push({ kind, files: listAfter(lines, index) });
      return;
    }
    const text = blockAfter(lines, index);
    if (kind === 'file') steps.push({ kind: 'file', name: what, text });
    else {
      const places: Readonly<Record<string, { where: 'server' | 'gate'; eachGate: boolean }>> = {
        server: { where: 'server', eachGate: false },
        'server, gate': { where: 'server', eachGate: true },
        gate: { where: 'gate', eachGate: true },
      };
      const place = places[what];
      if (place === undefined) throw new Error(`line ${index + 1}: ${what} is no place where commands are typed`);
      for (const command of commandsOf(text)) steps.push({ kind: 'run', ...place, command });
    }
  });
  return steps;
}

function blockAfter(lines: readonly string[], mark: number): string {
  if (!/^\s*```/.test(lines[mark + 1] ?? '')) throw new Error(`line ${mark + 1}: no block follows this mark`);
  const end = lines.findIndex((line, index) => index > mark + 1 && /^\s*```$/.test(line));
  if (end === -1) throw new Error(`line ${mark + 2}: this block has no end`);
  return lines.slice(mark + 2, end).join('\n');
}

function listAfter(lines: readonly string[], mark: number): readonly string[] {
  const files: string[] = [];
  for (let index = mark + 1; /^- `/.test(lines[index] ?? ''); index++) files.push(/^- `([^`]+)`/.exec(lines[index] as string)?.[1] as string);
  if (files.length === 0) throw new Error(`line ${mark + 1}: no list of files follows this mark`);
  return files;
}

/** A line that ends with a backslash goes on in the next one. */
const commandsOf = (text: string): readonly string[] =>
  text
    .replaceAll('\\\n', ' ')
    .split('\n')
    .map((line) => line.trim().replace(/ {2,}/g, ' '))
    .filter((line) => line !== '' && !line.startsWith('#'));
