/**
 * Names what is released: version, commit, and the commit's time, so that the same commit makes the same bytes (reproducible-builds.org;
 * SOURCE_DATE_EPOCH wins where it is set).
 */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { stileVersion } from '../runtime/build-info.ts';

export interface Release {
  readonly version: string;
  /** Twelve digits of the commit; with `-changed` where files differ from it: such a release could not be made again. */
  readonly commit: string;
  readonly madeAtMs: number;
  /** A machine that has had this release takes none below this version (docs/RELEASING.md). */
  readonly floor: string;
}

/** Returns what a release of this checkout is called. Without git the time is the present, and the commit is unknown. */
export function releaseOf(root: string, env: NodeJS.ProcessEnv = process.env): Release {
  const { version, stile } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string; stile: { version_floor: string } };
  const head = git(root, 'rev-parse', '--short=12', 'HEAD');
  const changed = head !== null && git(root, 'status', '--porcelain', '--untracked-files=no') !== '';
  const commit = head === null ? stileVersion().commit : `${head}${changed ? '-changed' : ''}`;
  return { version, commit, madeAtMs: timeOf(root, env), floor: stile.version_floor };
}

function timeOf(root: string, env: NodeJS.ProcessEnv): number {
  const given = env['SOURCE_DATE_EPOCH'];
  if (given !== undefined && /^\d{1,12}$/.test(given)) return Number(given) * 1000;
  const seconds = git(root, 'log', '-1', '--format=%ct');
  return seconds !== null && /^\d+$/.test(seconds) ? Number(seconds) * 1000 : Date.now();
}

function git(root: string, ...args: readonly string[]): string | null {
  const { status, stdout } = spawnSync('git', ['-C', root, ...args], { encoding: 'utf8' });
  return status === 0 ? stdout.trim() : null;
}
