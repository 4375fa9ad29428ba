/** Runs `migrate`, `serve`, `ingest`, `all`. */

import { type CloudConfig, withoutOwner } from '../config.ts';
import { checkServingUrl } from '../db/logins.ts';
import { MigrationError, migrate } from '../db/migrate.ts';
import { AuthorityError } from '../devices/certificates.ts';
import { createLog } from '../log.ts';
import { type CloudParts, NotMigratedError, startCloud } from '../main.ts';
import { SigningKeyError } from '../manifest/signing-key.ts';
import { CliError, configOf, EXIT, type Terminal } from './context.ts';
import { createServiceNotifier } from './service-notifier.ts';

/** Longest stop, in milliseconds; a longer one is cut short. */
const STOP_TIMEOUT_MS = 20_000;

export async function migrateCommand(terminal: Terminal): Promise<void> {
  await migrateBy(configOf(terminal, { mqtt: false, migrate: true }), terminal);
}

async function migrateBy(config: CloudConfig, terminal: Terminal): Promise<void> {
  try {
    await migrate(config.migrateUrl ?? config.databaseUrl, {
      setting: config.migrateUrl === null ? 'DATABASE_URL' : 'STILE_MIGRATE_URL',
      onProgress: (line) => terminal.err(`${line}\n`),
      onWarning: (text) => terminal.err(`warning: ${text}\n`),
    });
  } catch (error) {
    if (error instanceof MigrationError) throw new CliError(EXIT.badConfig, error.message);
    throw error;
  }
}

/** Migrates where the owner's login was given, and drops it; then checks the serving login. */
async function ready(terminal: Terminal): Promise<CloudConfig> {
  const config = configOf(terminal, { mqtt: true });
  if (config.migrateUrl !== null) await migrateBy(config, terminal);
  terminal.forget?.('STILE_MIGRATE_URL');
  await checkServingUrl(config.databaseUrl);
  return withoutOwner(config);
}

/** Runs until SIGINT or SIGTERM. */
export async function runCommand(terminal: Terminal, parts: CloudParts): Promise<void> {
  const config = await ready(terminal);
  const log = createLog({ level: config.logLevel, name: 'stile-cloud' });
  const stopAsked = new Promise<string>((done) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => done(signal));
  });
  const service = createServiceNotifier(terminal.env);
  const running = await startCloud(config, parts, log).catch((error: unknown) => {
    if (error instanceof SigningKeyError || error instanceof NotMigratedError || error instanceof AuthorityError)
      throw new CliError(EXIT.badConfig, error.message);
    const code = (error as { code?: unknown })?.code;
    const { host, port } = config.http;
    // The port may be free on the next try: no error in the settings.
    if (code === 'EADDRINUSE')
      throw new CliError(
        EXIT.failed,
        `port ${port} on ${host} is taken by another program: stop that one, or set STILE_HTTP_PORT to another port (now ${port})`,
      );
    if (code === 'EACCES' || code === 'EADDRNOTAVAIL')
      throw new CliError(EXIT.badConfig, `cannot listen on ${host}, port ${port} (${code}): set STILE_HTTP_HOST and STILE_HTTP_PORT to what this machine has`);
    throw error;
  });
  log.info({ ...parts, url: running.url }, 'started');
  if (running.url !== null) terminal.out(`${running.url}\n`);
  service.ready(() => running.ready());
  const signal = await stopAsked;
  log.info({ signal }, 'stopping');
  service.stopping();
  const cut = setTimeout(() => {
    log.error({}, 'stop timed out');
    process.exit(EXIT.failed);
  }, STOP_TIMEOUT_MS);
  await running.stop();
  clearTimeout(cut);
  log.info({}, 'stopped');
}
