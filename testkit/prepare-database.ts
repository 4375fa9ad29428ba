/** The two logins and a database, made on a server whose superuser we have: for the demo, the tests and the benchmarks, by the SQL that people run. */
import { createHash } from 'node:crypto';
import { connectOwner } from '../cloud/db/database.ts';
import { PRINTED_PASSWORDS, SETUP_SQL } from '../cloud/db/logins.ts';

/** Several programs that prepare one server: one after another. */
const LOCK_KEY = 0x5374_0002;

export interface PreparedDatabase {
  /** The owner's login: migrates. */
  readonly ownerUrl: string;
  /** What the cloud serves by. */
  readonly servingUrl: string;
}

/** Their addresses. The passwords follow from the superuser's, so that everybody who may prepare a server finds the same. */
export function loginsOf(adminUrl: string, name: string): PreparedDatabase {
  const [ownerUrl, servingUrl] = ['stile_owner', 'stile'].map((login) => {
    const url = new URL(adminUrl);
    const password = createHash('sha256').update(`${login} ${url.password}`).digest('base64url').slice(0, 24);
    return Object.assign(url, { username: login, password, pathname: `/${name}` }).href;
  }) as [string, string];
  return { ownerUrl, servingUrl };
}

/** Makes what is not there yet of roles and database. */
export async function prepareDatabase(adminUrl: string, name = 'stile', setupSql = SETUP_SQL): Promise<PreparedDatabase> {
  const logins = loginsOf(adminUrl, name);
  const sql = setupSql
    .replace(PRINTED_PASSWORDS[0], new URL(logins.ownerUrl).password)
    .replace(PRINTED_PASSWORDS[1], new URL(logins.servingUrl).password)
    .replace('DATABASE stile ', `DATABASE ${name} `);
  const admin = await connectOwner(adminUrl);
  try {
    await admin.query('SELECT pg_advisory_lock($1)', [LOCK_KEY]);
    const there = new Set(
      (await admin.query<{ it: string }>("SELECT 'ROLE ' || rolname AS it FROM pg_roles UNION ALL SELECT 'DATABASE ' || datname FROM pg_database")).rows.map(
        ({ it }) => it,
      ),
    );
    for (const statement of sql.split(/;\s*/).filter((text) => text !== '')) {
      const made = /^CREATE ((?:ROLE|DATABASE) \w+)/.exec(statement)?.[1];
      if (made === undefined || !there.has(made)) await admin.query(statement);
    }
  } finally {
    await admin.close();
  }
  return logins;
}
