/**
 * Promises that nobody waits for, found with the compiler's own types: a lost `await` before something is promised is the fault (FAULTS M2) that
 * every other test may miss. Biome's `noFloatingPromises` is on as well, and quicker; but it does not know the types of `node:` modules, so `file.sync()` and
 * `rename()` pass it: of 420 awaits that were taken out of the product on trial it missed 94, this check none that stood alone in a statement.
 *
 * A statement whose value is a promise must await it, handle its failure (`.catch(f)`, `.then(f, g)`) or say `void` (nobody waits, on purpose).
 * A function that returns a promise must not stand where one is expected whose result nobody looks at. A `catch` that does nothing says why.
 */

import { type CallExpression, type Expression, type Node, type SourceFile, SyntaxKind } from 'typescript/unstable/ast';
import * as is from 'typescript/unstable/ast/is';
import { API, type Checker, SignatureKind, type Type } from 'typescript/unstable/sync';

export interface Finding {
  /** Relative to the tree. */
  readonly file: string;
  readonly line: number;
  readonly what: 'floating' | 'misused' | 'silent';
  readonly text: string;
}

/** Checks every file of the project at `root` that `concerned` names. */
export function unheldPromises(root: string, concerned: (file: string) => boolean): Finding[] {
  const api = new API({ cwd: root });
  try {
    const snapshot = api.updateSnapshot({ openProjects: [`${root}/tsconfig.json`] });
    const project = snapshot.getProjects()[0];
    if (project === undefined) throw new Error(`no project at ${root}`);
    const findings: Finding[] = [];
    const { program, checker } = project;
    const promises = new Map<number, boolean>();
    for (const name of program.getSourceFileNames()) {
      if (!name.startsWith(`${root}/`) || !concerned(name.slice(root.length + 1))) continue;
      const file = program.getSourceFile(name);
      if (file === undefined) throw new Error(`${name} cannot be read`);
      const at = (node: Node, what: Finding['what']): Finding => {
        const begins = node.getStart(file);
        return {
          file: name.slice(root.length + 1),
          line: file.text.slice(0, begins).split('\n').length,
          what,
          text: (file.text.slice(begins, node.end).split('\n')[0] as string).slice(0, 160),
        };
      };
      const statements = expressionsOf(file);
      const types = statements.length === 0 ? [] : checker.getTypeAtLocation(statements);
      for (const [index, type] of types.entries())
        if (type !== undefined && isPromise(checker, type, promises)) findings.push(at(statements[index] as Node, 'floating'));
      for (const empty of silentCatches(file)) findings.push(at(empty, 'silent'));
      const given = functionsGiven(file).filter(mayReturnPromise);
      const own = given.length === 0 ? [] : checker.getTypeAtLocation(given);
      for (const [index, one] of given.entries()) if (resultIsLost(checker, one, own[index], promises)) findings.push(at(one, 'misused'));
    }
    return findings;
  } finally {
    api.close();
  }
}

/** Every expression whose value nobody takes, down to what makes the promise: both sides of `a && b()`, the receiver of `.finally()`. */
function expressionsOf(file: SourceFile): Expression[] {
  const found: Expression[] = [];
  const add = (node: Expression): void => {
    if (is.isParenthesizedExpression(node)) return add(node.expression);
    if (is.isConditionalExpression(node)) {
      add(node.whenTrue);
      add(node.whenFalse);
      return;
    }
    if (is.isBinaryExpression(node)) {
      const { kind } = node.operatorToken;
      if (kind === SyntaxKind.CommaToken) add(node.left);
      if (
        kind === SyntaxKind.CommaToken ||
        kind === SyntaxKind.AmpersandAmpersandToken ||
        kind === SyntaxKind.BarBarToken ||
        kind === SyntaxKind.QuestionQuestionToken
      )
        add(node.right);
      return;
    }
    if (is.isAwaitExpression(node) || is.isVoidExpression(node) || is.isDeleteExpression(node)) return;
    if (is.isCallExpression(node) && handled(node)) return;
    if (is.isCallExpression(node) || is.isIdentifier(node) || is.isPropertyAccessExpression(node) || is.isNewExpression(node)) found.push(node);
  };
  const visit = (node: Node): void => {
    if (is.isExpressionStatement(node)) add(node.expression);
    node.forEachChild(visit);
  };
  visit(file);
  return found;
}

/** `.catch(f)`, `.then(f, g)`, and either of them before `.finally(…)`. */
function handled(call: CallExpression): boolean {
  if (!is.isPropertyAccessExpression(call.expression)) return false;
  const name = call.expression.name.text;
  if (name === 'catch') return call.arguments.length >= 1;
  if (name === 'then') return call.arguments.length >= 2;
  const receiver = call.expression.expression;
  return name === 'finally' && is.isCallExpression(receiver) && handled(receiver);
}

/** Returns the places where an error is swallowed: an empty `catch`, or `.catch(() => undefined)`, with no comment in it, beside it or above it. */
function silentCatches(file: SourceFile): Node[] {
  const found: Node[] = [];
  const lines = file.text.split('\n');
  /** By a comment in it, beside it, above it, or above the statement that it belongs to. */
  const explained = (node: Node, statement: Node | undefined): boolean => isExplained(node) || (statement !== undefined && isExplained(statement, node));
  const isExplained = (node: Node, end: Node = node): boolean => {
    const first = file.text.slice(0, node.getStart(file)).split('\n').length - 1;
    const last = file.text.slice(0, end.end).split('\n').length - 1;
    return lines.slice(Math.max(first - 1, 0), last + 1).some((line, index) => (index === 0 && first > 0 ? /^\s*(\/\/|\/?\*)/ : /\/\/|\/\*/).test(line));
  };
  const empty = (body: Node): boolean =>
    is.isBlock(body) ? body.statements.length === 0 : is.isIdentifier(body) ? body.text === 'undefined' : is.isVoidExpression(body);
  const visit = (node: Node, outer: Node | undefined): void => {
    const statement = is.isExpressionStatement(node) || is.isReturnStatement(node) || is.isVariableStatement(node) ? node : outer;
    if (is.isCatchClause(node) && empty(node.block) && !explained(node, undefined)) found.push(node);
    if (is.isCallExpression(node) && is.isPropertyAccessExpression(node.expression) && node.expression.name.text === 'catch') {
      const given = node.arguments[0];
      if (given !== undefined && is.isArrowFunction(given) && empty(given.body) && !explained(given, statement)) found.push(given);
    }
    node.forEachChild((child) => visit(child, statement));
  };
  visit(file, undefined);
  return found;
}

function functionsGiven(file: SourceFile): Expression[] {
  const found: Expression[] = [];
  const visit = (node: Node): void => {
    if (is.isCallExpression(node) || is.isNewExpression(node))
      for (const given of node.arguments ?? []) if (is.isArrowFunction(given) || is.isFunctionExpression(given)) found.push(given);
    node.forEachChild(visit);
  };
  visit(file);
  return found;
}

/** Leaves out functions whose text shows that they return nothing, or no promise: each type that is asked for costs a call to the compiler. */
function mayReturnPromise(given: Expression): boolean {
  if (!is.isArrowFunction(given) && !is.isFunctionExpression(given)) return false;
  if (given.modifiers?.some(({ kind }) => kind === SyntaxKind.AsyncKeyword) === true) return true;
  let { body } = given;
  if (body === undefined) return false;
  while (is.isParenthesizedExpression(body)) body = body.expression;
  if (is.isBlock(body)) return returnsValue(body);
  return (
    is.isCallExpression(body) ||
    is.isConditionalExpression(body) ||
    is.isBinaryExpression(body) ||
    is.isIdentifier(body) ||
    is.isPropertyAccessExpression(body) ||
    is.isNewExpression(body)
  );
}

function returnsValue(body: Node): boolean {
  let found = false;
  const visit = (node: Node): void => {
    if (found || is.isArrowFunction(node) || is.isFunctionExpression(node) || is.isFunctionDeclaration(node)) return;
    if (is.isReturnStatement(node) && node.expression !== undefined) found = true;
    else node.forEachChild(visit);
  };
  body.forEachChild(visit);
  return found;
}

function resultIsLost(checker: Checker, given: Expression, own: Type | undefined, known: Map<number, boolean>): boolean {
  if (own === undefined || !returns(checker, own).some((type) => isPromise(checker, type, known))) return false;
  const expected = checker.getContextualType(given);
  if (expected === undefined) return false;
  const results = (expected.isUnionType() ? (expected.getTypes() ?? []) : [expected]).flatMap((type) => returns(checker, type));
  return results.length > 0 && results.every((type) => type.id === checker.getVoidType().id);
}

function returns(checker: Checker, type: Type): Type[] {
  return checker.getSignaturesOfType(type, SignatureKind.Call).flatMap((signature) => checker.getReturnTypeOfSignature(signature) ?? []);
}

function isPromise(checker: Checker, type: Type, known: Map<number, boolean>): boolean {
  const before = known.get(type.id);
  if (before !== undefined) return before;
  const parts = type.isUnionType() ? (type.getTypes() ?? []) : null;
  const found =
    parts !== null
      ? parts.some((part) => isPromise(checker, part, known))
      : type.isObjectType() && ['then', 'catch'].every((name) => checker.getPropertyOfType(type, name) !== undefined);
  known.set(type.id, found);
  return found;
}
