/**
 * What a disk may hold after the power went, from the record of what was asked of it.
 *
 * Data: what was written before the last finished sync of a file is there; of what came after, each write may be there, be missing, or be
 * there in parts (whole sectors of 512 bytes, or whole pages of 4 KiB). Names: what was changed before the last finished sync of their
 * folder is there; of what came after, each may be there or not. That is harsher than ext4, where a sync of any file also keeps every
 * name changed before it, and where names change in order.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Random } from '../../testkit/prng.ts';
import type { Op } from './record.ts';

const SECTOR_BYTES = 512;
const PAGE_BYTES = 4_096;

interface Change {
  readonly kind: 'write' | 'truncate';
  readonly offset: number;
  readonly data: Buffer;
}
interface Inode {
  bytes: Buffer;
  size: number;
  pending: Change[];
}
interface Name {
  readonly op: 'create' | 'unlink' | 'rename' | 'link' | 'mkdir';
  readonly inode: number;
  readonly path: string;
  readonly to: string;
}
/** Path → inode; 0 is a folder. */
type Names = Map<string, number>;
const FOLDER = 0;

/** Files by path; null is a folder. */
export type Image = ReadonlyMap<string, Buffer | null>;

/** The manner of a power cut: `kept` and `lost` are the two ends; in `order` a beginning of what was not synced is there; in `any` each is there or not. */
export type Manner = 'kept' | 'lost' | 'order' | 'any';

export interface DiskModel {
  /** The next thing that was asked of the disk. */
  apply(op: Op): void;
  /** Returns the files that may be found if the power goes now. */
  cut(random: Random, manner: Manner): Image;
}

/** SQLite's shared memory is rebuilt by whoever opens the database first: no part of what must survive. */
const passing = (path: string): boolean => path.endsWith('-shm');

/** `start`: what lies there, synced, before the first entry of the record; by the inodes that the record will name. */
export function createDiskModel(start: ReadonlyMap<string, { readonly inode: number; readonly data: Buffer | null }>): DiskModel {
  const inodes = new Map<number, Inode>();
  const names: Names = new Map();
  let waiting: Name[] = [];
  for (const [path, { inode, data }] of start) {
    names.set(path, data === null ? FOLDER : inode);
    if (data !== null) inodes.set(inode, { bytes: Buffer.from(data), size: data.length, pending: [] });
  }
  const inodeOf = (inode: number): Inode => {
    const known = inodes.get(inode);
    if (known !== undefined) return known;
    const made: Inode = { bytes: Buffer.alloc(PAGE_BYTES), size: 0, pending: [] };
    inodes.set(inode, made);
    return made;
  };

  return {
    apply(op) {
      if (passing(op.path)) return;
      switch (op.op) {
        case 'write':
          inodeOf(op.inode).pending.push({ kind: 'write', offset: op.offset, data: op.data });
          return;
        case 'truncate':
          inodeOf(op.inode).pending.push({ kind: 'truncate', offset: op.offset, data: op.data });
          return;
        case 'sync': {
          const file = inodes.get(op.inode);
          if (file !== undefined) {
            for (const change of file.pending) change.kind === 'write' ? put(file, change.offset, change.data) : resize(file, change.offset);
            file.pending = [];
            return;
          }
          for (const name of waiting) if (folderOf(name) === op.path) rename(names, name);
          waiting = waiting.filter((name) => folderOf(name) !== op.path);
          return;
        }
        case 'create':
          inodeOf(op.inode);
          waiting.push({ op: 'create', inode: op.inode, path: op.path, to: '' });
          return;
        case 'rename':
        case 'link':
        case 'unlink':
        case 'mkdir':
          waiting.push({ op: op.op, inode: op.inode, path: op.path, to: op.to });
          return;
        default:
          return;
      }
    },
    cut(random, manner) {
      const found: Names = new Map(names);
      const upto = manner === 'kept' ? waiting.length : manner === 'order' ? random.below(waiting.length + 1) : 0;
      waiting.forEach((name, n) => {
        if (n < upto || (manner === 'any' && random.chance(0.5))) rename(found, name);
      });
      const image = new Map<string, Buffer | null>();
      for (const [path, inode] of [...found].sort(([a], [b]) => (a < b ? -1 : 1))) {
        const folder = dirname(path);
        if (folder !== '.' && image.get(folder) !== null) continue;
        image.set(path, inode === FOLDER ? null : contentAfter(inodeOf(inode), random, manner));
      }
      return image;
    },
  };
}

const folderOf = (name: Name): string => {
  const folder = dirname(name.path);
  return folder === '.' ? '' : folder;
};

function rename(names: Names, { op, inode, path, to }: Name): void {
  if (op === 'unlink') names.delete(path);
  else if (op === 'mkdir') names.set(path, FOLDER);
  else if (op === 'create') names.set(path, inode);
  else {
    if (op === 'rename') names.delete(path);
    names.set(to, inode);
  }
}

function put(file: Inode, offset: number, data: Buffer): void {
  const end = offset + data.length;
  if (end > file.bytes.length) {
    const larger = Buffer.alloc(Math.max(end, file.bytes.length * 2));
    file.bytes.copy(larger, 0, 0, file.size);
    file.bytes = larger;
  }
  data.copy(file.bytes, offset);
  file.size = Math.max(file.size, end);
}

function resize(file: Inode, size: number): void {
  if (size > file.size) put(file, size - 1, Buffer.alloc(1));
  // What lay beyond a cut end is gone, should the file grow again.
  else file.bytes.fill(0, size, file.size);
  file.size = size;
}

function contentAfter(file: Inode, random: Random, manner: Manner): Buffer {
  if (file.pending.length === 0 || manner === 'lost') return file.bytes.subarray(0, file.size);
  const after: Inode = { bytes: Buffer.from(file.bytes.subarray(0, file.size)), size: file.size, pending: [] };
  const upto = manner === 'kept' ? file.pending.length : manner === 'order' ? random.below(file.pending.length + 1) : 0;
  file.pending.forEach((change, n) => {
    const last = manner === 'order' && n === upto;
    const fate = n < upto ? 'there' : manner === 'any' ? random.pick(['there', 'missing', 'parts'] as const) : last ? 'parts' : 'missing';
    if (fate === 'missing') return;
    if (change.kind === 'truncate') {
      if (fate === 'there') resize(after, change.offset);
    } else if (fate === 'there') put(after, change.offset, change.data);
    else torn(after, change, random);
  });
  return after.bytes.subarray(0, after.size);
}

/** Some sectors of a write, cut where the disk's sectors end. */
function torn(file: Inode, change: Change, random: Random): void {
  const unit = random.chance(0.5) ? SECTOR_BYTES : PAGE_BYTES;
  const share = random.next();
  const end = change.offset + change.data.length;
  for (let from = change.offset; from < end; ) {
    const next = Math.min(end, (Math.floor(from / unit) + 1) * unit);
    if (random.chance(share)) put(file, from, change.data.subarray(from - change.offset, next - change.offset));
    from = next;
  }
}

/** Writes an image to an empty folder. */
export function writeImage(folder: string, image: Image): void {
  for (const [path, data] of image) {
    if (data === null) mkdirSync(join(folder, path));
    else writeFileSync(join(folder, path), data);
  }
}
