/** Which Stile this is. The bundle has it built in; a checkout reads its own files. */
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';

export interface Version {
  readonly version: string;
  readonly commit: string;
  /** Unix ms: the wall clock is never believed below it. */
  readonly builtAtMs: number;
}

/** Put in place of this name by deploy/bundle.ts. */
declare const STILE_BUILD: Version | undefined;

/** Tells whether this is the bundle, which has the decider's worker beside its parts, as stile-decider.mjs. */
export const isBundle = (): boolean => typeof STILE_BUILD !== 'undefined';

/** Returns a line for `--version`: the program, its version, and the commit that a bundle was built from. */
export const versionText = (program: string): string => {
  const { version, commit } = stileVersion();
  return `${program} ${version} (${isBundle() ? commit : 'a checkout'})`;
};

/** Names exactly the program that runs; null in a checkout, whose code may change while its version does not. */
export function releaseName(): string | null {
  if (typeof STILE_BUILD === 'undefined') return null;
  const { version, commit, builtAtMs } = STILE_BUILD;
  return `${version}-${commit}-${builtAtMs}`;
}

export function stileVersion(): Version {
  if (typeof STILE_BUILD !== 'undefined') return STILE_BUILD;
  const root = join(import.meta.dirname, '..');
  const file = join(root, 'package.json');
  const { version } = JSON.parse(readFileSync(file, 'utf8')) as { version: string };
  return { version, commit: checkedOut(root), builtAtMs: statSync(file).mtimeMs };
}

/** Returns the commit that HEAD names, without running git; `unknown` where that can't be read. */
function checkedOut(root: string): string {
  try {
    const head = readFileSync(join(root, '.git/HEAD'), 'utf8').trim();
    const ref = /^ref: (.+)$/.exec(head)?.[1];
    return (ref === undefined ? head : readFileSync(join(root, '.git', ref), 'utf8').trim()).slice(0, 12);
  } catch {
    return 'unknown';
  }
}
