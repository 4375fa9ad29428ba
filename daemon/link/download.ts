/** Downloads one file from the cloud: bounded, resumed after an interruption, checked by SHA-256. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, rm, stat, statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { type CloudClient, problemOf } from './cloud-client.ts';

/** Disk space, in bytes, that a download leaves free for the ledger; with less, it fails. The decider keeps a copy, so a file needs its size twice. */
export const DISK_RESERVE_BYTES = 64 * 1024 * 1024;

export interface Download {
  readonly url: string;
  /** Path of the file; a partial one is resumed. Name it after the content. */
  readonly path: string;
  readonly sizeBytes: number;
  readonly sha256: string;
  readonly accept: string;
  readonly signal: AbortSignal;
  readonly progress: (receivedBytes: number) => void;
}

/** `lasting`: a retry fails as well until another file is wanted. */
export type Downloaded = { readonly ok: true } | { readonly ok: false; readonly lasting: boolean; readonly message: string };

/** Downloads. Never rejects. Keeps a partial file at `path` for the next attempt; deletes a corrupt one. */
export async function download(client: CloudClient, file: Download): Promise<Downloaded> {
  try {
    const have = await sizeOf(file.path);
    if (have < file.sizeBytes) {
      const { bavail, bsize } = await statfs(dirname(file.path));
      const free = bavail * bsize;
      if (free < file.sizeBytes - have + file.sizeBytes + DISK_RESERVE_BYTES)
        return {
          ok: false,
          lasting: false,
          message: `not enough disk space: ${mib(free)} MiB free, twice ${mib(file.sizeBytes)} MiB and a reserve are needed`,
        };
      const failed = await receive(client, file, have);
      if (failed !== null) return failed;
    }
    const sha256 = await hash(file.path, file.signal);
    if (sha256 === file.sha256) return { ok: true };
    await rm(file.path, { force: true });
    return { ok: false, lasting: false, message: `the file's SHA-256 is ${sha256}, ${file.sha256} is wanted` };
  } catch (error) {
    return { ok: false, lasting: false, message: (error as Error).message || String(error) };
  }
}

async function receive(client: CloudClient, file: Download, have: number): Promise<Downloaded | null> {
  const response = await client.get(file.url, {
    accept: file.accept,
    signal: file.signal,
    headers: have > 0 ? { range: `bytes=${have}-`, 'if-range': `"${file.sha256}"` } : {},
  });
  const { status, body } = response;
  if (status !== 200 && status !== 206) {
    const problem = await problemOf(response);
    if (status === 416) await rm(file.path, { force: true });
    // Gone or forbidden: a newer manifest/want names the present file.
    return { ok: false, lasting: status === 404 || status === 403 || status === 410, message: problem.text };
  }
  const resumed = status === 206;
  if (resumed && !(response.headers['content-range'] ?? '').startsWith(`bytes ${have}-`)) {
    body.destroy();
    await rm(file.path, { force: true });
    return { ok: false, lasting: false, message: 'the cloud answered with another range than requested' };
  }
  let received = resumed ? have : 0;
  const handle = await open(file.path, resumed ? 'a' : 'w', 0o600);
  try {
    for await (const chunk of body) {
      received += chunk.byteLength;
      if (received > file.sizeBytes) {
        body.destroy();
        await handle.truncate(0);
        return { ok: false, lasting: false, message: `more than the ${file.sizeBytes} bytes that manifest/want names` };
      }
      await handle.write(chunk);
      file.progress(received);
    }
  } finally {
    await handle.close();
  }
  return received === file.sizeBytes ? null : { ok: false, lasting: false, message: `the connection ended after ${received} of ${file.sizeBytes} bytes` };
}

const mib = (bytes: number): number => Math.floor(bytes / 1_048_576);

async function sizeOf(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch {
    return 0;
  }
}

async function hash(path: string, signal: AbortSignal): Promise<string> {
  const sum = createHash('sha256');
  for await (const chunk of createReadStream(path, { signal })) sum.update(chunk as Buffer);
  return sum.digest('hex');
}
