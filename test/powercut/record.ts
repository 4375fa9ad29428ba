/** The record of a process's disk, made by recording-disk.c: compiled, preloaded, read back. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const source = fileURLToPath(new URL('recording-disk.c', import.meta.url));
/** Six numbers of eight bytes. */
const HEAD_BYTES = 48;
const OPS = ['none', 'write', 'truncate', 'sync', 'create', 'rename', 'unlink', 'mkdir', 'link', 'mark'] as const;

/** One thing that was asked of the disk, or a mark of the process. Paths are relative to the folder; '' is the folder itself. */
export interface Op {
  readonly op: (typeof OPS)[number];
  readonly inode: number;
  /** Of a write: where. Of a truncate: the new size. Bytes. */
  readonly offset: number;
  readonly path: string;
  /** Of a rename or link: the new name. */
  readonly to: string;
  readonly data: Buffer;
}

/** Compiles the recorder to `library`. Throws where it does not compile. */
export function compileRecorder(compiler: string, library: string): void {
  const { status, stderr } = spawnSync(compiler, ['-shared', '-fPIC', '-O2', '-Wall', '-Wextra', '-Werror', '-o', library, source, '-ldl'], {
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`recording-disk.c does not compile: ${stderr}`);
}

/** Reads a record; an entry that a kill cut short ends it. */
export function readRecord(path: string): Op[] {
  const bytes = readFileSync(path);
  const ops: Op[] = [];
  for (let at = 0; at + HEAD_BYTES <= bytes.length; ) {
    const [code = 0, inode = 0, offset = 0, pathBytes = 0, toBytes = 0, dataBytes = 0] = [0, 1, 2, 3, 4, 5].map((n) =>
      Number(bytes.readBigInt64LE(at + n * 8)),
    );
    const op = OPS[code];
    if (op === undefined || op === 'none') throw new Error(`${path}: no such entry (${code}) at ${at}`);
    at += HEAD_BYTES;
    if (at + pathBytes + toBytes + dataBytes > bytes.length) break;
    const name = bytes.toString('utf8', at, at + pathBytes);
    const to = bytes.toString('utf8', at + pathBytes, at + pathBytes + toBytes);
    at += pathBytes + toBytes;
    ops.push({ op, inode, offset, path: name, to, data: bytes.subarray(at, at + dataBytes) });
    at += dataBytes;
  }
  return ops;
}
