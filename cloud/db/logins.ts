/**
 * Checks the two logins of an installation: the owner, which migrates and serves nobody, and the serving one, which is a member of `stile_service`
 * and owns nothing. Neither is a superuser. Holds the SQL that an administrator runs once, and reports its missing parts with the SQL that repairs
 * them.
 */
import { connectOwner, type DatabaseClient, sqlState } from './database.ts';

/** The passwords as SETUP_SQL prints them: a URL that still has one is refused. */
export const PRINTED_PASSWORDS = ['owner-password', 'serving-password'] as const;
/** The oldest PostgreSQL that is tested. */
const OLDEST_VERSION = 15;

/**
 * The SQL that a superuser runs once, in any database of the server. docs/INSTALL.md prints it, and so does `migrate` where it was not run.
 *
 * stile_resolver bypasses row security and owns a few functions that return ids: only a superuser can create such a role, and only its members can
 * give it functions. The owner is a member of both; the serving login of stile_service alone.
 */
export const SETUP_SQL = `CREATE ROLE stile_service NOLOGIN;
CREATE ROLE stile_resolver NOLOGIN BYPASSRLS;
CREATE ROLE stile_owner LOGIN PASSWORD '${PRINTED_PASSWORDS[0]}';
CREATE ROLE stile LOGIN NOINHERIT PASSWORD '${PRINTED_PASSWORDS[1]}';
GRANT stile_service, stile_resolver TO stile_owner;
GRANT stile_service TO stile;
CREATE DATABASE stile OWNER stile_owner ENCODING 'UTF8' LOCALE 'C.UTF-8' TEMPLATE template0;
`;

/** The database, its roles or a login are not as SETUP_SQL makes them; the message has the fault, its place and the SQL that repairs it. */
export class SetupError extends Error {
  override name = 'SetupError';
}

interface Fault {
  readonly what: string;
  readonly sql: string;
}

interface OwnerFacts {
  readonly login: string;
  readonly quoted: string;
  readonly database: string;
  readonly version: number;
  readonly superuser: boolean;
  readonly service: boolean | null;
  readonly resolver: boolean | null;
  readonly member_service: boolean | null;
  readonly member_resolver: boolean | null;
  readonly schema: boolean;
  /** The role that owns the database, if it is another one, not a superuser, and not a role that this login belongs to. */
  readonly other_owner: string | null;
  readonly foreign_owner: string | null;
}

/**
 * service, resolver: null where the role is missing, else whether its attributes are right. A member must be able to act as the role and have its
 * rights.
 */
const OWNER_FACTS = `SELECT current_user AS login, quote_ident(current_user) AS quoted, quote_ident(current_database()) AS database,
  current_setting('server_version_num')::integer / 10000 AS version, (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) AS superuser,
  (SELECT NOT r.rolsuper AND NOT r.rolbypassrls AND NOT r.rolcreaterole AND NOT r.rolcreatedb FROM pg_roles r WHERE r.rolname = 'stile_service') AS service,
  (SELECT NOT r.rolsuper AND r.rolbypassrls AND NOT r.rolcanlogin FROM pg_roles r WHERE r.rolname = 'stile_resolver') AS resolver,
  (SELECT pg_has_role(r.oid, $1) AND pg_has_role(r.oid, 'USAGE') FROM pg_roles r WHERE r.rolname = 'stile_service') AS member_service,
  (SELECT pg_has_role(r.oid, $1) AND pg_has_role(r.oid, 'USAGE') FROM pg_roles r WHERE r.rolname = 'stile_resolver') AS member_resolver,
  pg_has_role(n.nspowner, 'USAGE') AND has_schema_privilege(n.oid, 'CREATE') AS schema,
  (SELECT o.rolname FROM pg_database d JOIN pg_roles o ON o.oid = d.datdba WHERE d.datname = current_database() AND NOT o.rolsuper AND NOT pg_has_role(o.oid, 'USAGE')) AS other_owner,
  (SELECT c.relowner::regrole::text FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'v', 'S') AND NOT pg_has_role(c.relowner, 'USAGE') LIMIT 1) AS foreign_owner
  FROM pg_namespace n WHERE n.nspname = 'public'`;

/**
 * Checks, before it changes anything, whether this login can apply every migration. Throws SetupError with everything that is missing at once;
 * returns a warning for the person at the terminal, or null.
 */
export async function checkOwner(owner: DatabaseClient, setting: string): Promise<string | null> {
  const version = (await owner.query<{ version: number }>("SELECT current_setting('server_version_num')::integer / 10000 AS version")).rows[0]?.version ?? 0;
  if (version < OLDEST_VERSION)
    throw new SetupError(`this is PostgreSQL ${version}, and Stile needs ${OLDEST_VERSION} or newer: install a newer one, and name it in ${setting}`);
  // The right to SET ROLE became separate in 16.
  const { rows } = await owner.query<OwnerFacts>(OWNER_FACTS, [version >= 16 ? 'SET' : 'MEMBER']);
  const facts = rows[0];
  if (facts === undefined) throw new SetupError('the database has no schema public; run in it: CREATE SCHEMA public AUTHORIZATION pg_database_owner;');
  if (facts.superuser)
    return `${facts.login} (${setting}) is a superuser: migrating needs none, and what it makes only a superuser can change later. Better, once, by a superuser:\n${SETUP_SQL}and then ${setting} with the login stile_owner`;
  if (facts.other_owner !== null)
    throw new SetupError(
      `${facts.login} (${setting}) does not own the database ${facts.database}, ${facts.other_owner} does, and only the owner migrates: set STILE_MIGRATE_URL to this database with the login ${facts.other_owner}${setting === 'DATABASE_URL' ? ' (it is not set); DATABASE_URL stays the login that serves' : ''}`,
    );
  const faults = faultsOf(facts);
  if (faults.length > 0)
    throw new SetupError(
      `${facts.login} (${setting}) cannot migrate the database ${facts.database}:\n${faults.map(({ what }) => `  ${what}`).join('\n')}\nTo repair it, run once by a superuser in that database (sudo -u postgres psql ${facts.database}):\n${faults.map(({ sql }) => `${sql}\n`).join('')}A new installation begins with:\n${SETUP_SQL}`,
    );
  return null;
}

function faultsOf(facts: OwnerFacts): Fault[] {
  const { quoted, database } = facts;
  const faults: Fault[] = [];
  if (facts.service === null) faults.push({ what: 'the role stile_service is missing', sql: 'CREATE ROLE stile_service NOLOGIN;' });
  if (facts.service === false)
    faults.push({
      what: 'the role stile_service may do more than serve',
      sql: 'ALTER ROLE stile_service NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB;',
    });
  if (facts.resolver === null) faults.push({ what: 'the role stile_resolver is missing', sql: 'CREATE ROLE stile_resolver NOLOGIN BYPASSRLS;' });
  if (facts.resolver === false)
    faults.push({
      what: 'the role stile_resolver must bypass row security, and neither log in nor be a superuser',
      sql: 'ALTER ROLE stile_resolver NOLOGIN NOSUPERUSER BYPASSRLS;',
    });
  const missing = [facts.member_service === true ? null : 'stile_service', facts.member_resolver === true ? null : 'stile_resolver'].filter(
    (name) => name !== null,
  );
  // For a role that does not inherit (NOINHERIT), 15 knows only the role's own setting, newer ones the grant's.
  if (missing.length > 0)
    faults.push({
      what: `${facts.login} is not a member of ${missing.join(' and ')} with that role's rights`,
      sql:
        facts.version >= 16
          ? `GRANT ${missing.join(', ')} TO ${quoted} WITH INHERIT TRUE, SET TRUE;`
          : `ALTER ROLE ${quoted} INHERIT; GRANT ${missing.join(', ')} TO ${quoted};`,
    });
  if (!facts.schema)
    faults.push({
      what: `${facts.login} does not own the database ${database} and its schema public`,
      sql: `ALTER DATABASE ${database} OWNER TO ${quoted}; ALTER SCHEMA public OWNER TO pg_database_owner;`,
    });
  if (facts.foreign_owner !== null) faults.push({ what: `tables in it belong to ${facts.foreign_owner}, who migrated before`, sql: ownersSql(quoted) });
  return faults;
}

/** Gives the objects in public to the owner; functions of stile_resolver stay. */
function ownersSql(quoted: string): string {
  return `DO $$ DECLARE it record; BEGIN
  FOR it IN SELECT format('ALTER TABLE %s OWNER TO ${quoted}', c.oid::regclass) AS sql FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v')
    UNION ALL SELECT format('ALTER TYPE %s OWNER TO ${quoted}', t.oid::regtype) FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid WHERE t.typnamespace = 'public'::regnamespace AND (t.typtype IN ('e', 'd') OR c.relkind = 'c')
    UNION ALL SELECT format('ALTER ROUTINE %s OWNER TO ${quoted}', p.oid::regprocedure) FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND p.proowner <> 'stile_resolver'::regrole
  LOOP EXECUTE it.sql; END LOOP; END $$;`;
}

/**
 * Checks the serving login: a member of stile_service that owns nothing and bypasses nothing. Throws SetupError otherwise.
 *
 * An error, not a warning: every request runs as stile_service, so nothing shows until somebody finds a way to `RESET ROLE`, and nobody reads a
 * warning at the start until then. It is checked when the service starts, never while it runs.
 */
export async function checkServing(serving: DatabaseClient): Promise<void> {
  const { rows } = await serving.query<{ login: string; quoted: string; database: string; member: boolean | null; fault: string | null }>(
    `SELECT current_user AS login, quote_ident(current_user) AS quoted, quote_ident(current_database()) AS database,
      (SELECT pg_has_role(s.oid, $1) FROM pg_roles s WHERE s.rolname = 'stile_service') AS member,
      CASE WHEN EXISTS (SELECT FROM pg_roles r WHERE r.rolsuper AND pg_has_role(r.oid, 'MEMBER')) THEN 'a superuser, or a member of one'
        WHEN pg_has_role(d.datdba, 'MEMBER') OR EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND pg_has_role(c.relowner, 'MEMBER'))
          THEN 'the owner of the database or of its tables, or a member of that role'
        WHEN EXISTS (SELECT FROM pg_roles r WHERE r.rolbypassrls AND pg_has_role(r.oid, 'MEMBER')) THEN 'able to bypass row security'
        WHEN EXISTS (SELECT FROM pg_roles r WHERE r.rolcreaterole AND pg_has_role(r.oid, 'MEMBER')) THEN 'able to make roles' END AS fault
     FROM pg_database d WHERE d.datname = current_database()`,
    [await memberRight(serving)],
  );
  const facts = rows[0] as (typeof rows)[number];
  if (facts.fault !== null)
    throw new SetupError(
      `${facts.login} (DATABASE_URL) is ${facts.fault}: with such a login one wrong query shows every tenant's rows, so it serves nobody. Run once by a superuser:\nCREATE ROLE stile LOGIN NOINHERIT PASSWORD '${PRINTED_PASSWORDS[1]}';\nGRANT stile_service TO stile;\nThen DATABASE_URL names stile with its password, and STILE_MIGRATE_URL the owner`,
    );
  if (facts.member !== true)
    throw new SetupError(
      facts.member === null
        ? `the role stile_service is missing: the database ${facts.database} was never migrated. A new installation begins with, run once by a superuser:\n${SETUP_SQL}`
        : `${facts.login} (DATABASE_URL) may not act as stile_service. Run once by a superuser:\nGRANT stile_service TO ${facts.quoted};`,
    );
}

/** The right to SET ROLE became separate in 16. */
async function memberRight(client: DatabaseClient): Promise<string> {
  const { rows } = await client.query<{ version: number }>("SELECT current_setting('server_version_num')::integer / 10000 AS version");
  return (rows[0]?.version ?? 0) >= 16 ? 'SET' : 'MEMBER';
}

/** Connects once to check the serving login. */
export async function checkServingUrl(url: string): Promise<void> {
  const serving = await connectOwner(url).catch((error: unknown) => {
    throw refusedLogin(error, url, 'DATABASE_URL') ?? error;
  });
  try {
    await checkServing(serving);
  } finally {
    await serving.close();
  }
}

/** Explains PostgreSQL's refusal of a login, with its repair; null for every other error. Never includes the password. */
export function refusedLogin(error: unknown, url: string, setting: string): SetupError | null {
  const state = sqlState(error);
  const message = (error as Error)?.message ?? String(error);
  const { login, database, place } = partsOf(url);
  if (state === '3D000')
    return new SetupError(
      `there is no database ${JSON.stringify(database)} at ${place} (${setting}): correct its name, or, in a new installation, run once by a superuser:\n${SETUP_SQL}`,
    );
  if (state === '28P01')
    return new SetupError(
      `PostgreSQL at ${place} refuses the login ${JSON.stringify(login)} (${setting}): its password is another one, or there is no such role. Correct ${setting}, or give the role a new password, by a superuser:\nALTER ROLE ${identifier(login)} PASSWORD '…';\nA new installation begins with:\n${SETUP_SQL}`,
    );
  if (state === '28000')
    return new SetupError(
      `PostgreSQL at ${place} does not let ${JSON.stringify(login)} in (${setting}): ${message}. There must be such a role that may log in (ALTER ROLE ${identifier(login)} LOGIN), and a line for it in pg_hba.conf: host ${database} ${login} 127.0.0.1/32 scram-sha-256`,
    );
  if (state === '42501' && /connect|database/i.test(message))
    return new SetupError(
      `${JSON.stringify(login)} (${setting}) may not connect to the database ${JSON.stringify(database)}. Run once by a superuser:\nGRANT CONNECT ON DATABASE ${identifier(database)} TO ${identifier(login)};`,
    );
  return null;
}

function partsOf(url: string): { readonly login: string; readonly database: string; readonly place: string } {
  const { username, pathname, hostname, port } = new URL(url);
  const login = decodeURIComponent(username);
  return { login, database: decodeURIComponent(pathname.slice(1)) || login, place: `${hostname || 'the local socket'}:${port || '5432'}` };
}

const identifier = (name: string) => (/^[a-z_][a-z0-9_]*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`);
