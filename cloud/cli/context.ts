/** Opens what every command needs: settings, the database, the tenant; maps errors to exit codes. */
import { randomUUID } from 'node:crypto';
import { type CloudConfig, type ConfigNeeds, readConfig } from '../config.ts';
import { createDatabase, type Database, isTransient, sqlState } from '../db/database.ts';
import { refusedLogin, SetupError } from '../db/logins.ts';
import { SigningKeyError } from '../manifest/signing-key.ts';

/** CONTRACT.md, "Command lines". */
export const EXIT = { done: 0, failed: 1, usage: 2, unreachable: 69, tryAgain: 75, badConfig: 78 } as const;

/** Ends a command with its exit code and a message for the person at the terminal. */
export class CliError extends Error {
  override name = 'CliError';
  readonly exitCode: number;
  constructor(exitCode: number, message: string) {
    super(message);
    this.exitCode = exitCode;
  }
}

/** Input and output of a command; tests pass in their own. */
export interface Terminal {
  readonly env: Readonly<Record<string, string | undefined>>;
  out(text: string): void;
  err(text: string): void;
  /** Removes a setting from this process's environment after its use: its children need not know it. */
  forget?(name: string): void;
  /** Asks the person at the terminal; absent where there is none. */
  ask?(question: string): Promise<string>;
  /** stderr is a terminal that a person watches. */
  readonly interactive: boolean;
}

export interface Session {
  readonly config: CloudConfig;
  readonly database: Database;
  readonly terminal: Terminal;
  /** Returns the tenant's id. `create`: made where it is new, and reported. Throws CliError where it does not exist. */
  tenant(create?: boolean): Promise<string>;
}

export interface SessionOptions {
  readonly tenant?: string | undefined;
  readonly mqtt?: boolean;
}

/** Reads the settings or throws a CliError (78) that names every error. */
export function configOf(terminal: Terminal, needs: ConfigNeeds): CloudConfig {
  const result = readConfig(terminal.env, needs);
  if (!result.ok)
    throw new CliError(
      EXIT.badConfig,
      `the settings have ${result.errors.length === 1 ? 'an error' : `${result.errors.length} errors`}:\n${result.errors.map((error) => `  ${error}`).join('\n')}\nstile-cloud --help lists every setting`,
    );
  return result.config;
}

/** Opens the database for one command and closes it after. */
export async function withSession<T>(terminal: Terminal, options: SessionOptions, work: (session: Session) => Promise<T>): Promise<T> {
  const config = configOf(terminal, { mqtt: options.mqtt ?? false });
  const database = createDatabase({ url: config.databaseUrl, name: 'stile-cloud-cli', maxConnections: 3 });
  const name = options.tenant ?? config.tenant;
  try {
    return await work({ config, database, terminal, tenant: (create = false) => tenantOf(database, terminal, name, create) });
  } catch (error) {
    throw refusedLogin(error, config.databaseUrl, 'DATABASE_URL') ?? error;
  } finally {
    await database.close();
  }
}

async function tenantOf(database: Database, terminal: Terminal, name: string, create: boolean): Promise<string> {
  const found = (await database.withoutTenant((client) => client.query<{ id: string | null }>('SELECT resolve_tenant($1) AS id', [name]))).rows[0]?.id ?? null;
  if (found !== null) return found;
  if (!create)
    throw new CliError(
      EXIT.failed,
      `there is no tenant ${JSON.stringify(name)} yet: it is made with its first event (stile-cloud event put), or set STILE_TENANT or --tenant to another`,
    );
  const id = randomUUID();
  try {
    await database.withTenant(id, (client) => client.query('INSERT INTO tenants (id, name) VALUES ($1, $2)', [id, name]));
  } catch (error) {
    // Another command made it at the same moment.
    if (sqlState(error) === '23505') return tenantOf(database, terminal, name, false);
    throw error;
  }
  terminal.err(`made the tenant ${JSON.stringify(name)}\n`);
  return id;
}

/** Returns the exit code and the message of a command's error. */
export function failureOf(error: unknown): { readonly exitCode: number; readonly message: string } {
  if (error instanceof CliError) return { exitCode: error.exitCode, message: error.message };
  if (error instanceof SigningKeyError || error instanceof SetupError) return { exitCode: EXIT.badConfig, message: error.message };
  const state = sqlState(error);
  const message = (error as Error)?.message ?? String(error);
  if (state === '22023' && message.includes('stile_service'))
    return { exitCode: EXIT.badConfig, message: 'the database was never migrated: run stile-cloud migrate first; it says what a new installation begins with' };
  if (state === '42P01' || state === '42883')
    return { exitCode: EXIT.badConfig, message: `the database is not ready for this version (${message}): run stile-cloud migrate first` };
  if (state === '28P01' || state === '28000' || state === '3D000')
    return { exitCode: EXIT.badConfig, message: `PostgreSQL lets nobody in with DATABASE_URL: ${message}` };
  if (state === '42501')
    return {
      exitCode: EXIT.badConfig,
      message: `the login in DATABASE_URL may not do this (${message}): a superuser runs once GRANT stile_service TO it, and stile-cloud migrate says what else is missing`,
    };
  const code = (error as { code?: unknown })?.code;
  if (code === 'ECONNREFUSED' || code === 'ENOTFOUND' || code === 'EHOSTUNREACH' || code === 'EAI_AGAIN')
    return { exitCode: EXIT.unreachable, message: `the database can't be reached: ${message || code}; check DATABASE_URL and STILE_MIGRATE_URL` };
  if (isTransient(error)) return { exitCode: EXIT.tryAgain, message: `the database could not answer: ${message}; try again` };
  return { exitCode: EXIT.failed, message };
}
