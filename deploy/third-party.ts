/**
 * Says what of other people is in a bundle: a bill of materials (CycloneDX 1.5) and the texts of their licences. Both are made from
 * what esbuild really put in and from the native parts, not from what is installed.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { BundleError } from './compile.ts';

/** Licences that may be handed on with a product as Stile hands them on: with their texts, and nothing else asked. */
const LICENCES: ReadonlySet<string> = new Set(['MIT', 'ISC', 'BSD-2-Clause', 'BSD-3-Clause', 'Apache-2.0', '0BSD', 'BlueOak-1.0.0', 'Unlicense', 'CC0-1.0']);
const LICENCE_FILE = /^(licen[sc]e|copying|notice)/i;

export interface Package {
  readonly name: string;
  readonly version: string;
  readonly licence: string;
  /** The licence's text, with who holds the right. */
  readonly text: string;
}

interface Manifest {
  readonly name: string;
  readonly version: string;
  readonly license?: string;
  readonly author?: string | { readonly name?: string };
}

/** Returns the package folders that the files of a bundle come from, `node_modules/a/node_modules/b` too. */
export function packageFolders(inputs: readonly string[]): readonly string[] {
  const folders = inputs.flatMap((input) => {
    const found = /^(node_modules\/(?:.*\/node_modules\/)?(?:@[^/]+\/)?[^/]+)\//.exec(input);
    return found === null ? [] : [found[1] as string];
  });
  return [...new Set(folders)].sort();
}

/** Reads one package. Throws BundleError where its licence is not one of LICENCES. */
export function readPackage(root: string, folder: string): Package {
  const { name, version, license = 'unknown', author } = JSON.parse(readFileSync(join(root, folder, 'package.json'), 'utf8')) as Manifest;
  const choices = license.replace(/[()]/g, '').split(/ OR /);
  if (!choices.some((choice) => choice.split(/ AND /).every((one) => LICENCES.has(one.trim()))))
    throw new BundleError(1, `${name} ${version} has the licence ${license}, which is not one that a release hands on (deploy/third-party.ts)`);
  const files = readdirSync(join(root, folder))
    .filter((file) => LICENCE_FILE.test(file))
    .sort();
  const texts = files.map((file) => readFileSync(join(root, folder, file), 'utf8').trim());
  const holder = typeof author === 'string' ? author.replace(/ *<.*$/, '') : (author?.name ?? `the authors of ${name}`);
  return { name, version, licence: license, text: texts.length > 0 ? texts.join('\n\n') : mit(holder) };
}

/** The text of a package that names the MIT licence and carries no file of it. */
const mit = (holder: string) => `Copyright (c) ${holder}

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the
"Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish,
distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to
the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF
MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR
ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE
SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.`;

/** A part of a bundle that is no package: the runtime, and the database's own sources inside better-sqlite3. */
interface Part {
  readonly name: string;
  readonly version: string;
  readonly licence: string;
  readonly text: string;
}

function parts(root: string, runtime: string, runtimeVersion: string): readonly Part[] {
  const file = join(runtime, 'LICENSE');
  if (!existsSync(file)) throw new BundleError(1, `the runtime's licence text is missing: ${file}`);
  const sqlite = /#define SQLITE_VERSION +"([^"]+)"/.exec(readFileSync(join(root, 'node_modules/better-sqlite3/deps/sqlite3/sqlite3.h'), 'utf8'))?.[1];
  return [
    { name: 'node', version: runtimeVersion, licence: 'MIT', text: readFileSync(file, 'utf8').trim() },
    { name: 'sqlite', version: sqlite ?? 'unknown', licence: 'blessing', text: 'SQLite is in the public domain: https://www.sqlite.org/copyright.html' },
    {
      name: 'libatomic',
      version: 'as of the compiler',
      licence: 'GPL-3.0-or-later WITH GCC-exception-3.1',
      text: 'libatomic is a part of GCC: GPL version 3 or later, with the GCC Runtime Library Exception 3.1, by which programs that use it keep their own terms.',
    },
  ];
}

/** A component of the bill as npm writes it; more fields are kept as they are. */
interface Component {
  readonly name: string;
  readonly version: string;
  readonly [field: string]: unknown;
}

/** Returns npm's bill of the packages that the lock file pins, without its time and its random number. */
function npmBill(root: string): readonly Component[] {
  const asked = spawnSync('npm', ['sbom', '--sbom-format', 'cyclonedx', '--package-lock-only'], {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 64 << 20,
  });
  if (asked.status !== 0) throw new BundleError(1, `the bill of materials could not be made: npm sbom: ${asked.stderr.trim()}`);
  return (JSON.parse(asked.stdout) as { components: Component[] }).components;
}

export interface ThirdParty {
  readonly root: string;
  /** Of the bundle: `stile-gate` or `stile-cloud`. */
  readonly program: string;
  readonly version: string;
  readonly commit: string;
  readonly madeAtMs: number;
  /** Files that went into the bundle, as esbuild names them. */
  readonly inputs: readonly string[];
  readonly runtime: string;
  readonly runtimeVersion: string;
}

/** Writes `sbom.cdx.json` and `THIRD-PARTY-LICENCES.txt` into `folder`. Throws BundleError where a licence or its text is missing. */
export function writeThirdParty(folder: string, what: ThirdParty): void {
  const packages = packageFolders(what.inputs).map((one) => readPackage(what.root, one));
  const known = new Map(npmBill(what.root).map((component) => [`${component.name}@${component.version}`, component]));
  const inside = packages.map((one) => {
    const component = known.get(`${one.name}@${one.version}`);
    if (component === undefined)
      throw new BundleError(1, `${one.name} ${one.version} is in the bundle and not in package-lock.json's bill: npm ci, then try again`);
    return component;
  });
  const others = parts(what.root, what.runtime, what.runtimeVersion);
  const components = [
    ...inside,
    ...others.map(({ name, version, licence }) => ({
      'bom-ref': `${name}@${version}`,
      type: name === 'node' ? 'application' : 'library',
      name,
      version,
      licenses: [{ expression: licence }],
      ...(version.includes(' ') ? {} : { purl: `pkg:generic/${name}@${version}` }),
    })),
  ];
  const subject = { 'bom-ref': what.program, type: 'application', name: what.program, version: what.version };
  const digest = createHash('sha256')
    .update(JSON.stringify([subject, what.commit, components]))
    .digest('hex');
  const bill = {
    $schema: 'http://cyclonedx.org/schema/bom-1.5.schema.json',
    bomFormat: 'CycloneDX',
    specVersion: '1.5',
    // A name of its own for each content (RFC 9562, version 8): the same bundle has the same.
    serialNumber: `urn:uuid:${digest.slice(0, 8)}-${digest.slice(8, 12)}-8${digest.slice(13, 16)}-a${digest.slice(17, 20)}-${digest.slice(20, 32)}`,
    version: 1,
    metadata: { timestamp: new Date(what.madeAtMs).toISOString(), component: subject, properties: [{ name: 'stile:commit', value: what.commit }] },
    components,
  };
  writeFileSync(join(folder, 'sbom.cdx.json'), `${JSON.stringify(bill, null, 2)}\n`);
  const line = '='.repeat(100);
  const texts = [...others, ...packages].map(({ name, version, licence, text }) => `${line}\n${name} ${version}: ${licence}\n${line}\n\n${text}\n`);
  writeFileSync(
    join(folder, 'THIRD-PARTY-LICENCES.txt'),
    `What ${what.program} ${what.version} carries of other people, and on what terms.\n\n${texts.join('\n')}`,
  );
}
