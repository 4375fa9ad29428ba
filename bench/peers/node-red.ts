/**
 * Node-RED for the comparisons: fetched from the npm registry into .tools/peers, which no git knows; never a dependency of Stile's.
 * Its sqlite3 has no prebuilt part on the registry (they lie at GitHub): it is compiled, which takes some minutes once.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const root = join(import.meta.dirname, '../..');
export const PEERS = join(root, '.tools/peers');
const PACKAGES = { 'node-red': '4.1.8', 'node-red-node-serialport': '2.0.3', 'node-red-node-sqlite': '1.1.1', 'node-red-contrib-postgrestor-next': '0.5.2' };
const START_MS = 120_000;
/** Installs what is missing. Throws with npm's or the compiler's words. `native`: SQLite's part is needed too. */
export function fetchNodeRed(options: { readonly native: boolean }): void {
  mkdirSync(PEERS, { recursive: true });
  const npm = (...args: string[]) => void execFileSync('npm', args, { cwd: PEERS, stdio: ['ignore', 'ignore', 'pipe'] });
  if (Object.keys(PACKAGES).some((name) => !existsSync(join(PEERS, 'node_modules', name)))) {
    writeFileSync(join(PEERS, 'package.json'), JSON.stringify({ private: true, dependencies: PACKAGES }));
    npm('install', '--ignore-scripts', '--no-audit', '--no-fund');
  }
  if (options.native && !existsSync(join(PEERS, 'node_modules/sqlite3/build/Release/node_sqlite3.node')))
    npm('rebuild', 'sqlite3', '--ignore-scripts=false', '--build-from-source', `--nodedir=${join(root, '.tools/node')}`);
}

/** Starts it with one flow, without an editor; resolves when the flow runs. Functions of the flow have `crypto` and `fs`. */
export async function startNodeRed(folder: string, flow: readonly object[]): Promise<ChildProcess> {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'flows.json'), JSON.stringify(flow));
  writeFileSync(
    join(folder, 'settings.cjs'),
    // Under this runtime the serialport that its node brings hears bytes and does not read them until something else wakes the loop: it
    // is given what Stile's own reader does about that (daemon/reader/serial-reader.ts), so that the flow is not judged by it.
    `const { Poller } = require(${JSON.stringify(join(PEERS, 'node_modules/@serialport/bindings-cpp/dist/poller.js'))});
const { once } = Poller.prototype;
Poller.prototype.once = function (event, heard) { return once.call(this, event, (...told) => setImmediate(heard, ...told)); };
module.exports = { flowFile: 'flows.json', httpAdminRoot: false, httpNodeRoot: false, uiPort: 0, credentialSecret: false, telemetry: { enabled: false },
  nodesDir: ${JSON.stringify(['node-red-node-serialport', 'node-red-node-sqlite', 'node-red-contrib-postgrestor-next'].map((name) => join(PEERS, 'node_modules', name)))},
  functionGlobalContext: { crypto: require('node:crypto'), fs: require('node:fs') }, logging: { console: { level: 'info', metrics: false, audit: false } } };`,
  );
  const child = spawn(process.execPath, [join(PEERS, 'node_modules/node-red/red.js'), '--userDir', folder, '--settings', join(folder, 'settings.cjs')], {
    stdio: ['ignore', 'pipe', 'pipe'],
    cwd: folder,
  });
  let said = '';
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      reject(new Error(`Node-RED did not start:\n${said.slice(-2000)}`));
    }, START_MS);
    const hear = (text: string) => {
      said += text;
      if (!said.includes('Started flows')) return;
      clearTimeout(timer);
      resolve();
    };
    child.stdout.setEncoding('utf8').on('data', hear);
    child.stderr.setEncoding('utf8').on('data', hear);
    child.once('exit', (code) => reject(new Error(`Node-RED ended with ${code}:\n${said.slice(-2000)}`)));
  });
  return child;
}
