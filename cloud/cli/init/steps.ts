/** The steps of `stile-cloud init` on a Debian server: everything between the installed package and a cloud that gates can reach. */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { SETUP_SQL } from '../../db/logins.ts';
import { writeCertificates } from '../../devices/certificates.ts';
import { type Host, must } from './host.ts';
import type { Found, Step } from './plan.ts';

const PKI = '/etc/stile/pki';
const SETTINGS = '/etc/stile/cloud.env';
const BACKUP_SETTINGS = '/etc/stile/backup.env';
const BROKER = '/etc/mosquitto/stile';
const BROKER_CONF = '/etc/mosquitto/conf.d/stile.conf';
const PROXY_CONF = '/etc/nginx/conf.d/stile.conf';
const PROXY_TLS = '/etc/ssl/stile';
const PROGRAM = '/opt/stile-cloud/bin/stile-cloud';
/** Random bytes of a database password. */
const PASSWORD_BYTES = 24;
const SERVICE_USER = 'stile-cloud';

export interface InitOptions {
  /** Names and addresses by which gates reach this server, the first as they call it. Empty: an update. */
  readonly hosts: readonly string[];
  readonly operator: string;
  /** Starts what it has set up. */
  readonly start: boolean;
  /** `share` of the installed program. */
  readonly share: string;
}

const done = (why: string): Found => ({ state: 'done', why });
const todo = (why: string): Found => ({ state: 'todo', why });
const absent = (why: string): Found => ({ state: 'absent', why });

/** Returns the SQL of the login that backups use: it reads everything, row security included, and writes nothing. */
const backupSql = (password: string) => `CREATE ROLE stile_backup LOGIN BYPASSRLS PASSWORD '${password}';
GRANT pg_read_all_data TO stile_backup;
GRANT CONNECT ON DATABASE stile TO stile_backup;
`;

/** Returns the steps in their order. Constructs nothing and changes nothing. */
export function initSteps(host: Host, options: InitOptions): readonly Step[] {
  return [
    certificates(host, options),
    database(host),
    settings(host, options),
    schema(host),
    signingKey(host),
    broker(host, options),
    proxy(host, options),
    service(host, options),
    operator(host, options),
  ];
}

function certificates(host: Host, { hosts }: InitOptions): Step {
  return {
    name: 'certificates',
    does: `makes the authorities of gates and cloud and their first certificates in ${PKI}`,
    undoes: `rm -r ${PKI}: every gate must enrol again`,
    holdsData: true,
    find: () => (host.exists(`${PKI}/broker.crt`) ? done(`${PKI} has them`) : todo('there are none')),
    async apply() {
      if (hosts.length === 0) throw new Error('say how gates reach this server: --host NAME (a name or an address)');
      await writeCertificates(host.at(PKI), [...new Set([...hosts, 'localhost', '127.0.0.1'])]);
      return `authorities and certificates are in ${PKI}: keep a copy of that folder in a safe place`;
    },
    undo: () => host.remove(PKI),
  };
}

const asPostgres = (host: Host, sql: string) => host.run('runuser', ['-u', 'postgres', '--', 'psql', '-qtA', '-v', 'ON_ERROR_STOP=1'], sql);

function database(host: Host): Step {
  const logins = () => {
    const asked = asPostgres(
      host,
      "SELECT count(*) FROM pg_roles WHERE rolname IN ('stile', 'stile_owner', 'stile_backup'); SELECT count(*) FROM pg_database WHERE datname = 'stile';",
    );
    return asked.status === 0 ? asked.out.trim().split('\n').map(Number) : null;
  };
  return {
    name: 'database',
    does: 'makes the database stile with an owner that migrates, a login that serves and owns nothing, and a read-only one for backups',
    undoes: 'DROP DATABASE stile and its roles: every ticket and every admission is gone',
    holdsData: true,
    find() {
      if (host.exists(SETTINGS)) return done(`${SETTINGS} names it`);
      if (!host.has('psql'))
        return absent(
          `there is no PostgreSQL on this machine: run share/database.sql on its server with passwords of your own, write them into ${SETTINGS}, then init again`,
        );
      const found = logins();
      if (found === null) return absent(`PostgreSQL does not answer here: systemctl start postgresql, then init again`);
      return todo('there is none');
    },
    apply() {
      const found = logins();
      if (found === null || found.some((count) => count > 0))
        throw new Error(
          `PostgreSQL has a database or logins named stile already, and ${SETTINGS}, which would name them, is missing: restore that file, or (all data is lost) stile-cloud init --undo --with-data, then init again`,
        );
      const [owner, serving, backup] = Array.from({ length: 3 }, () => randomBytes(PASSWORD_BYTES).toString('hex')) as [string, string, string];
      must(
        asPostgres(host, `${SETUP_SQL.replace('owner-password', owner).replace('serving-password', serving)}${backupSql(backup)}`),
        'the database could not be made',
      );
      host.put(
        SETTINGS,
        `DATABASE_URL=postgres://stile:${serving}@127.0.0.1/stile\nSTILE_MIGRATE_URL=postgres://stile_owner:${owner}@127.0.0.1/stile\n`,
        0o600,
        'root',
      );
      host.put(BACKUP_SETTINGS, `STILE_BACKUP_URL=postgres://stile_backup:${backup}@127.0.0.1/stile\n`, 0o600, 'root');
      return `the database stile and its three logins; passwords are in ${SETTINGS} and ${BACKUP_SETTINGS}`;
    },
    undo() {
      if (host.has('psql'))
        must(
          asPostgres(host, 'DROP DATABASE IF EXISTS stile WITH (FORCE); DROP ROLE IF EXISTS stile, stile_owner, stile_backup, stile_service, stile_resolver;'),
          'the database could not be dropped',
        );
      for (const file of [SETTINGS, BACKUP_SETTINGS]) host.remove(file);
    },
  };
}

function settings(host: Host, { hosts }: InitOptions): Step {
  const inUrl = (name: string) => (name.includes(':') ? `[${name}]` : name);
  const wanted: readonly (readonly [string, string])[] = [
    ['STILE_MQTT_URL', 'mqtts://127.0.0.1:8884'],
    ['STILE_MQTT_CA', '/etc/stile/ca.pem'],
    ['STILE_MQTT_CERT', '/etc/stile/cloud.pem'],
    ['STILE_MQTT_KEY', '/etc/stile/cloud.key'],
    ['STILE_CA_CERT', '/etc/stile/ca.pem'],
    ['STILE_CA_KEY', '/etc/stile/ca.key'],
    ['STILE_PUBLIC_URL', `https://${inUrl(hosts[0] ?? '')}`],
  ];
  const files: readonly (readonly [string, string])[] = [
    ['gates-ca.crt', '/etc/stile/ca.pem'],
    ['gates-ca.key', '/etc/stile/ca.key'],
    ['cloud.crt', '/etc/stile/cloud.pem'],
    ['cloud.key', '/etc/stile/cloud.key'],
  ];
  const missing = () => wanted.filter(([name]) => !new RegExp(`^${name}=`, 'm').test(host.read(SETTINGS) ?? ''));
  const stale = () => files.filter(([from, to]) => host.exists(`${PKI}/${from}`) && host.read(`${PKI}/${from}`) !== host.read(to));
  return {
    name: 'settings',
    does: `writes what is missing into ${SETTINGS}, and the certificates that the service reads into /etc/stile`,
    undoes: `rm ${files.map(([, to]) => to).join(' ')}`,
    holdsData: false,
    find: () => (missing().length === 0 && stale().length === 0 ? done(SETTINGS) : todo('something is missing')),
    apply() {
      const lines = missing();
      if (lines.some(([name]) => name === 'STILE_PUBLIC_URL') && hosts.length === 0) throw new Error('say how gates reach this server: --host NAME');
      host.folder('/etc/stile', 0o750, SERVICE_USER);
      for (const [from, to] of stale()) host.put(to, host.read(`${PKI}/${from}`) as string, 0o640, SERVICE_USER);
      const before = host.read(SETTINGS);
      if (before === null) throw new Error(`${SETTINGS} is missing: write DATABASE_URL and STILE_MIGRATE_URL into it (docs/INSTALL.md), then init again`);
      if (lines.length > 0)
        host.put(SETTINGS, `${before}${before.endsWith('\n') ? '' : '\n'}${lines.map(([name, value]) => `${name}=${value}\n`).join('')}`, 0o600, 'root');
      return lines.length === 0 ? `new certificates are in /etc/stile` : `${SETTINGS}: ${lines.map(([name]) => name).join(', ')}`;
    },
    undo() {
      for (const [, to] of files) host.remove(to);
    },
  };
}

function schema(host: Host): Step {
  return {
    name: 'schema',
    does: "brings the database to this version with the owner's login",
    undoes: 'nothing: the schema goes with the database',
    holdsData: false,
    find: () => todo('each start looks'),
    apply() {
      const said = must(host.run(PROGRAM, ['migrate']), 'stile-cloud migrate');
      return said.trim().split('\n').at(-1) || 'the database is of this version';
    },
    undo: () => undefined,
  };
}

function signingKey(host: Host): Step {
  const file = '/var/lib/stile-cloud/signing-key.pem';
  return {
    name: 'signing key',
    does: `makes the key by which gates know this cloud's lists: ${file}`,
    undoes: `rm ${file}: no gate takes lists from this server any more`,
    holdsData: true,
    find: () => (host.exists(file) ? done(file) : todo('there is none')),
    apply() {
      must(host.run('install', ['-d', '-o', SERVICE_USER, '-g', SERVICE_USER, '-m', '750', host.at('/var/lib/stile-cloud')]), '/var/lib/stile-cloud');
      const env = (host.read(SETTINGS) ?? '').split('\n').filter((line) => line.startsWith('DATABASE_URL='));
      must(host.run('runuser', ['-u', SERVICE_USER, '--', 'env', ...env, PROGRAM, 'keys']), 'stile-cloud keys');
      return `${file}: keep a copy in a safe place; gates trust lists by it alone`;
    },
    undo: () => host.remove(file),
  };
}

function broker(host: Host, { share, start }: InitOptions): Step {
  const files = ['gates-ca.crt', 'cloud-ca.crt', 'broker.crt', 'broker.key'];
  const stale = () => files.filter((file) => host.read(`${PKI}/${file}`) !== host.read(`${BROKER}/${file}`));
  return {
    name: 'broker',
    does: `gives Mosquitto its listeners (${BROKER_CONF}), certificates and the gates' rights, beside Debian's own file`,
    undoes: `rm -r ${BROKER} ${BROKER_CONF}; systemctl restart mosquitto`,
    holdsData: false,
    find() {
      if (!host.exists('/etc/mosquitto/conf.d')) return absent('Mosquitto is not on this machine: docs/INSTALL.md says what a broker elsewhere needs');
      return host.exists(BROKER_CONF) && stale().length === 0 && host.exists(`${BROKER}/acl`) && host.exists(`${BROKER}/gates.crl`)
        ? done(BROKER_CONF)
        : todo('something is missing or changed');
    },
    apply() {
      host.folder(BROKER, 0o750, 'mosquitto');
      for (const file of stale()) host.put(`${BROKER}/${file}`, host.read(`${PKI}/${file}`) ?? '', 0o640, 'mosquitto');
      host.put(`${BROKER}/acl`, must(host.run(PROGRAM, ['broker-acl']), 'stile-cloud broker-acl'), 0o640, 'mosquitto');
      host.put(`${BROKER}/gates.crl`, must(host.run(PROGRAM, ['crl']), 'stile-cloud crl'), 0o640, 'mosquitto');
      if (!host.exists(BROKER_CONF)) host.put(BROKER_CONF, readFileSync(join(share, 'mosquitto.conf'), 'utf8'), 0o644, 'root');
      if (start) must(host.run('systemctl', ['restart', 'mosquitto']), 'Mosquitto did not start (journalctl -u mosquitto, /var/log/mosquitto/mosquitto.log)');
      return `${BROKER_CONF}: gates come in at 8883, the cloud at 8884`;
    },
    undo() {
      host.remove(BROKER);
      host.remove(BROKER_CONF);
      if (start) host.run('systemctl', ['restart', 'mosquitto']);
    },
  };
}

function proxy(host: Host, { share, hosts, start }: InitOptions): Step {
  /** A certificate that the venue put there itself stays. */
  const ours = () =>
    !host.exists(`${PROXY_TLS}/cloud.crt`) ||
    host.run('openssl', ['verify', '-CAfile', host.at(`${PKI}/gates-ca.crt`), host.at(`${PROXY_TLS}/cloud.crt`)]).status === 0;
  const stale = () => host.exists(`${PKI}/broker.crt`) && host.read(`${PKI}/broker.crt`) !== host.read(`${PROXY_TLS}/cloud.crt`) && ours();
  return {
    name: 'proxy',
    does: `puts nginx before the cloud with TLS (${PROXY_CONF})`,
    undoes: `rm -r ${PROXY_TLS} ${PROXY_CONF}; systemctl restart nginx`,
    holdsData: false,
    find() {
      if (!host.exists('/etc/nginx/conf.d'))
        return absent('nginx is not on this machine: put a TLS proxy before 127.0.0.1:8080 (share/proxy has one for Caddy too)');
      return host.exists(PROXY_CONF) && !stale() ? done(PROXY_CONF) : todo('something is missing or changed');
    },
    apply() {
      host.folder(PROXY_TLS, 0o755, 'root');
      if (stale()) {
        host.put(`${PROXY_TLS}/cloud.key`, host.read(`${PKI}/broker.key`) ?? '', 0o600, 'root');
        host.put(`${PROXY_TLS}/cloud.crt`, host.read(`${PKI}/broker.crt`) ?? '', 0o644, 'root');
      }
      if (!host.exists(PROXY_CONF))
        host.put(PROXY_CONF, readFileSync(join(share, 'proxy/nginx.conf'), 'utf8').replace(/server_name .*/, `server_name ${hosts.join(' ')};`), 0o644, 'root');
      must(host.run('nginx', ['-tq']), `nginx does not take ${PROXY_CONF}`);
      if (start) must(host.run('systemctl', ['restart', 'nginx']), 'nginx did not start (journalctl -u nginx)');
      return `${PROXY_CONF}: HTTPS at 443`;
    },
    undo() {
      host.remove(PROXY_TLS);
      host.remove(PROXY_CONF);
      if (start) host.run('systemctl', ['restart', 'nginx']);
    },
  };
}

function service(host: Host, { start }: InitOptions): Step {
  return {
    name: 'service',
    does: 'starts stile-cloud now and with the machine',
    undoes: 'systemctl disable --now stile-cloud',
    holdsData: false,
    find: () => (start ? todo('a new program or setting holds from a start') : absent('--no-start')),
    apply() {
      must(host.run('systemctl', ['daemon-reload']), 'systemctl daemon-reload');
      must(host.run('systemctl', ['enable', 'stile-cloud.service', 'stile-broker.path']), 'systemctl enable');
      must(host.run('systemctl', ['restart', 'stile-broker.path']), 'stile-broker.path did not start');
      const started = host.run('systemctl', ['restart', 'stile-cloud.service']);
      if (started.status !== 0) throw new Error(`the service did not start:\n${host.run('journalctl', ['-u', 'stile-cloud', '-n', '15', '--no-pager']).out}`);
      return 'stile-cloud runs, and starts with the machine';
    },
    undo: () => void host.run('systemctl', ['disable', '--now', 'stile-broker.path', 'stile-cloud.service']),
  };
}

function operator(host: Host, { operator: name, start }: InitOptions): Step {
  const file = `/root/stile-operator-${name}.token`;
  return {
    name: 'operator',
    does: `makes the first operator, ${name}, whose token is written into ${file}`,
    undoes: `stile-cloud operator revoke ${name}`,
    holdsData: false,
    find() {
      const listed = host.run(PROGRAM, ['operator', 'list', '--json']);
      if (listed.status === 0 && (JSON.parse(listed.out) as unknown[]).length > 0) return done('there are operators: stile-cloud operator list');
      return todo('there is none');
    },
    apply() {
      must(host.run(PROGRAM, ['operator', 'add', name, '--token-file', host.at(file)]), 'stile-cloud operator add');
      return `the token of ${name} is in ${file}${start ? `: sign in with it at ${/^STILE_PUBLIC_URL=(.*)$/m.exec(host.read(SETTINGS) ?? '')?.[1] ?? ''}/console` : ''}`;
    },
    undo() {
      host.run(PROGRAM, ['operator', 'revoke', name]);
      host.remove(file);
    },
  };
}
