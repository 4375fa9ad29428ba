/**
 * Implements support-bundle: one archive for remote support. Holds no code (the gate keeps none) and no secret: it does not read
 * secret files into the archive, and masks their contents everywhere else.
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
import { examinationText, examine } from './doctor.ts';
import { CliError, EXIT, print } from './exit-codes.ts';
import { findKeyboardReaders } from './keyboard-readers.ts';
import { allRows, verifyChain } from './ledger.ts';
import type { CommonOptions } from './options.ts';
import { usbPorts } from './usb-ports.ts';

/** Most lines of the log, the newest. */
const LOG_LINES = 2_000;
const MAX_LOG_BYTES = 8 * 1024 * 1024;
/** Most rows whose chain is checked; a longer ledger is checked from its beginning up to this. */
const MAX_VERIFIED_ROWS = 200_000;
/** Shortest secret, in characters, that is masked; a shorter one would mask ordinary text. */
const MIN_SECRET_CHARS = 6;

const README = `What this archive holds, and what it does not:
versions.json  program, runtime, kernel, machine
config.json    the settings in effect and where each came from; files with secrets are named, not read
status.json    how the gate is, as stile-gate status says it
doctor.txt     every part, with cause and hint; doctor.json the same for programs
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
    'doctor.txt': `${examinationText(examination)}\n`,
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

/** Packs with tar, which writes to a descriptor, so that it follows no planted link. */
async function pack(stage: string, name: string, archive: string): Promise<void> {
  const file = openSafeFile(archive, { mode: 0o600 });
  try {
    await new Promise<void>((done, fail) => {
      let stderr = '';
      const tar = spawn('tar', ['-C', stage, '--owner=0', '--group=0', '-czf', '-', name], { stdio: ['ignore', file.fd, 'pipe'] });
      tar.stderr?.setEncoding('utf8').on('data', (text: string) => {
        stderr = (stderr + text).slice(-1_000);
      });
      tar.once('error', fail);
      tar.once('close', (code) => (code === 0 ? done() : fail(new Error(`tar ended with ${code}: ${stderr.trim()}`))));
    });
    file.commit();
  } finally {
    file.abandon();
  }
}

const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;

/** Returns the result, or the error in its place, so that the rest is still collected. */
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

/** Summarises the ledger through the running gate, else from a copy. */
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

/** Returns the last lines of the journal, or of a file. */
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

/** Returns the contents of secret files, to mask them. */
function secretsOf({ mqtt, cloud }: Config): readonly string[] {
  return [mqtt?.passwordFile, cloud?.tokenFile].map((path) => (path == null ? '' : textOf(path).trim())).filter((secret) => secret.length >= MIN_SECRET_CHARS);
}

/** Masks known secrets and text that looks like one. */
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
