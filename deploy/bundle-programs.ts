/** Bundles the programs with esbuild, each in parts, and returns which files went in. */
import { join } from 'node:path';
import { build, type Plugin } from 'esbuild';
import type { Version } from '../runtime/build-info.ts';
import { BundleError } from './compile.ts';
import { releaseOf } from './release-name.ts';

const root = join(import.meta.dirname, '..');

/** Each package that loads a native part by its own search, and what it does instead: lib/native beside the bundle. */
const LOADERS: readonly { readonly file: RegExp; readonly contents: string }[] = [
  {
    file: /better-sqlite3\/lib\/binding\.js$/,
    contents: "exports.getBinding = () => require('./native/better_sqlite3.node'); exports.getPrebuildPath = () => null;",
  },
  { file: /node-gyp-build\/index\.js$/, contents: "module.exports = () => require('./native/serialport.node');" },
  { file: /koffi\/src\/koffi\/src\/static\.js$/, contents: "export const loadStatic = () => require('./native/koffi.node');" },
  { file: /bindings\/bindings\.js$/, contents: "module.exports = () => require('./native/epoll.node');" },
];

/** What a gate does not use of a package, and would load with every start: other systems' ports, every parser, a child process to list ports with. */
const LEFT_OUT: typeof LOADERS = [
  { file: /node_modules\/serialport\/dist\/index\.js$/, contents: "exports.SerialPort = require('./serialport').SerialPort;" },
  {
    file: /@serialport\/bindings-cpp\/dist\/index\.js$/,
    contents: "const { LinuxBinding } = require('./linux'); exports.LinuxBinding = LinuxBinding; exports.autoDetect = () => LinuxBinding;",
  },
  {
    file: /@serialport\/bindings-cpp\/dist\/linux-list\.js$/,
    contents: "exports.linuxList = () => Promise.reject(new Error('ports are listed by stile-gate readers'));",
  },
];

const nativeParts: Plugin = {
  name: 'native parts beside the bundle',
  setup(builder) {
    for (const { file, contents } of [...LOADERS, ...LEFT_OUT]) builder.onLoad({ filter: file }, () => ({ contents, loader: 'js' }));
    // A gate reports errors in English; the bundle leaves out zod's texts in fifty other languages.
    builder.onLoad({ filter: /zod\/v4\/locales\/index\.js$/ }, () => ({ contents: "export { default as en } from './en.js';", loader: 'js' }));
    builder.onResolve({ filter: /^\.\/native\// }, ({ path }) => ({ path, external: true }));
  },
};

/** zod in a file of its own, beside the parts that note down what they want of it (late-zod.ts). */
export const lateZod: Plugin = {
  name: 'zod when it is needed',
  setup(builder) {
    builder.onResolve({ filter: /^zod$/ }, () => ({ path: join(root, 'deploy/lazy-zod.ts') }));
  },
};

/** Bundles zod into `<lib>/zod.cjs`. Returns the files that went in. */
export async function bundleZod(lib: string): Promise<readonly string[]> {
  const { metafile } = await build({
    stdin: { contents: "export { z } from 'zod';", resolveDir: root },
    outfile: join(lib, 'zod.cjs'),
    absWorkingDir: root,
    bundle: true,
    platform: 'node',
    target: 'node26',
    format: 'cjs',
    minifySyntax: true,
    minifyWhitespace: true,
    legalComments: 'none',
    metafile: true,
    logLevel: 'warning',
    plugins: [nativeParts],
  });
  return Object.keys(metafile.inputs);
}

const programVersion = (): Version => {
  const { version, commit, madeAtMs } = releaseOf(root);
  return { version, commit, builtAtMs: madeAtMs };
};

/** Bundles the program of `entry` into `<lib>/<name>.mjs` and its parts. Returns the files that went in. Throws BundleError where esbuild warns. */
export async function bundleProgram(entry: string, name: string, lib: string, plugins: readonly Plugin[] = []): Promise<readonly string[]> {
  const { metafile, warnings } = await build({
    // One program in parts: what only a command line, the decider's worker or the uplink needs is read when it is needed (0111-bundle-in-parts.md).
    entryPoints: [{ in: join(root, entry), out: name }],
    outdir: lib,
    outExtension: { '.js': '.mjs' },
    chunkNames: '[name]-[hash]',
    splitting: true,
    absWorkingDir: root,
    bundle: true,
    platform: 'node',
    target: 'node26',
    format: 'esm',
    minifySyntax: true,
    minifyWhitespace: true,
    legalComments: 'none',
    metafile: true,
    logLevel: 'warning',
    plugins: [nativeParts, ...plugins],
    define: { STILE_BUILD: JSON.stringify(programVersion()) },
    // What the libraries of the CommonJS kind expect to find.
    banner: {
      js: "import { createRequire as stileRequire } from 'node:module'; const require = stileRequire(import.meta.url); const __filename = import.meta.filename; const __dirname = import.meta.dirname;",
    },
  });
  if (warnings.length > 0) throw new BundleError(1, 'esbuild warns (above): the bundle is not trusted');
  return Object.keys(metafile.inputs);
}
