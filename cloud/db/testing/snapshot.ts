/** Lists everything that migrations make, one line an object, sorted: what the committed snapshot and its test compare. */
import { join } from 'node:path';
import type { OwnerConnection } from '../database.ts';

/** One line an object, sorted. */
export const SNAPSHOT_FILE = join(import.meta.dirname, '..', 'schema.snapshot.txt');

/** Everything in schema public and what guards it. Left out: the months' partitions, whose names follow the calendar, and the migrations' own tables. */
const SNAPSHOT = `
WITH relations AS (
  SELECT c.*, c.oid::regclass::text AS name FROM pg_class c
   WHERE c.relnamespace = 'public'::regnamespace AND c.relname !~ '^ledger_(lines|messages)_[0-9]{4}' AND c.relname NOT IN ('migrations', 'migrations_id_seq', 'schema_objects')
), owner AS (SELECT datdba FROM pg_database WHERE datname = current_database()),
names AS (SELECT oid, CASE WHEN oid = (SELECT datdba FROM owner) THEN 'owner' ELSE rolname END AS name FROM pg_roles),
lines AS (
  SELECT format('table %s kind=%s rls=%s force=%s options=%s owner=%s acl=%s', r.name, r.relkind, r.relrowsecurity, r.relforcerowsecurity, r.reloptions, (SELECT name FROM names WHERE oid = r.relowner), acl_words(r.relacl)) AS line FROM relations r WHERE r.relkind IN ('r', 'p', 'v', 'm', 'S')
  UNION ALL SELECT format('column %s.%s %s notnull=%s default=%s generated=%s identity=%s statistics=%s storage=%s compression=%s acl=%s', r.name, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid), a.attgenerated, a.attidentity, a.attstattarget, a.attstorage, a.attcompression, acl_words(a.attacl))
    FROM pg_attribute a JOIN relations r ON r.oid = a.attrelid LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum WHERE r.relkind IN ('r', 'p', 'v', 'm', 'c') AND a.attnum > 0 AND NOT a.attisdropped
  UNION ALL SELECT format('constraint %s %s %s deferrable=%s valid=%s', r.name, k.conname, pg_get_constraintdef(k.oid), k.condeferrable, k.convalidated) FROM pg_constraint k JOIN relations r ON r.oid = k.conrelid
  UNION ALL SELECT format('index %s options=%s clustered=%s', pg_get_indexdef(i.indexrelid), x.reloptions, i.indisclustered) FROM pg_index i JOIN relations r ON r.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid
  UNION ALL SELECT format('function %s returns %s owner=%s definer=%s config=%s acl=%s text=%s', p.oid::regprocedure, pg_get_function_result(p.oid), (SELECT name FROM names WHERE oid = p.proowner), p.prosecdef, p.proconfig, acl_words(p.proacl), md5(pg_get_functiondef(p.oid))) FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND p.prokind IN ('f', 'p') AND p.proname <> 'acl_words'
  UNION ALL SELECT format('aggregate %s transition=%s state=%s initial=%s final=%s', p.oid::regprocedure, g.aggtransfn, format_type(g.aggtranstype, NULL), g.agginitval, g.aggfinalfn) FROM pg_aggregate g JOIN pg_proc p ON p.oid = g.aggfnoid WHERE p.pronamespace = 'public'::regnamespace
  UNION ALL SELECT format('enum %s: %s', t.typname, (SELECT string_agg(e.enumlabel, ', ' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid)) FROM pg_type t WHERE t.typnamespace = 'public'::regnamespace AND t.typtype = 'e'
  UNION ALL SELECT format('type %s: %s', r.name, (SELECT string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = r.oid AND a.attnum > 0)) FROM relations r WHERE r.relkind = 'c'
  UNION ALL SELECT format('domain %s %s notnull=%s default=%s', t.typname, format_type(t.typbasetype, t.typtypmod), t.typnotnull, t.typdefault) FROM pg_type t WHERE t.typnamespace = 'public'::regnamespace AND t.typtype = 'd'
  UNION ALL SELECT format('trigger %s enabled=%s', pg_get_triggerdef(t.oid), t.tgenabled) FROM pg_trigger t JOIN relations r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal
  UNION ALL SELECT format('policy %s %s for=%s permissive=%s to=%s using=%s check=%s', r.name, p.polname, p.polcmd, p.polpermissive, (SELECT string_agg(coalesce(x.rolname, 'public'), ', ' ORDER BY 1) FROM unnest(p.polroles) AS o LEFT JOIN pg_roles x ON x.oid = o), pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)) FROM pg_policy p JOIN relations r ON r.oid = p.polrelid
  UNION ALL SELECT format('view %s: %s', r.name, pg_get_viewdef(r.oid)) FROM relations r WHERE r.relkind IN ('v', 'm')
  UNION ALL SELECT format('role %s login=%s inherit=%s bypassrls=%s createdb=%s createrole=%s super=%s', rolname, rolcanlogin, rolinherit, rolbypassrls, rolcreatedb, rolcreaterole, rolsuper) FROM pg_roles WHERE rolname ~ '^stile_(service|resolver)$'
  UNION ALL SELECT format('schema public acl=%s', acl_words(nspacl)) FROM pg_namespace WHERE nspname = 'public'
  UNION ALL SELECT format('default privileges %s %s', defaclobjtype, acl_words(defaclacl)) FROM pg_default_acl
  UNION ALL SELECT format('extension %s', extname) FROM pg_extension WHERE extname <> 'plpgsql'
)
SELECT regexp_replace(line, '\\s+', ' ', 'g') AS line FROM lines ORDER BY line COLLATE "C"`;

/** Privileges as text, the database's owner named so, in a fixed order; `default` where none was ever changed. Lives for the session alone. */
const ACL_WORDS = `
CREATE OR REPLACE FUNCTION pg_temp.acl_words(acl aclitem[]) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT coalesce((SELECT string_agg(word, ',' ORDER BY word COLLATE "C") FROM (
    SELECT CASE WHEN x.grantee = 0 THEN 'public' WHEN x.grantee = d.datdba THEN 'owner' ELSE x.grantee::regrole::text END || '=' || string_agg(x.privilege_type, '+' ORDER BY x.privilege_type) AS word
      FROM aclexplode(acl) AS x, pg_database d WHERE d.datname = current_database() GROUP BY x.grantee, d.datdba) AS words), CASE WHEN acl IS NULL THEN 'default' ELSE 'nobody' END)
$$`;

/** Returns the lines of the schema that `owner` is connected to. */
export async function schemaSnapshot(owner: OwnerConnection): Promise<string[]> {
  await owner.query(ACL_WORDS);
  const { rows } = await owner.query<{ line: string }>(SNAPSHOT.replaceAll('acl_words(', 'pg_temp.acl_words('));
  return rows.map(({ line }) => line);
}
