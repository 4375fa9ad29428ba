/**
 * Makes a release: the gate and the cloud, each as Debian package and as archive, for arm64 and amd64, with bills of materials, checksums and,
 * with a key, a signature that anybody checks with openssl and sha256sum.
 *
 *   node deploy/release.ts [--key release.key] [--arch x64,arm64] [--out dist/release] [--changed]
 *
 * --key: an Ed25519 private key in PEM (openssl genpkey -algorithm ed25519 -out release.key). Without one the release is not signed, and says so.
 * --changed: also from a checkout with changes, which nobody can make again.
 * Exit codes: 0 done, 1 failed, 2 usage, 69 the registry cannot be reached.
 */
import { createHash, createPrivateKey, createPublicKey, type KeyObject, sign } from 'node:crypto';
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { ARCHITECTURES, type Arch, BundleError, runTool } from './compile.ts';
import { DEBIAN, type Kind, makeBundle, makePackage } from './deb.ts';
import { type Release, releaseOf } from './release-name.ts';

const root = join(import.meta.dirname, '..');
const KINDS: readonly Kind[] = ['gate', 'cloud'];
export const SUMS = 'SHA256SUMS';
export const PUBLIC_KEY = 'stile-release.pub';

/** Returns the lines of SHA256SUMS for the files of a folder, in order. */
export function sumsOf(folder: string): string {
  const files = readdirSync(folder)
    .filter((file) => !file.startsWith(SUMS) && file !== PUBLIC_KEY)
    .sort();
  return files
    .map((file) => {
      const sum = createHash('sha256')
        .update(readFileSync(join(folder, file)))
        .digest('hex');
      return `${sum}  ${file}\n`;
    })
    .join('');
}

/** Writes the checksums, and their signature where there is a key. */
export function seal(folder: string, key: KeyObject | null): void {
  const sums = sumsOf(folder);
  writeFileSync(join(folder, SUMS), sums);
  if (key === null) return;
  writeFileSync(join(folder, `${SUMS}.sig`), sign(null, Buffer.from(sums), key));
  writeFileSync(join(folder, PUBLIC_KEY), createPublicKey(key).export({ type: 'spki', format: 'pem' }));
}

function keyOf(file: string | undefined): KeyObject | null {
  if (file === undefined) return null;
  let key: KeyObject;
  try {
    key = createPrivateKey(readFileSync(file));
  } catch (error) {
    throw new BundleError(2, `--key ${file} holds no private key: ${(error as Error).message}; make one: openssl genpkey -algorithm ed25519 -out ${file}`);
  }
  if (key.asymmetricKeyType !== 'ed25519')
    throw new BundleError(2, `--key ${file} is of the kind ${key.asymmetricKeyType}: give an Ed25519 key (openssl genpkey -algorithm ed25519)`);
  if ((statSync(file).mode & 0o077) !== 0) throw new BundleError(2, `--key ${file} can be read by others: chmod 600 ${file}`);
  return key;
}

function make(kind: Kind, arch: Arch, work: string, out: string, release: Release): void {
  const bundle = makeBundle(kind, arch, work);
  const name = `stile-${kind}_${release.version}_${DEBIAN[arch]}`;
  copyFileSync(`${bundle}.tar.gz`, join(out, `${name}.tar.gz`));
  copyFileSync(join(bundle, 'share/doc/sbom.cdx.json'), join(out, `${name}.cdx.json`));
  makePackage(kind, arch, bundle, out, release);
}

function main(args: readonly string[]): void {
  let given: { readonly key?: string; readonly arch: string; readonly out: string; readonly changed: boolean };
  try {
    given = parseArgs({
      args: [...args],
      options: {
        key: { type: 'string' },
        arch: { type: 'string', default: 'x64,arm64' },
        out: { type: 'string', default: join(root, 'dist/release') },
        changed: { type: 'boolean', default: false },
      },
    }).values as typeof given;
  } catch (error) {
    throw new BundleError(2, `${(error as Error).message}\nusage: node deploy/release.ts [--key release.key] [--arch x64,arm64] [--out folder] [--changed]`);
  }
  const archs = given.arch.split(',') as Arch[];
  const strange = archs.find((arch) => !ARCHITECTURES.includes(arch));
  if (strange !== undefined) throw new BundleError(2, `--arch ${strange}: ${ARCHITECTURES.join(' or ')}, or both with a comma`);
  const key = keyOf(given.key);
  const release = releaseOf(root);
  if (release.commit.endsWith('-changed') && !given.changed)
    throw new BundleError(1, 'this checkout has changes, and nobody could make their release again: commit them, or give --changed');
  rmSync(given.out, { recursive: true, force: true });
  const work = join(given.out, 'work');
  mkdirSync(work, { recursive: true });
  const parts = KINDS.flatMap((kind) => archs.map((arch) => [kind, arch] as const));
  for (const [index, [kind, arch]] of parts.entries()) {
    process.stdout.write(`${index + 1}/${parts.length} stile-${kind} for ${DEBIAN[arch]}\n`);
    make(kind, arch, work, given.out, release);
  }
  rmSync(work, { recursive: true });
  seal(given.out, key);
  process.stdout.write(
    `${given.out}: Stile ${release.version} (${release.commit}), ${readdirSync(given.out).length} files\n` +
      (key === null
        ? 'NOT SIGNED: give --key release.key (make release KEY=release.key)\n'
        : `To check it: openssl pkeyutl -verify -pubin -inkey ${PUBLIC_KEY} -rawin -in ${SUMS} -sigfile ${SUMS}.sig && sha256sum -c ${SUMS}\n`),
  );
}

if (import.meta.main) await runTool('release', main);
