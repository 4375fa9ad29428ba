/** Reads the doc comments of TypeScript sources: what each one stands at, and whether it begins as docs/STYLE.md asks. */
import { createRandom } from '../../testkit/prng.ts';

/** One doc comment. `kind` is what it documents; `line` counts from 1; `text` is one line, without the stars. */
export interface DocComment {
  readonly path: string;
  readonly line: number;
  readonly kind: 'file' | 'function' | 'type' | 'constant' | 'member';
  readonly name: string;
  readonly text: string;
}

/** Characters after a comment in which an arrow function's parameters must end; one with more counts as a constant. */
const MAX_HEAD_CHARS = 600;
/** A constant that is an arrow function: `name: type = async (…): type =>`. */
const ARROW = /^[^=\n]*(?:=>[^=\n]*)?= (?:async )?(?:<[^>]*>)?(?:\([^;{]*?\)(?:: [^=]*?)? =>|[\w$]+ =>|function)/;

/** Returns what a declaration, as the text after a comment, declares. */
function declared(after: string): Pick<DocComment, 'kind' | 'name'> {
  const [, , keyword, named] =
    /^(export )?(?:default )?(?:declare )?(?:abstract )?(?:async )?(function\*?|interface|type|class|enum|const|let) ([\w$]+)/.exec(after) ?? [];
  if (keyword === undefined) {
    const method = /^(?:readonly |static |private |async |\*)*([\w$#]+)\??(?:(?:<[^>]*>)?\(|: (?:async )?\([^)]*\)(?:: [^=]+)? =>|: (?:\([^)]*\)) =>)/.exec(
      after,
    );
    if (method !== null) return { kind: 'function', name: method[1] as string };
    return { kind: 'member', name: /^(?:readonly |static |private )*(['\w$#-]+)/.exec(after)?.[1] ?? '' };
  }
  const name = named as string;
  if (/^(interface|type|class|enum)/.test(keyword)) return { kind: 'type', name };
  if (keyword.startsWith('function')) return { kind: 'function', name };
  return { kind: ARROW.test(after.slice(0, MAX_HEAD_CHARS)) ? 'function' : 'constant', name };
}

/** Returns the doc comments of a source text, in order. */
export function commentsOf(path: string, source: string): DocComment[] {
  return [...source.matchAll(/^[ \t]*\/\*\*([\s\S]*?)\*\/[ \t]*/gm)].map((match) => {
    const rest = source.slice(match.index + match[0].length);
    const text = (match[1] as string)
      .split('\n')
      .map((one) => one.replace(/^\s*\*? ?/, '').trim())
      .filter((one) => one !== '')
      .join(' ')
      .trim();
    const line = source.slice(0, match.index).split('\n').length + (/^\s*\n/.test(match[0]) ? 1 : 0);
    const after = rest.replace(/^\s*(?:\/\/[^\n]*\n\s*)*/, '');
    const head = /^(?:#![^\n]*\n)?\s*$/.test(source.slice(0, match.index)) && (/^\n\s*\n/.test(rest) || /^\s*(?:import|export (?:\*|\{))/.test(rest));
    return { path, line, text, ...(head ? { kind: 'file' as const, name: path } : declared(after)) };
  });
}

/** The beginnings of a noun clause: what a reader must finish before he knows what the function does. */
const NOUN_CLAUSE =
  /^(?:What|Who|Whom|Whose|Which|How|Where|When|Why|Whether|That|Of|So (?:often|long|many|much|far|late|early)|Since when|Until when|For (?:how|what|whom)|From (?:where|what|whom|which)|To (?:whom|what|which)|In (?:which|what)|By (?:which|what|whom)|With (?:which|what)|At (?:which|what))\b/;

/** A comment that asks instead of stating: "Is the row counted?" */
const QUESTION = /^(?:Is|Are|Was|Were|Does|Do|Did|Has|Have|Can|May|Must|Will) [^.]*\?/;

/** Returns the comments of functions and types that begin with a noun clause or a question. */
export const nounClauses = (comments: readonly DocComment[]): DocComment[] =>
  comments.filter(({ kind, text }) => (kind === 'function' || kind === 'type') && (NOUN_CLAUSE.test(text) || QUESTION.test(text)));

/** Draws `count` comments of functions, types and constants by a seed. */
export function drawComments(comments: readonly DocComment[], seed: number, count: number): DocComment[] {
  const left = comments.filter(({ kind }) => kind !== 'file');
  const random = createRandom(seed);
  return Array.from({ length: Math.min(count, left.length) }, () => left.splice(random.below(left.length), 1)[0] as DocComment);
}
