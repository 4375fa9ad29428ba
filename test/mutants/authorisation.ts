/** Rights that are dropped in one place (FAULTS M1). */
import { type Mutant, mutant } from './mutant.ts';

const ROUTES = 'test/identities/routes.real.test.ts';
const WORDS = 'test/identities/words.real.test.ts';
const ROWS = 'test/identities/rows.real.test.ts';
const ACL = 'test/faults/identity.test.ts';
const route = (name: string, file: string, text: string, instead: string) => mutant(name, file, text, instead, 'real', ROUTES);
const word = (name: string, file: string, text: string, instead: string) => mutant(name, file, text, instead, 'real', WORDS);

export const AUTHORISATION: readonly Mutant[] = [
  {
    name: 'settle is open to devices',
    edits: [
      {
        file: 'cloud/reconcile/routes.ts',
        text: "'/grants/:site/:gate/:epoch/:seq/settle',\n    {\n      config: { who: 'operator' },",
        instead: "'/grants/:site/:gate/:epoch/:seq/settle',\n    {\n      config: { who: 'any' },",
      },
      {
        file: 'cloud/reconcile/routes.ts',
        text: 'const operator = operatorOf(request);\n      const { site, gate, epoch, seq } = request.params;',
        instead:
          "const operator = { name: 'x', actor: null, ...request.identity } as ReturnType<typeof operatorOf>;\n      const { site, gate, epoch, seq } = request.params;",
      },
    ],
    project: 'real',
    tests: [ROUTES],
  },
  {
    name: 'conflicts are open to devices',
    edits: [
      {
        file: 'cloud/reconcile/routes.ts',
        text: "'/conflicts',\n    {\n      config: { who: 'operator' },",
        instead: "'/conflicts',\n    {\n      config: { who: 'any' },",
      },
      {
        file: 'cloud/reconcile/routes.ts',
        text: 'conflicts: await database.withTenant(operatorOf(request).tenantId,',
        instead: "conflicts: await database.withTenant(request.identity?.tenantId ?? '',",
      },
    ],
    project: 'real',
    tests: [ROUTES],
  },
  route(
    'the list of gates is open to all',
    'cloud/devices/routes.ts',
    "'/gates',\n    {\n      config: { who: 'operator' },",
    "'/gates',\n    {\n      config: { who: 'open' },",
  ),
  route(
    'a gate fetches any manifest',
    'cloud/manifest/routes.ts',
    "if ((await client.query('SELECT 1 FROM gate_assignments WHERE gate = $1 AND event_id = $2', [device, eventId])).rowCount === 0)",
    'if (device === eventId)',
  ),
  route('a scanner scans for any event', 'cloud/scan/routes.ts', 'if (assigned.rowCount === 0)', 'if (assigned.rowCount < 0)'),
  route('a scanner of another site writes off tickets', 'cloud/scan/offline.ts', 'AND e.site_id = $2 ', 'AND ($2::text) IS NOT NULL '),
  route("a scanner uploads in another's name", 'cloud/scan/routes.ts', 'if (named !== own) throw', "if (named === '') throw"),
  route("a gate asks for a list in another's name", 'cloud/manifest/routes.ts', 'if (device_id !== device) throw', "if (device_id === '*') throw"),
  route(
    'a gate reads the ledgers of any site',
    'cloud/reconcile/routes.ts',
    "identity?.kind === 'device' && !identity.device.startsWith(`${site}/`)",
    "identity?.kind === 'device' && site === ''",
  ),
  route(
    'enrolment has no limit of requests',
    'cloud/devices/enrolment.ts',
    "config: { who: 'open', opensWith:",
    "config: { who: 'open', unlimited: true, opensWith:",
  ),
  route(
    'an unused enrolment token brings a revoked gate back',
    'cloud/devices/assignment.ts',
    "await client.query('UPDATE enrolment_tokens SET used_at = now() WHERE device = $1 AND used_at IS NULL', [name]);",
    '',
  ),
  route('a token of before the revocation is good', 'cloud/devices/enrolment.ts', 'AND d.revoked_at >= e.created_at)', 'AND d.revoked_at < d.revoked_at)'),
  {
    name: 'an enrolment token is good twice',
    edits: [
      {
        file: 'cloud/db/',
        text: 'AND e.used_at IS NULL AND e.expires_at > now() $$;',
        instead: 'AND e.expires_at > now() $$;',
      },
      { file: 'cloud/devices/enrolment.ts', text: 'if (taken.rowCount === 0) throw', instead: 'if (taken.rowCount < 0) throw' },
    ],
    project: 'real',
    tests: [ROUTES],
  },
  route('an enrolment token never ends', 'cloud/db/', 'AND e.used_at IS NULL AND e.expires_at > now() $$;', 'AND e.used_at IS NULL $$;'),
  route(
    'another open token makes a second gate of the name',
    'cloud/devices/enrolment.ts',
    "await client.query('UPDATE enrolment_tokens SET used_at = now() WHERE device = $1 AND used_at IS NULL', [found.device]);",
    '',
  ),
  {
    name: 'a revoked gate keeps its token',
    edits: [
      {
        file: 'cloud/devices/assignment.ts',
        text: 'SET revoked_at = coalesce(revoked_at, now()), token_sha256 = NULL WHERE',
        instead: 'SET revoked_at = coalesce(revoked_at, now()) WHERE',
      },
      {
        file: 'cloud/db/',
        text: 'WHERE d.token_sha256 = token_hash AND d.revoked_at IS NULL $$;',
        instead: 'WHERE d.token_sha256 = token_hash $$;',
      },
    ],
    project: 'real',
    tests: [ROUTES],
  },
  route(
    "an operator's token never ends",
    'cloud/db/',
    'AND o.revoked_at IS NULL AND (o.expires_at IS NULL OR o.expires_at > now()) $$;',
    'AND o.revoked_at IS NULL $$;',
  ),
  route("an operator's token is not revoked", 'cloud/db/', 'AND o.revoked_at IS NULL AND (o.expires_at', 'AND (o.expires_at'),
  route("an operator acts in another's name", 'cloud/http/server.ts', 'if (named !== undefined && named !== operator.actor) throw', "if (named === '') throw"),
  route(
    'a revoked gate is assigned events',
    'cloud/devices/assignment.ts',
    "if (device.revoked) return { ok: false, code: 'REVOKED'",
    "if (device.backlog === -1) return { ok: false, code: 'REVOKED'",
  ),
  route(
    'a revoked gate is sent commands',
    'cloud/devices/routes.ts',
    "client.query('SELECT 1 FROM devices WHERE name = $1 AND revoked_at IS NULL', [gate])",
    "client.query('SELECT 1 FROM devices WHERE name = $1', [gate])",
  ),
  word('senders are remembered for ever', 'cloud/ingest/sender-cache.ts', 'known !== undefined && known.until > now()', 'known !== undefined'),
  word(
    'revoked senders are heard',
    'cloud/ingest/sender-cache.ts',
    "kind: revoked === true ? 'revoked' : 'device'",
    "kind: revoked === undefined ? 'revoked' : 'device'",
  ),
  word(
    'last words of anybody are kept',
    'cloud/ingest/telemetry.ts',
    "if (sender.kind !== 'device') {\n          counts.refused += 1;",
    "if (sender.kind === 'unknown') {\n          counts.refused += 1;",
  ),
  word("a gate writes another's ledger", 'cloud/ingest/ledger-intake.ts', 'if (parsed.value.gate !== gate) return', "if (parsed.value.gate === '') return"),
  word(
    'facts of any event are told',
    'cloud/manifest/lookup.ts',
    "'SELECT e.version FROM gate_assignments a JOIN events e ON e.tenant_id = a.tenant_id AND e.event_id = a.event_id WHERE a.gate = $1 AND a.event_id = $2'",
    "'SELECT e.version FROM events e WHERE $1::text IS NOT NULL AND e.event_id = $2'",
  ),
  mutant('any row settles any grant', 'cloud/db/', " AND gates[i] = split_part(of_gates[i], '/', 1) || '/cloud')", ')', 'real', ROWS),
  {
    name: 'any row settles any grant, and no table says whose it is',
    edits: [
      { file: 'cloud/db/', text: " AND gates[i] = split_part(of_gates[i], '/', 1) || '/cloud')", instead: ')' },
      { file: 'contract/authority.ts', text: "settlement: 'cloud',", instead: "settlement: 'own'," },
    ],
    project: 'real',
    tests: [ROWS],
  },
  mutant(
    'a gate hears the ledgers of every site',
    'cloud/mqtt/broker-acl.ts',
    '`${TOPIC_ROOT}/${site}/+/ledger`,',
    '`${TOPIC_ROOT}/+/+/ledger`,',
    'system',
    ACL,
  ),
  mutant(
    'a gate answers for its whole site',
    'cloud/mqtt/broker-acl.ts',
    '`${TOPIC_ROOT}/${gate}/response/+`]',
    '`${TOPIC_ROOT}/${splitGateName(gate).site}/+/response/+`]',
    'system',
    ACL,
  ),
  mutant(
    'a revoked gate keeps its rights at the broker',
    'cloud/mqtt/broker-acl.ts',
    'isRevoked ? `# ${gate} is revoked` :',
    "gate === '' ? `# ${gate} is revoked` :",
    'system',
    ACL,
  ),
];
