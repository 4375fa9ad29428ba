/** PostgreSQL servers that people have: what Debian 12 and 13 ship (brought by ./fetch), and the embedded one. */
import { spawnSync } from 'node:child_process';
import { lstatSync, mkdirSync, mkdtempSync, readdirSync, symlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { type RunningPostgres, readableFolder, type ServerPrograms, startPostgres, unprivilegedUser } from '../../testkit/postgres.ts';

export const SERVERS = ['15', '17', 'embedded'] as const;
export type ServerName = (typeof SERVERS)[number];

const root = join(import.meta.dirname, '../..');

/** Brings a server's packages; null, or why this machine cannot have them. Seconds the first time, then nothing. */
export function bringServer(name: ServerName): string | null {
  if (name === 'embedded') return null;
  const { status, stderr } = spawnSync(join(import.meta.dirname, 'fetch'), [name], { encoding: 'utf8' });
  if (status === 0) return null;
  const why = stderr.trim().split('\n').at(-1) ?? '';
  if (status === 69) return why;
  throw new Error(`test/postgres/fetch ${name} failed (${status}): ${why}`);
}

/** Starts one, empty, without waiting for the disk. */
export function startServer(name: ServerName): Promise<RunningPostgres> {
  if (name === 'embedded') return startPostgres({ fsync: false, databaseUrl: undefined });
  const folder = join(root, `.tools/postgres-${name}/root`);
  const programs = name === '15' ? unpacked(folder, name) : inItsRoot(folder, name);
  if (name === '15') return startPostgres({ fsync: false, databaseUrl: undefined, programs });
  mkdirSync(join(folder, 'var/tmp'), { recursive: true });
  return startPostgres({ fsync: false, databaseUrl: undefined, programs, dir: mkdtempSync(join(folder, 'var/tmp/stile-postgres-')), persistent: false });
}

function unpacked(folder: string, version: string): ServerPrograms {
  const place = process.getuid?.() === 0 ? readableFolder(folder, `stile-postgres-${version}-${process.arch}`) : folder;
  const bin = join(place, 'usr/lib/postgresql', version, 'bin');
  const libraries = ['usr/lib', 'lib'].flatMap((dir) => {
    try {
      return readdirSync(join(place, dir))
        .filter((name) => name.endsWith('-linux-gnu'))
        .map((name) => join(place, dir, name));
    } catch {
      return [];
    }
  });
  return { initdb: [join(bin, 'initdb')], postgres: [join(bin, 'postgres')], locale: ['--locale=C.UTF-8'], libraryPath: libraries.join(':') };
}

/** In a root of its own every path of ours must be the same: inside, the root's own path leads back to it. */
function inItsRoot(folder: string, version: string): ServerPrograms {
  const link = join(folder, folder);
  if (lstatSync(link, { throwIfNoEntry: false }) === undefined) {
    mkdirSync(dirname(link), { recursive: true });
    symlinkSync('/', link);
  }
  const { uid, gid } = unprivilegedUser();
  const call = (program: string) => ['/usr/sbin/chroot', `--userspec=${uid}:${gid}`, folder, `/usr/lib/postgresql/${version}/bin/${program}`];
  return {
    initdb: call('initdb'),
    postgres: call('postgres'),
    locale: ['--locale=C', '--locale-provider=builtin', '--builtin-locale=C.UTF-8'],
    asRoot: true,
  };
}
