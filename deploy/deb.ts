/**
 * Makes Debian packages of bundles: dist/stile-gate_<version>_<arch>.deb and dist/stile-cloud_<version>_<arch>.deb. The bundle's own installer
 * puts it in place (deploy/install, deploy/install-cloud), so a package and an archive do the same.
 *
 *   node deploy/deb.ts [gate|cloud] [x64|arm64] [folder]     → <folder>/gate-<arch>/, its archive, and the package
 *
 * Left out: the gate's, this machine's architecture, dist. Exit codes as deploy/bundle.ts.
 */
import { spawnSync } from 'node:child_process';
import { chmodSync, cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ARCHITECTURES, type Arch, BundleError, runTool } from './compile.ts';
import { type Release, releaseOf } from './release-name.ts';

const root = join(import.meta.dirname, '..');
/** Debian's names of the architectures. */
export const DEBIAN: Readonly<Record<Arch, string>> = { x64: 'amd64', arm64: 'arm64' };

export type Kind = 'gate' | 'cloud';

const PACKAGES: Readonly<Record<Kind, { readonly depends: string; readonly recommends: string | null; readonly description: string }>> = {
  gate: {
    depends: 'systemd, udev, kmod, libc6 (>= 2.34), libstdc++6',
    recommends: null,
    description: 'Stile gate: reads codes, decides from local tickets, opens the turnstile\n The daemon of one turnstile, with the runtime that it needs.',
  },
  cloud: {
    depends: 'systemd, openssl, libc6 (>= 2.34), libstdc++6',
    // What `stile-cloud init` sets up where it runs on this machine; apt installs them too unless told otherwise.
    recommends: 'postgresql, mosquitto (>= 2), nginx, procps',
    description:
      'Stile cloud: tickets, gates, and the account of every admission\n The server of a venue or of many, with the runtime that it needs. `stile-cloud init` sets it up.',
  },
};

/** Returns the package's version: the release's, and the time of its commit, so that a later commit is newer. */
export const debianVersion = ({ version, madeAtMs }: Release): string => `${version}+${new Date(madeAtMs).toISOString().replace(/\D/g, '').slice(0, 14)}`;

const floorCheck = (kind: Kind, version: string) => `#!/bin/sh
set -e
floor=$(cat /var/lib/stile-floor/${kind} 2>/dev/null || true)
if [ -n "$floor" ] && dpkg --compare-versions '${version}' lt "$floor"; then
  echo "stile-${kind}: version ${version} is below $floor, the oldest that this machine may go back to: install a newer one" >&2
  exit 1
fi
`;

const maintainerScripts = (kind: Kind, version: string): Readonly<Record<string, string>> => ({
  preinst: floorCheck(kind, version),
  postinst: `#!/bin/sh\nset -e\n[ "$1" != configure ] || /usr/lib/stile-${kind}/bundle/install --package\n`,
  prerm: `#!/bin/sh\nset -e\n[ "$1" != remove ] || /usr/lib/stile-${kind}/bundle/install --remove\n`,
});

/** Makes the package of a bundle. Returns its file. Throws BundleError where dpkg-deb is missing or fails. */
export function makePackage(kind: Kind, arch: Arch, bundle: string, folder: string, release: Release): string {
  const { depends, recommends, description } = PACKAGES[kind];
  const version = debianVersion(release);
  const stage = mkdtempSync(join(tmpdir(), 'stile-deb-'));
  try {
    chmodSync(stage, 0o755);
    for (const path of ['DEBIAN', `usr/lib/stile-${kind}`]) mkdirSync(join(stage, path), { recursive: true });
    cpSync(bundle, join(stage, `usr/lib/stile-${kind}/bundle`), { recursive: true });
    const control = [
      `Package: stile-${kind}`,
      `Version: ${version}`,
      `Architecture: ${DEBIAN[arch]}`,
      'Maintainer: Stile <stile@localhost>',
      `Depends: ${depends}`,
      ...(recommends === null ? [] : [`Recommends: ${recommends}`]),
      'Section: misc',
      'Priority: optional',
      `Description: ${description}`,
    ];
    writeFileSync(join(stage, 'DEBIAN/control'), `${control.join('\n')}\n`);
    for (const [name, text] of Object.entries(maintainerScripts(kind, release.version))) writeFileSync(join(stage, 'DEBIAN', name), text, { mode: 0o755 });
    ended(spawnSync('chmod', ['-R', 'u=rwX,go=rX', stage], { encoding: 'utf8' }), 'chmod');
    const file = join(folder, `stile-${kind}_${version}_${DEBIAN[arch]}.deb`);
    // gzip: quick to unpack on a Pi, and read by dpkg of every Debian.
    const made = spawnSync('dpkg-deb', ['--root-owner-group', '-Zgzip', '--build', stage, file], {
      encoding: 'utf8',
      env: { ...process.env, SOURCE_DATE_EPOCH: String(Math.floor(release.madeAtMs / 1000)) },
    });
    if (made.error !== undefined) throw new BundleError(1, 'dpkg-deb is missing: apt-get install dpkg');
    ended(made, 'dpkg-deb');
    return file;
  } finally {
    rmSync(stage, { recursive: true, force: true });
  }
}

function ended({ status, stderr }: { readonly status: number | null; readonly stderr: string }, what: string): void {
  if (status !== 0) throw new BundleError(1, `${what} failed: ${stderr.trim()}`);
}

/** Makes a bundle by deploy/bundle.ts, whose messages are shown. Returns its folder. Throws BundleError with its exit code. */
export function makeBundle(kind: Kind, arch: Arch, folder: string): string {
  const { status } = spawnSync(process.execPath, [join(root, 'deploy/bundle.ts'), kind, arch, folder], { stdio: 'inherit' });
  if (status !== 0) throw new BundleError(status ?? 1, `the bundle of the ${kind} for ${arch} could not be made: see above`);
  return join(folder, `${kind}-${arch}`);
}

function main(args: readonly string[]): void {
  const [kind, ...rest] = args[0] === 'gate' || args[0] === 'cloud' ? (args as [Kind, ...string[]]) : (['gate', ...args] as const);
  const arch = (rest[0] ?? process.arch) as Arch;
  if (rest.length > 2 || !ARCHITECTURES.includes(arch)) throw new BundleError(2, 'usage: node deploy/deb.ts [gate|cloud] [x64|arm64] [folder]');
  const folder = rest[1] ?? join(root, 'dist');
  process.stdout.write(`${makePackage(kind, arch, makeBundle(kind, arch, folder), folder, releaseOf(root))}\n`);
}

if (import.meta.main) await runTool('deb', main);
