/**
 * support-bundle: what whoever helps from afar wants to see, in one archive. Never a code (the gate keeps none), never a secret:
 * secrets' files are not read into it, and what they hold is masked wherever else it should stand.
 */
import { execFile, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { arch, cpus, hostname, release, tmpdir, totalmem, uptime } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { stileVersion } from '../../runtime/build-info.ts';
import { openSafeFile } from '../../runtime/safe-file.ts';
import { type Config, effectiveSettings, loadConfig } from '../config/load.ts';
import type { GateStatus } from '../control/protocol.ts';
import { openOfflineLedger } from '../store/offline-reader.ts';
import { connect, withGate } from './context.ts';
import { examinationWords, examine } from './doctor.ts';
import { CliError, EXIT, print } from './exit-codes.ts';
import { findKeyboardReaders } from './keyboard-readers.ts';
import { allRows, verifyChain } from './ledger.ts';
import type { CommonOptions } from './options.ts';
import { usbPorts } from './usb-ports.ts';

/** Of the log, the last lines. */
const LOG_LINES = 2_000;
const MAX_LOG_BYTES = 8 * 1024 * 1024;
/** Rows whose chain is checked; a longer record is checked from its beginning up to here. */
const MAX_VERIFIED_ROWS = 200_000;
/** A shorter secret is not looked for: it would mask ordinary words. */
const MIN_SECRET_CHARS = 6;

const README = `What this archive holds, and what it does not:
versions.json  program, runtime, kernel, machine
config.json    the settings in effect and where each came from; files with secrets are named, not read
status.json    how the gate is, as stile-gate status says it
doctor.txt     every part, with cause and mend; doctor.json the same for programs
ledger.json    is the record whole? No rows are in here
ports.json     serial ports on USB, and readers in keyboard mode
log.txt        the last lines of the gate's log
No codes (a gate keeps none), no keys, tokens or passwords. Tickets are named by their ids in status.json and log.txt.
`;

export async function supportBundle(options: CommonOptions & { readonly out?: string; readonly log?: string }): Promise<void> {
  const loaded = loadConfig(options.config, process.env);
  const config = loaded.ok ? loaded.config : null;
  const name = `stile-support-${(config?.gate ?? hostname()).replace('/', '-')}-${new Date().toISOString().replaceAll(/[-:]|\.\d+/g, '')}`;
  const archive = resolve(options.out ?? `${name}.tar.gz`);
  const { configOk: _ok, ...examination } = await examine(options);
  const files: Record<string, string> = {
    'README.txt': README,
    'versions.json': json(versions()),
    'config.json': json(
      loaded.ok ? { settings: effectiveSettings(loaded.config), origins: Object.fromEntries(loaded.origins), warnings: loaded.warnings } : loaded,
    ),
    'status.json': json(await orError(() => statusOf(options))),
    'doctor.json': json(examination),
    'doctor.txt': `${examinationWords(examination)}\n`,
    'ledger.json': json(await orError(() => ledgerSummary(options, config))),
    'ports.json': json({ usb: usbPorts(), keyboards: findKeyboardReaders(textOf('/proc/bus/input/devices')) }),
    'log.txt': await lastLines(options.log),
  };
  const secrets = config === null ? [] : secretsOf(config);
  const stage = mkdtempSync(join(tmpdir(), 'stile-support-'));
  try {
    mkdirSync(join(stage, name));
    for (const [file, text] of Object.entries(files)) writeFileSync(join(stage, name, file), mask(text, secrets));
    await pack(stage, name, archive);
  } catch (error) {
    throw new CliError(EXIT.failed, `${archive} could not be written: ${(error as Error).message}`, 'name another place with --out');
  } finally {
    rmSync(stage, { recursive: true, force: true });
  }
  print(
    options.json,
    { file: archive, result: examination.result, files: Object.keys(files) },
    () => `${archive}\nholds ${Object.keys(files).join(', ')}; no codes, no secrets`,
  );
}

/** tar writes to a descriptor: where the archive appears is not its business, and no link that lies there is followed. */
async function pack(stage: string, name: string, archive: string): Promise<void> {
  const file = openSafeFile(archive, { mode: 0o600 });
  try {
    await new Promise<void>((done, fail) => {
      let said = '';
      const tar = spawn('tar', ['-C', stage, '--owner=0', '--group=0', '-czf', '-', name], { stdio: ['ignore', file.fd, 'pipe'] });
      tar.stderr?.setEncoding('utf8').on('data', (text: string) => {
        said = (said + text).slice(-1_000);
      });
      tar.once('error', fail);
      tar.once('close', (code) => (code === 0 ? done() : fail(new Error(`tar ended with ${code}: ${said.trim()}`))));
    });
    file.commit();
  } finally {
    file.abandon();
  }
}

const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;

/** What could not be had is said in its place: the rest is wanted all the more then. */
async function orError(work: () => Promise<unknown>): Promise<unknown> {
  try {
    return await work();
  } catch (error) {
    return { error: (error as Error).message };
  }
}

function versions(): Record<string, unknown> {
  const { version, commit } = stileVersion();
  return {
    stile: version,
    commit,
    runtime: process.versions,
    kernel: release(),
    arch: arch(),
    system: /^PRETTY_NAME="?(.*?)"?$/m.exec(textOf('/etc/os-release'))?.[1] ?? null,
    model: textOf('/proc/device-tree/model').replace(/\0/g, '') || null,
    cpus: cpus().length,
    memory_mb: Math.round(totalmem() / 1_048_576),
    uptime_s: Math.round(uptime()),
    made_at: new Date().toISOString(),
  };
}

const statusOf = (options: CommonOptions): Promise<GateStatus> => withGate(options, (gate) => gate.call<GateStatus>('status'));

/** With the running gate, else from a copy. */
async function ledgerSummary(options: CommonOptions, config: Config | null): Promise<unknown> {
  const gate = await connect(options).catch(() => null);
  if (gate === null) {
    if (config === null) return { error: 'neither a running gate nor a configuration' };
    const offlineLedger = openOfflineLedger(join(config.store.path, 'ledger.sqlite'));
    try {
      let [rows, unacknowledged] = [0, 0];
      for (const row of offlineLedger.rows()) {
        rows++;
        if (!row.acked) unacknowledged++;
      }
      return { gate: offlineLedger.gate, epochs: offlineLedger.epochs, rows, unacknowledged, unreadable: offlineLedger.unreadable() };
    } finally {
      offlineLedger.close();
    }
  }
  try {
    const status = await gate.call<GateStatus>('status');
    const chain = verifyChain(status.gate);
    let rows = 0;
    const kinds: Record<string, number> = {};
    for await (const row of allRows(gate)) {
      kinds[row.entry.kind] = (kinds[row.entry.kind] ?? 0) + 1;
      if (!chain.add(row) || ++rows >= MAX_VERIFIED_ROWS) break;
    }
    return { ...chain.result(), kinds, ...status.ledger };
  } finally {
    gate.close();
  }
}

/** Of the journal, or of a file. */
async function lastLines(file: string | undefined): Promise<string> {
  try {
    const text =
      file !== undefined
        ? readFileSync(file, 'utf8')
        : (
            await promisify(execFile)('journalctl', ['-u', 'stile-gate', '-n', String(LOG_LINES), '--no-pager', '-o', 'short-iso'], {
              maxBuffer: MAX_LOG_BYTES,
            })
          ).stdout;
    return `${text.trimEnd().split('\n').slice(-LOG_LINES).join('\n')}\n`;
  } catch (error) {
    return `the log could not be read: ${(error as Error).message}\n(use sudo, or name a file with --log)\n`;
  }
}

/** What the files of secrets hold, to be masked should it stand anywhere. */
function secretsOf({ mqtt, cloud }: Config): readonly string[] {
  return [mqtt?.passwordFile, cloud?.tokenFile].map((path) => (path == null ? '' : textOf(path).trim())).filter((secret) => secret.length >= MIN_SECRET_CHARS);
}

/** Known secrets, and whatever looks like one. */
export function mask(text: string, secrets: readonly string[]): string {
  return secrets
    .reduce((masked, secret) => masked.replaceAll(secret, '***'), text)
    .replace(/-----BEGIN ([A-Z ]*PRIVATE KEY)-----[\s\S]*?(-----END \1-----|$)/g, '*** a private key was here ***')
    .replace(/\bstile-(enrol|device|op)[a-z]*-[A-Za-z0-9_-]{16,}/g, 'stile-***')
    .replace(/\bBearer [A-Za-z0-9._~+/=-]+/g, 'Bearer ***')
    .replace(/(:\/\/[^/\s:@"]+):[^/\s@"]+@/g, '$1:***@')
    .replace(/("?\b(?:password|passwd|secret|token)"?\s*[=:]\s*"?)[^\s",}]+/gi, '$1***');
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
