/**
 * Files that commands write, by root too, where somebody else may plant links: in the folder of a service, of the broker, of a user. A file appears
 * whole, with its owner and mode, or not at all; nothing is ever written, given away or opened to others through a link.
 */
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  constants,
  existsSync,
  fchmodSync,
  fchownSync,
  fsyncSync,
  lstatSync,
  openSync,
  readlinkSync,
  renameSync,
  type Stats,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_RDONLY, O_WRONLY } = constants;
/** Links on the way to a folder; more lead back to themselves. */
const MAX_LINKS = 40;
const STICKY = 0o1000;

/** The place is not one to write to; says why, and where to write instead. */
export class UnsafePlaceError extends Error {
  override name = 'UnsafePlaceError';
  readonly code = 'EUNSAFE';
}

export interface SafeFileOptions {
  /** Permissions of a new file. */
  readonly mode: number;
  /** A file that is replaced passes on its owner and its mode, without what lets others write. */
  readonly keep?: boolean;
  /** Whom root gives it to. */
  readonly owner?: { readonly uid: number; readonly gid: number };
  /** Nothing is replaced: a file that is there is an EEXIST. */
  readonly fresh?: boolean;
}

export interface SafeFile {
  /** Open for writing. */
  readonly fd: number;
  /** Puts the file in its place, on the disk. */
  commit(): void;
  /** Leaves things as they were; after `commit`: nothing. Never throws. */
  abandon(): void;
}

/** Writes the whole file. Throws UnsafePlaceError or the file system's error, with nothing changed. */
export function writeSafeFile(path: string, content: string | Uint8Array, options: SafeFileOptions): void {
  const file = openSafeFile(path, options);
  try {
    const bytes = typeof content === 'string' ? Buffer.from(content) : content;
    for (let at = 0; at < bytes.length; ) at += writeSync(file.fd, bytes, at);
    file.commit();
  } finally {
    file.abandon();
  }
}

/** Begins a file beside its place. Throws UnsafePlaceError or the file system's error. */
export function openSafeFile(path: string, options: SafeFileOptions): SafeFile {
  const target = resolve(path);
  const name = basename(target);
  const folder = openFolder(dirname(target));
  // Names below an open folder: whatever becomes of the way to it meanwhile, it is this folder.
  const within = existsSync(`/proc/self/fd/${folder.fd}`) ? `/proc/self/fd/${folder.fd}` : folder.path;
  const part = join(within, `.stile-${randomBytes(8).toString('hex')}.new`);
  let fd: number;
  try {
    const before = lstatSync(join(within, name), { throwIfNoEntry: false });
    refuseTarget(target, before, options.fresh === true);
    fd = openSync(part, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
    try {
      const kept = options.keep === true ? before : undefined;
      const owner = kept ?? options.owner;
      if (owner !== undefined && process.geteuid?.() === 0) fchownSync(fd, owner.uid, owner.gid);
      fchmodSync(fd, kept === undefined ? options.mode : kept.mode & 0o755);
    } catch (error) {
      closeSync(fd);
      unlinkSync(part);
      throw error;
    }
  } catch (error) {
    closeSync(folder.fd);
    throw error;
  }
  let open = true;
  let inPlace = false;
  const end = () => {
    open = false;
    closeSync(fd);
    closeSync(folder.fd);
  };
  return {
    fd,
    commit() {
      fsyncSync(fd);
      renameSync(part, join(within, name));
      inPlace = true;
      fsyncSync(folder.fd);
      end();
    },
    abandon() {
      if (!open) return;
      try {
        if (!inPlace) unlinkSync(part);
      } catch {
        // A part that stays is not the file; what is wrong with the disk is told by the error that led here.
      }
      end();
    },
  };
}

function refuseTarget(target: string, before: Stats | undefined, fresh: boolean): void {
  if (before === undefined) return;
  if (fresh) throw Object.assign(new Error(`${target} is there already`), { code: 'EEXIST' });
  if (before.isSymbolicLink()) throw new UnsafePlaceError(`${target} is a link: name the file itself, or remove the link`);
  if (!before.isFile()) throw new UnsafePlaceError(`${target} is no file: name another`);
}

/**
 * Opens the folder. For root, every folder above it must belong to root or to who asked by sudo, and be closed to others: whoever may rename there
 * could lead root elsewhere. The folder itself may be anybody's.
 */
function openFolder(path: string): { readonly fd: number; readonly path: string } {
  const asRoot = process.geteuid?.() === 0;
  let links = 0;
  let at = '/';
  const rest = path.split('/').filter((part) => part !== '');
  while (asRoot && rest.length > 0) {
    const above = lstatSync(at);
    if (!isTrusted(above))
      throw new UnsafePlaceError(
        `${at} is open to other users (owner ${above.uid}, mode ${(above.mode & 0o7777).toString(8)}), who could lead ${path} elsewhere: name a folder of root's`,
      );
    const next = join(at, rest.shift() as string);
    const stats = lstatSync(next);
    if (!stats.isSymbolicLink()) {
      at = next;
      continue;
    }
    if (!isOurs(stats.uid) || ++links > MAX_LINKS) throw new UnsafePlaceError(`${next} is a link of another user: name the folder itself, or remove the link`);
    const leads = readlinkSync(next);
    rest.unshift(...leads.split('/').filter((part) => part !== '' && part !== '.'));
    if (leads.startsWith('/')) at = '/';
  }
  const folder = asRoot ? at : path;
  return { fd: openSync(folder, asRoot ? O_RDONLY | O_DIRECTORY | O_NOFOLLOW : O_RDONLY | O_DIRECTORY), path: folder };
}

const isOurs = (uid: number): boolean => uid === 0 || (process.env['SUDO_UID'] !== undefined && uid === Number(process.env['SUDO_UID']));

function isTrusted({ uid, gid, mode }: Stats): boolean {
  if (!isOurs(uid)) return false;
  if ((mode & STICKY) !== 0) return true;
  const ourGroup = gid === 0 || (process.env['SUDO_GID'] !== undefined && gid === Number(process.env['SUDO_GID']));
  return (mode & 0o002) === 0 && ((mode & 0o020) === 0 || ourGroup);
}
