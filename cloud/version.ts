/** Which Stile this is. The bundle has it built in; a checkout reads its own package.json. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Put in place of this name by deploy/bundle.ts. */
declare const STILE_BUILD: { readonly version: string; readonly commit: string } | undefined;

/** Such as `0.1.0`; `unknown` where a checkout has lost its package.json. */
export function ownVersion(): string {
  if (typeof STILE_BUILD !== 'undefined') return STILE_BUILD.version;
  try {
    return (JSON.parse(readFileSync(join(import.meta.dirname, '..', 'package.json'), 'utf8')) as { version: string }).version;
  } catch {
    return 'unknown';
  }
}

/** With the commit that a bundle was built from. */
export const versionWords = (): string => `stile-cloud ${ownVersion()} (${typeof STILE_BUILD === 'undefined' ? 'a checkout' : STILE_BUILD.commit})`;
