/**
 * The cloud's connection to PostgreSQL: the only file that imports pg.
 *
 * Every transaction runs as `stile_service`, which owns nothing and can't bypass row security, with
 * the tenant set for that transaction alone (SET LOCAL): a pooled connection takes nothing to the
 * next user.
 */
import pg from 'pg';
import { cutText } from '../../contract/text.ts';

/** Connections of one process; further work waits for one, at most `CONNECT_TIMEOUT_MS`, then fails. */
const DEFAULT_MAX_CONNECTIONS = 10;
const CONNECT_TIMEOUT_MS = 10_000;
const IDLE_TIMEOUT_MS = 30_000;
/** Longest statement, in milliseconds; PostgreSQL cancels a longer one, and its transaction fails. */
const DEFAULT_STATEMENT_TIMEOUT_MS = 30_000;
const IDLE_IN_TRANSACTION_TIMEOUT_MS = 60_000;
/** Extra time, in milliseconds, to wait for an answer after the server's own bound: later the connection is broken, though no error has arrived. */
const ANSWER_GRACE_MS = 5_000;
/** pg's message in that case. */
const NO_ANSWER = 'Query read timeout';

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** The result of a query. int8 and counts come as numbers (all of ours stay exact in a double), timestamptz as Date, jsonb parsed. */
export interface QueryAnswer<Row> {
  readonly rows: Row[];
  readonly rowCount: number;
}

/** One connection inside a transaction. */
export interface DatabaseClient {
  /** Parameters are $1…; objects and arrays for jsonb must be given as JSON text. */
  query<Row = Record<string, unknown>>(text: string, values?: readonly unknown[]): Promise<QueryAnswer<Row>>;
}

export interface Database {
  /**
   * Runs one transaction as stile_service for this tenant. Commits when `work` is done, rolls back when it throws. Passes PostgreSQL's errors on
   * (see `sqlState`).
   */
  withTenant<T>(tenantId: string, work: (client: DatabaseClient) => Promise<T>): Promise<T>;
  /**
   * Runs the same read-only, with every statement on one snapshot (REPEATABLE READ): for data that must be consistent, such as tickets and their
   * usage.
   */
  readSnapshot<T>(tenantId: string, work: (client: DatabaseClient) => Promise<T>): Promise<T>;
  /** Runs one transaction as stile_service without a tenant: only the resolver functions and quarantine return data. */
  withoutTenant<T>(work: (client: DatabaseClient) => Promise<T>): Promise<T>;
  /** Runs one transaction as the login's own role (the owner): creating tenants and partitions, nothing else. */
  asOwner<T>(work: (client: DatabaseClient) => Promise<T>): Promise<T>;
  /** Returns the connections now: open, idle, and callers that wait for one. */
  stats(): { readonly total: number; readonly idle: number; readonly waiting: number };
  /** Waits for running transactions, then closes every connection. */
  close(): Promise<void>;
}

export interface DatabaseOptions {
  readonly url: string;
  readonly maxConnections?: number;
  readonly statementTimeoutMs?: number;
  /** Longest wait for an answer: afterwards the connection is dropped, and the transaction fails. Default: 5 s after `statementTimeoutMs`. */
  readonly answerTimeoutMs?: number;
  /** Shown in pg_stat_activity. */
  readonly name?: string;
  /** Receives the error of an idle connection that broke. The pool replaces it by itself. */
  readonly onError?: (error: Error) => void;
}

/** Creates a pool; nothing connects before the first query. */
export function createDatabase(options: DatabaseOptions): Database {
  const statementTimeoutMs = options.statementTimeoutMs ?? DEFAULT_STATEMENT_TIMEOUT_MS;
  const pool = new pg.Pool({
    connectionString: options.url,
    application_name: options.name ?? 'stile',
    max: options.maxConnections ?? DEFAULT_MAX_CONNECTIONS,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    idleTimeoutMillis: IDLE_TIMEOUT_MS,
    statement_timeout: statementTimeoutMs,
    query_timeout: options.answerTimeoutMs ?? statementTimeoutMs + ANSWER_GRACE_MS,
    keepAlive: true,
    idle_in_transaction_session_timeout: IDLE_IN_TRANSACTION_TIMEOUT_MS,
    types: { getTypeParser: parserOf as typeof pg.types.getTypeParser },
  });
  pool.on('error', options.onError ?? (() => {}));

  async function transaction<T>(begin: string, work: (client: DatabaseClient) => Promise<T>): Promise<T> {
    const client = await pool.connect();
    // A connection that breaks during a transaction fails the running query; without a listener its event would end the process.
    const ignore = () => {};
    client.on('error', ignore);
    let broken: Error | undefined;
    try {
      await client.query(begin);
      const result = await work(asDatabaseClient(client));
      await client.query('COMMIT');
      return result;
    } catch (error) {
      // A connection that does not answer cannot roll back: the server does so when it finds the connection closed.
      // A server that is read-only was demoted: the next connection may reach the one that writes.
      if ((error as Error).message === NO_ANSWER || sqlState(error) === READ_ONLY) broken = error as Error;
      else
        await client.query('ROLLBACK').catch((rollbackError: Error) => {
          broken = rollbackError;
        });
      throw error;
    } finally {
      client.off('error', ignore);
      client.release(broken);
    }
  }

  function tenantTransaction<T>(mode: string, tenantId: string, work: (client: DatabaseClient) => Promise<T>): Promise<T> {
    if (!UUID.test(tenantId)) return Promise.reject(new Error(`a tenant id is a UUID, not ${JSON.stringify(cutText(String(tenantId), 40))}`));
    return transaction(`BEGIN${mode}; SET LOCAL ROLE stile_service; SELECT set_tenant_context('${tenantId}')`, work);
  }

  return {
    withTenant: (tenantId, work) => tenantTransaction('', tenantId, work),
    readSnapshot: (tenantId, work) => tenantTransaction(' ISOLATION LEVEL REPEATABLE READ READ ONLY', tenantId, work),
    withoutTenant: (work) => transaction('BEGIN; SET LOCAL ROLE stile_service', work),
    asOwner: (work) => transaction('BEGIN', work),
    stats: () => ({ total: pool.totalCount, idle: pool.idleCount, waiting: pool.waitingCount }),
    close: () => pool.end(),
  };
}

/** Returns PostgreSQL's five-character code of an error (23505 unique_violation, 40P01 deadlock_detected, 55P03 lock_not_available…), or null. */
export function sqlState(error: unknown): string | null {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code) ? code : null;
}

/** read_only_sql_transaction: of a server that was demoted. */
const READ_ONLY = '25006';

/** character_not_in_repertoire, of a text; untranslatable_character, of jsonb. */
const [UNSTORABLE_TEXT, UNSTORABLE_JSON] = ['22021', '22P05'];

/** Returns the error of a business rule in the database (function `refuse`); null for every other error. */
export function businessErrorOf(error: unknown): { readonly status: number; readonly code: string; readonly message: string } | null {
  const state = sqlState(error);
  // Entry points check texts and name the field; this is the fallback.
  if (state === UNSTORABLE_TEXT || state === UNSTORABLE_JSON)
    return { status: 400, code: 'BAD_REQUEST', message: 'a text holds U+0000 or half a surrogate pair, which no database can hold: leave it out' };
  if (state?.startsWith('ST') !== true) return null;
  const { constraint, message } = error as { constraint?: string; message: string };
  return { status: Number(state.slice(2)), code: constraint ?? 'REFUSED', message };
}

/** Returns true where the same work may succeed on another try: the server is away, restarting, demoted, or chose this transaction as a deadlock's victim. */
export function isTransient(error: unknown): boolean {
  const state = sqlState(error);
  if (state === null)
    return (
      !(error instanceof TypeError || error instanceof RangeError) &&
      /ECONN|EPIPE|ETIMEDOUT|terminated|timeout|Connection/i.test(
        String((error as Error)?.message ?? error) + String((error as { code?: unknown })?.code ?? ''),
      )
    );
  return (
    state.startsWith('08') ||
    state.startsWith('57P') ||
    state.startsWith('53') ||
    state === '40001' ||
    state === '40P01' ||
    state === '55P03' ||
    state === '57014' ||
    state === READ_ONLY
  );
}

/** Opens one connection outside any pool and transaction, as the login's own role: migrations and tests. */
export async function connectOwner(url: string): Promise<OwnerConnection> {
  const client = new pg.Client({
    connectionString: url,
    application_name: 'stile-owner',
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    types: { getTypeParser: parserOf as typeof pg.types.getTypeParser },
  });
  client.on('error', () => {});
  await client.connect();
  return { ...asDatabaseClient(client), client, close: () => client.end() };
}

export interface OwnerConnection extends DatabaseClient {
  /** pg's own client, for node-pg-migrate's runner. */
  readonly client: pg.Client;
  close(): Promise<void>;
}

function asDatabaseClient(client: pg.ClientBase): DatabaseClient {
  return {
    async query<Row>(text: string, values?: readonly unknown[]) {
      const answer = await client.query(text, values as unknown[] | undefined);
      // A text of several statements returns a list: the last one's counts.
      const last = Array.isArray(answer) ? (answer.at(-1) as pg.QueryResult) : answer;
      return { rows: last.rows as Row[], rowCount: last.rowCount ?? 0 };
    },
  };
}

/** Parses int8 (20) as number; everything else as pg does by default. */
function parserOf(oid: number, format?: 'text' | 'binary'): unknown {
  if (oid === pg.types.builtins.INT8 && format !== 'binary') return Number;
  return pg.types.getTypeParser(oid, format as 'text');
}
