/**
 * Defines the command line `stile-cloud`: names, options and help. The commands are in files beside it. The only file of the cloud that imports
 * commander.
 */
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { shownText } from '../../contract/text.ts';
import { versionText } from '../../runtime/build-info.ts';
import { SETTINGS } from '../config.ts';
import { CliError, EXIT, failureOf, type Session, type SessionOptions, type Terminal, withSession } from './context.ts';

// Loaded when a command needs them: most commands end sooner than the whole service loads.
const access = () => import('./operators.ts');
const ledger = () => import('./ledger.ts');
const codesOf = () => import('./codes.ts');
const brokerSession = () => import('./broker-session.ts');
const gatesOf = () => import('./gates.ts');
const ledgerImport = () => import('./ledger-import.ts');
const rights = () => import('./events.ts');
const services = () => import('./run.ts');
const setup = () => import('./init.ts');
const gateLife = () => import('./gate-life.ts');
const pkiOf = () => import('./pki.ts');
const backupOf = () => import('./backup.ts');
const doctor = () => import('./doctor.ts');
const enrolment = () => import('./gate-enrolment.ts');

const EXAMPLES = `
From an empty database to a gate with its tickets:
  export DATABASE_URL=postgres://stile:secret@127.0.0.1/stile STILE_MQTT_URL=mqtt://127.0.0.1:1883
  export STILE_MIGRATE_URL=postgres://stile_owner:secret@127.0.0.1/stile     (the owner; migrate prints how both are made)
  stile-cloud migrate
  stile-cloud event put concert-1 --site arena --name 'Concert' --starts 2026-07-01T20:00+02:00 --ends 2026-07-01T23:30+02:00
  stile-cloud import concert-1 tickets.csv
  stile-cloud assign arena/north-03 concert-1 --new --zones A,B   (shows the gate's token once)
  stile-cloud keys > manifest-keys.json                       (the gate pins these: cloud.keys)
  stile-cloud all                                             (HTTP, ingest, and publishing to gates)

Settings, from the environment:
${SETTINGS.map(({ name, what, fallback }) => `  ${name.padEnd(26)}${what} [${fallback}]`).join('\n')}

Exit codes: 0 done, 1 failed, 2 usage, 69 not reachable, 75 try again, 78 bad configuration.`;

/** Runs one command line (without node and script) and returns its exit code. Never throws. */
export async function runCli(argv: readonly string[], given: Terminal): Promise<number> {
  const terminal = harmless(given);
  const program = createProgram(terminal);
  try {
    await program.parseAsync([...argv], { from: 'user' });
    return EXIT.done;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 || (error.code === 'commander.help' && argv.length === 0) ? EXIT.done : EXIT.usage;
    const { exitCode, message } = failureOf(error);
    terminal.err(`stile-cloud: ${message}\n`);
    return exitCode;
  }
}

/** Removes terminal controls from texts of gates, guests and shops, whichever command prints them. */
const harmless = (terminal: Terminal): Terminal => ({
  ...terminal,
  out: (text) => terminal.out(shownText(text)),
  // Progress rewrites its line; nothing else does.
  err: (text) => terminal.err(terminal.interactive && text.startsWith('\r') ? `\r${shownText(text.slice(1))}` : shownText(text)),
});

function createProgram(terminal: Terminal): Command {
  const program = new Command('stile-cloud')
    .description('The cloud side of Stile: tickets, gates and the reconciled ledger of their passages.')
    .exitOverride()
    .version(versionText('stile-cloud'), '-V, --version', 'says which Stile this is')
    .configureOutput({ writeOut: (text) => terminal.out(text), writeErr: (text) => terminal.err(text) })
    .showHelpAfterError('(--help says more)')
    .addHelpText('after', EXAMPLES);
  const session = (command: Command, work: (session: Session) => Promise<void>, options: SessionOptions = {}) =>
    withSession(terminal, { ...options, tenant: command.optsWithGlobals<{ tenant?: string }>().tenant }, work);
  const add = (parent: Command, name: string, description: string) => parent.command(name).description(description).copyInheritedSettings(program);
  const tenantOption = () => new Option('--tenant <name>', 'act for this tenant').default(undefined, 'STILE_TENANT');

  add(program, 'init', 'sets this server up: database, certificates, broker, proxy, service, first operator; again: goes on, or updates')
    .option('--host <name>', 'the name or address by which gates reach this server; again for more', more, [] as string[])
    .option('--operator <name>', 'the first operator', 'admin')
    .option('--no-start', 'sets up, and starts nothing')
    .option('--dry-run', 'shows what would be done, with the undo of every step; changes nothing')
    .option('--undo', 'takes every step back, the last first; what holds data stays')
    .option('--with-data', 'with --undo: the database, keys and certificates too')
    .addHelpText('after', '\nExamples:\n  stile-cloud init --host 192.168.1.10 --dry-run\n  sudo stile-cloud init --host 192.168.1.10 --host venue.example')
    .action(async (options) => (await setup()).initCommand(terminal, options));
  add(program, 'doctor', 'looks at every part that this cloud needs, and says how to correct what is wrong')
    .option('--json')
    .addHelpText('after', '\nExit codes: 0 nothing failed, 1 something did.')
    .action(async (options) => (await doctor()).doctorCommand(terminal, options));
  add(program, 'migrate', 'brings the database to this version').action(async () => (await services()).migrateCommand(terminal));
  add(program, 'serve', 'answers HTTP and tells gates their tickets, until it is stopped').action(async () =>
    (await services()).runCommand(terminal, { serve: true, ingest: false }),
  );
  add(program, 'ingest', 'takes in what gates say, until it is stopped; any number side by side').action(async () =>
    (await services()).runCommand(terminal, { serve: false, ingest: true }),
  );
  add(program, 'all', 'serve and ingest in one process').action(async () => (await services()).runCommand(terminal, { serve: true, ingest: true }));

  addRights(program, add, session, tenantOption);
  addCodes(program, terminal, add, session, tenantOption);
  addGates(program, add, session, tenantOption);
  addPki(program, terminal, add, session, tenantOption);
  addAccess(program, terminal, add, session, tenantOption);
  return program;
}

type Add = (parent: Command, name: string, description: string) => Command;
type Run = (command: Command, work: (session: Session) => Promise<void>, options?: SessionOptions) => Promise<void>;
type TenantOption = () => Option;

function addRights(program: Command, add: Add, session: Run, tenant: TenantOption): void {
  const event = add(program, 'event', 'events: put, list, show');
  add(event, 'put <event>', 'makes or changes an event; what is not given stays as it is')
    .option('--name <name>')
    .option('--site <site>', 'where it is; the site is made where it is new')
    .option('--move', 'with --site: takes a known event to another site')
    .option('--starts <time>', 'such as 2026-07-01T20:00+02:00, or none')
    .option('--ends <time>', 'its gates close 2 h after it; not given: 12 h after the beginning')
    .option('--time-zone <zone>', 'such as Europe/Berlin')
    .option('--policies <file>', 'YAML or JSON: who may enter when (see docs/policies.yaml.example)')
    .option('--no-wait', 'do not wait until gates are notified')
    .addOption(tenant())
    .addHelpText(
      'after',
      '\nExample:\n  stile-cloud event put concert-1 --site arena --name "Concert" --starts 2026-07-01T20:00+02:00 --ends 2026-07-01T23:30+02:00 --policies policies.yaml',
    )
    .action((id: string, options, command: Command) => session(command, async (open) => (await rights()).eventPut(open, id, options)));
  add(event, 'list', 'every event with its tickets, gates and manifest')
    .option('--json')
    .addOption(tenant())
    .action((options, command: Command) => session(command, async (open) => (await rights()).eventList(open, options)));
  add(event, 'show <event>', 'one event with its policies, as JSON')
    .option('--json')
    .addOption(tenant())
    .action((id: string, _options, command: Command) => session(command, async (open) => (await rights()).eventShow(open, id)));

  add(program, 'import [event] [file]', "imports tickets from CSV (with a header) or JSON Lines, or a dead gate's ledger; the same file again changes nothing")
    .addOption(new Option('--format <format>').choices(['csv', 'jsonl']).default(undefined, 'by the file'))
    .option('--strict', 'nothing is imported unless every line can be')
    .option(
      '--allow-weak-codes',
      'take codes that could be guessed (fewer than 96 random bits); never what is no code: N/A, #REF!, 1.00E+11, a header, fewer than 6 characters',
    )
    .option('--ledger <file>', 'instead of tickets: what stile-gate ledger export wrote, of a gate that cannot send it any more')
    .option('--gate <gate>', 'with --ledger: whose ledger it must be')
    .option('--accept-broken', 'with --ledger: take it in though its chain does not hold; the broken places are flagged')
    .option('--json')
    .option('--no-wait', 'do not wait until gates are notified')
    .addOption(tenant())
    .addHelpText(
      'after',
      '\nColumns: ticket_id and code; tier, zone, status, max_scans, units, valid_from, valid_until, vip, blocked, approved, note where there are any.\nCodes are hashed on arrival and kept nowhere. Lines that cannot be imported are named with what to mend; the others are imported.\n\nExample:\n  ticket_id,code,tier,zone\n  T-1001,Vq3mJk0TQyC2b7wEw2Xk1A,standard,A\n\nA dead gate:\n  stile-cloud import --ledger north-03.jsonl --gate arena/north-03',
    )
    .action(async (id: string | undefined, file: string | undefined, options, command: Command) => {
      if (options.ledger !== undefined) {
        if (id !== undefined) throw new CliError(EXIT.usage, 'import --ledger takes a ledger and no tickets: leave out event and file');
        return session(command, async (open) => (await ledgerImport()).ledgerImportCommand(open, options.ledger, options));
      }
      if (id === undefined || file === undefined)
        throw new CliError(EXIT.usage, 'name the event and the file of its tickets: stile-cloud import <event> <file>');
      return session(command, async (open) => (await rights()).importCommand(open, id, file, options));
    });
}

function addCodes(program: Command, terminal: Terminal, add: Add, session: Run, tenant: TenantOption): void {
  const codes = add(program, 'codes', 'codes that guests show: issue, keys, revoke, sheet');
  add(codes, 'issue <event>', 'makes tickets with new codes and writes the codes into a file, once; they are kept nowhere')
    .requiredOption('--count <n>', 'how many', whole(1, 100_000))
    .requiredOption('--tier <tier>')
    .requiredOption('--out <file>', 'CSV; never over a file that is there')
    .option('--zone <zone>')
    .option('--units <n>', 'guests of one ticket', whole(1, 100))
    .option('--max-scans <n>', 'entries of one ticket', whole(1, 1_000_000))
    .option('--vip')
    .option('--valid-from <time>', 'such as 2026-07-01T18:00+02:00')
    .option('--valid-until <time>')
    .option('--signed', 'signed codes: a gate believes them also before it has the ticket')
    .option('--key <id>', "which of the event's keys signs")
    .option('--key-file <file>', "the key's private half; default: beside the signing key")
    .option('--no-wait', 'do not wait until gates are notified')
    .addOption(tenant())
    .addHelpText(
      'after',
      '\nExamples:\n  stile-cloud codes issue concert-1 --count 500 --tier standard --out codes.csv\n  stile-cloud codes keys add concert-1 --key k1\n  stile-cloud codes issue concert-1 --count 20 --tier guest --signed --key k1 --out guests.csv\n  stile-cloud codes sheet guests.csv --out guests.html',
    )
    .action((id: string, options, command: Command) => session(command, async (open) => (await codesOf()).issueCommand(open, id, options)));
  add(codes, 'revoke <event> [tickets...]', 'takes codes back by ticket id; signed ones also of tickets that are not known here')
    .option('--file <csv>', 'every ticket of this file')
    .requiredOption('--actor <id>', 'your staff id; it is recorded')
    .requiredOption('--reason <text>')
    .option('--no-wait', 'do not wait until gates are notified')
    .addOption(tenant())
    .action((id: string, tickets: string[], options, command: Command) =>
      session(command, async (open) => (await codesOf()).revokeCommand(open, id, tickets, options)),
    );
  add(codes, 'sheet <file>', 'draws the codes of a CSV as QR, for trying gates; needs no database')
    .requiredOption('--out <file>', '.svg, .png or .html')
    .option('--columns <n>', 'codes side by side (SVG, PNG)', whole(1, 50), 4)
    .action(async (file: string, options) => (await codesOf()).sheetCommand(terminal, file, options));
  addCodeKeys(add(codes, 'keys', "keys of an event's signed codes: add, list, revoke"), add, session, tenant);
}

function addCodeKeys(keys: Command, add: Add, session: Run, tenant: TenantOption): void {
  add(keys, 'add <event>', 'lets the event take codes that a key has signed; several keys may live side by side')
    .option('--key <id>', 'its name, which every code carries: short')
    .option('--key-file <file>', 'the private half, made where it is new; default: beside the signing key')
    .option('--public <file>', "another issuer's public half")
    .option('--pretix <file>', 'the public key of an event in pretix (pretix_sig1), as its settings show it')
    .option('--not-after <time>', 'good until then')
    .option('--no-wait', 'do not wait until gates are notified')
    .addOption(tenant())
    .action((id: string, options, command: Command) => session(command, async (open) => (await codesOf()).keysAdd(open, id, options)));
  add(keys, 'list <event>', 'every key, revoked ones too')
    .option('--json')
    .addOption(tenant())
    .action((id: string, options, command: Command) => session(command, async (open) => (await codesOf()).keysList(open, id, options)));
  add(keys, 'revoke <event> <key>', 'codes that it signed open nothing any more')
    .requiredOption('--actor <id>', 'your staff id; it is recorded')
    .requiredOption('--reason <text>')
    .option('--no-wait', 'do not wait until gates are notified')
    .addOption(tenant())
    .action((id: string, key: string, options, command: Command) => session(command, async (open) => (await codesOf()).keysRevoke(open, id, key, options)));
}

function addGates(program: Command, add: Add, session: Run, tenant: TenantOption): void {
  add(program, 'assign <gate> [events...]', 'says which events a gate (or every gate of <site>/*) is for')
    .option('--zones <zones>', 'serves these zones only, such as A,B; all: every zone; not given: as before')
    .option('--tiers <tiers>', 'serves these tiers only; all: every tier; not given: as before')
    .option('--none', 'for no event any more')
    .option('--force', 'also while the gate has rows that have not arrived')
    .option('--new', 'makes the gate where nobody made it (see gate add), and shows its token once')
    .option('--token-file <file>', "with --new: write the new gate's token here (mode 600) instead of showing it")
    .option('--json')
    .option('--no-wait', 'do not wait until gates are notified')
    .addOption(tenant())
    .addHelpText('after', '\nExamples:\n  stile-cloud assign arena/north-03 concert-1 --zones A,B\n  stile-cloud assign "arena/*" concert-1 concert-2')
    .action((gate: string, events: string[], options, command: Command) =>
      session(command, async (open) => (await gatesOf()).assign(open, gate, events, options)),
    );
  add(program, 'gates', 'every gate, worst first: online or not, mode, backlog, manifest, alerts')
    .option('--site <site>')
    .option('--json')
    .addOption(tenant())
    .action((options, command: Command) => session(command, async (open) => (await gatesOf()).gates(open, options)));

  const gate = add(program, 'gate', 'one gate: add, token, revoke, clear-alert');
  add(
    gate,
    'add [gate] [events...]',
    'makes a gate for events and prints the one code that enrols it (stile-gate enroll CODE); where this installation signs no certificates, its token',
  )
    .option('--zones <zones>', 'serves these zones only, such as A,B')
    .option('--qr <file>', 'the code as a QR too: .svg, .png or .html')
    .option('--hours <n>', 'the code is good for so long', whole(1, 24 * 14), 24 * 14)
    .option('--file <csv>', 'many at once: lines gate,events,zones (events and zones parted by spaces), with a header')
    .option('--sheet <file>', 'with --file: a page with the QR of each gate, to cut and carry; .html')
    .option('--scanner', 'a phone or tablet that scans over HTTP: its token is shown, it enrols nowhere')
    .option('--token-file <file>', 'with --scanner: its token goes here')
    .option('--json')
    .option('--no-wait', 'do not wait until gates are notified')
    .addOption(tenant())
    .addHelpText(
      'after',
      '\nExamples:\n  stile-cloud gate add arena/north-04 concert-1 --qr north-04.svg\n  stile-cloud gate add --file lanes.csv --sheet gates.html\n\nThe code holds the address of this cloud, the fingerprint of its authority and a token that is good once: keep it as you would a key.',
    )
    .action((name: string | undefined, events: string[], options, command: Command) =>
      session(command, async (open) => {
        const { enrols, gateAddCommand } = await enrolment();
        // Without an authority a gate has a token alone.
        if (options.scanner === true || (!enrols(open) && name !== undefined && events.length === 0)) {
          if (name === undefined || events.length > 0)
            throw new CliError(EXIT.usage, 'gate add --scanner takes one name and no events: stile-cloud gate add arena/phone-1 --scanner');
          return (await gatesOf()).gateAdd(open, name, options);
        }
        return gateAddCommand(open, name, events, options);
      }),
    );
  add(gate, 'token <gate>', 'gives a gate a new token; the old one opens nothing any more')
    .option('--token-file <file>')
    .option('--json')
    .addOption(tenant())
    .action((name: string, options, command: Command) => session(command, async (open) => (await gatesOf()).gateToken(open, name, options)));
  addGateLife(gate, add, session, tenant);
  add(gate, 'forks [gate]', 'lists rows that do not follow what is stored: a store went back in time, or two machines write as one gate')
    .option('--json')
    .addOption(tenant())
    .action((name: string | undefined, options, command: Command) =>
      session(command, async (open) => (await gatesOf()).gateForks(open, name ?? null, options)),
    );
  add(gate, 'fork <decision> <gate> <epoch> <seq> <hash>', 'decides one of these rows by hand: admit (it counts, once), set-aside (never)')
    .requiredOption('--actor <id>', 'your staff id (never a name); it is recorded')
    .addOption(tenant())
    .action((decision: string, name: string, epoch: string, seq: string, hash: string, options, command: Command) =>
      session(command, async (open) => (await gatesOf()).gateFork(open, decision, { gate: name, epoch, seq, hash }, options)),
    );
  add(gate, 'clear-alert <gate> <alert>', 'clears an alert that the cloud raised: clone, ledger')
    .requiredOption('--actor <id>', 'your staff id (never a name); it is recorded')
    .requiredOption('--reason <text>', 'why; it is recorded')
    .addOption(tenant())
    .action((name: string, alert: string, options, command: Command) =>
      session(command, async (open) => (await gatesOf()).gateClearAlert(open, name, alert, { actor: options.actor, reason: options.reason })),
    );

  add(
    program,
    'request <gate> <command>',
    'sends a gate a command and waits for its answer: open, mode, reset-emergency, refresh, selftest, resend, restart, diagnostics',
  )
    .requiredOption('--reason <text>', 'why; it is recorded')
    .requiredOption('--actor <id>', 'your staff id (never a name); it is recorded')
    .option('--arg <name=value>', 'an argument of the command; again for more', (pair: string, before: string[]) => [...before, pair], [] as string[])
    .option('--confirm-exit-closed', 'with mode=locked and direction=out: closes the way out. Alarms while it lasts, and ends by itself after 15 min')
    .option('--json')
    .addOption(tenant())
    .addHelpText(
      'after',
      '\nExamples:\n  stile-cloud request arena/north-03 open --actor s-17 --reason "wheelchair"\n  stile-cloud request arena/north-03 mode --arg mode=free --arg direction=out --actor s-17 --reason "end of the show"\n\nExit code 1: the gate refused; 75: it did not answer in time.',
    )
    .action(async (name: string, what: string, options, command: Command) => {
      const [{ requestOf, sendRequest }, { withRequests }] = [await gatesOf(), await brokerSession()];
      requestOf(name, what, options.arg, options.confirmExitClosed);
      return session(command, (open) => withRequests(open, (requests) => sendRequest(open, requests, name, what, options)), { mqtt: true });
    });
  add(program, 'refusals', 'why guests were refused, newest first')
    .option('--gate <gate>')
    .option('--since <time>', 'such as 30m, 24h, 7d or a time', '24h')
    .option('--limit <n>', 'at most so many', whole(1, 1000), 100)
    .option('--json')
    .addOption(tenant())
    .action((options, command: Command) => session(command, async (open) => (await ledger()).refusalsCommand(open, options)));
  add(program, 'unsettled', 'grants whose passage is not known, newest first: each with the gate, epoch and seq that settle takes')
    .option('--event <event>')
    .option('--limit <n>', 'at most so many', whole(1, 1000), 100)
    .option('--json')
    .addOption(tenant())
    .action((options, command: Command) => session(command, async (open) => (await ledger()).unsettledCommand(open, options)));
  add(program, 'pending', 'scans and refusals of tickets that are not known, newest first: each is settled when its ticket appears')
    .option('--event <event>')
    .option('--limit <n>', 'at most so many', whole(1, 1000), 100)
    .option('--json')
    .addOption(tenant())
    .action((options, command: Command) => session(command, async (open) => (await ledger()).pendingCommand(open, options)));
  add(program, 'settle <gate> <epoch> <seq> <outcome>', 'says of a grant whose passage is not known: passed or returned')
    .requiredOption('--actor <id>', 'your staff id; it is recorded')
    .requiredOption('--reason <text>')
    .option('--force', 'also where a sensor measured the passage: overrules it, and the row says so')
    .addOption(tenant())
    .action((name: string, epoch: string, seq: string, outcome: string, options, command: Command) =>
      session(command, async (open) => (await ledger()).settleCommand(open, name, epoch, seq, outcome, options)),
    );
}

function addGateLife(gate: Command, add: Add, session: Run, tenant: TenantOption): void {
  const yes = () => new Option('--yes <gate>', 'the name again, instead of typing it');
  add(gate, 'revoke <gate>', "takes a gate's identity away: token, certificate, and its connection")
    .addOption(yes())
    .addOption(tenant())
    .action((name: string, options, command: Command) => session(command, async (open) => (await gateLife()).gateRevoke(open, name, options)));
  add(gate, 'remove <gate>', 'removes a gate that was made by mistake; one with a record stays')
    .addOption(yes())
    .addOption(tenant())
    .action((name: string, options, command: Command) => session(command, async (open) => (await gateLife()).gateRemove(open, name, options)));
  add(gate, 'replace <gate>', "prints the code that puts another machine in a known gate's place; the old one is shut out when the new one enrols")
    .option('--qr <file>', 'the code as a QR too: .svg, .png or .html')
    .option('--hours <n>', 'the code is good for so long', whole(1, 24 * 14), 24 * 14)
    .option('--json')
    .addOption(tenant())
    .action((name: string, options, command: Command) => session(command, async (open) => (await gateLife()).gateReplace(open, name, options)));
  add(gate, 'let-back <gate>', 'lets a gate that comes back from store renew a certificate that has ended, within a week')
    .addOption(tenant())
    .action((name: string, _options, command: Command) => session(command, async (open) => (await gateLife()).gateLetBack(open, name)));
  for (const [name, description, act] of [
    ['suspend', 'closes the way in and frees the way out; resume takes it back', 'gateSuspend'],
    ['resume', 'puts a suspended gate in service again', 'gateResume'],
  ] as const)
    add(gate, `${name} <gate>`, description)
      .requiredOption('--actor <id>', 'your staff id (never a name); it is recorded')
      .requiredOption('--reason <text>', 'why; it is recorded')
      .addOption(tenant())
      .action(async (of: string, options, command: Command) => {
        const [life, { withRequests }] = [await gateLife(), await brokerSession()];
        return session(command, (open) => withRequests(open, (requests) => life[act](open, requests, of, options)), { mqtt: true });
      });
}

function addPki(program: Command, terminal: Terminal, add: Add, session: Run, tenant: TenantOption): void {
  add(program, 'backup', 'writes the database, and apart the settings and the signing key, encrypted with age; run it daily as root')
    .requiredOption('--to <folder>', 'on another disk, or one that is copied away')
    .option('--recipient <age1…>', 'who can read it; again for more; also STILE_BACKUP_RECIPIENTS in /etc/stile/backup.env', more, [] as string[])
    .action(async (options) => (await backupOf()).backupCommand(terminal, options));
  add(program, 'restore <file>', "restores a database's backup into an empty database")
    .requiredOption('--identity <file>', "the recipient's key, of age-keygen")
    .requiredOption('--database <url>', "a superuser's login to the empty database")
    .option('--test', 'only tries: into a database of its own, which is dropped again')
    .action(async (file: string, options) => (await backupOf()).restoreCommand(terminal, file, options));
  add(program, 'crl', 'makes the list of revoked certificates, by which the broker refuses gates; good for 45 days, made anew every day')
    .option('--out <file>', 'write it here, in one step')
    .addHelpText('after', '\nExample:\n  stile-cloud crl --out /etc/mosquitto/stile/gates.crl && systemctl reload mosquitto')
    .action((options, command: Command) => session(command, async (open) => (await pkiOf()).crlCommand(open, options)));
  add(program, 'end-sessions', 'ends the connections that revoked certificates still have, once the broker has read the list that names them')
    .requiredOption('--crl <file>', 'the list that the broker has read')
    .option('--broker <url>', "the gates' listener; default: port 8883 of the broker in STILE_MQTT_URL")
    .action((options, command: Command) => session(command, async (open) => (await pkiOf()).endSessions(open, options)));
  const pki = add(program, 'pki', 'certificates: show, renew-server');
  add(pki, 'show', 'every certificate and its end, the nearest first')
    .option('--json')
    .addOption(tenant())
    .action((options, command: Command) => session(command, async (open) => (await pkiOf()).pkiShow(open, options)));
  add(pki, 'renew-server [folder]', "makes the server's and the cloud's certificates anew; the authorities stay. Then: stile-cloud init")
    .requiredOption('--host <name>', 'the name or address by which gates reach this server; again for more', more, [] as string[])
    .action(async (folder: string | undefined, options) => (await access()).certificates(terminal, folder ?? (await pkiOf()).PKI_FOLDER, options.host));
}

function addAccess(program: Command, terminal: Terminal, add: Add, session: Run, tenant: TenantOption): void {
  add(program, 'keys', 'prints the public keys that gates pin, as their key file')
    .option('--json')
    .action((_options, command: Command) => session(command, async (open) => (await access()).keys(open)));
  add(program, 'enroll <gate>', 'makes a one-use token that buys the gate its certificate (POST /enroll)')
    .option('--hours <n>', 'good for so long', whole(1, 24 * 365), 72)
    .option('--json')
    .addOption(tenant())
    .action((name: string, options, command: Command) => session(command, async (open) => (await access()).enrolToken(open, name, options)));
  add(program, 'certificates <folder>', 'makes the authorities and certificates of a first installation; again: renews what they signed')
    .requiredOption('--host <name>', 'the name or address by which gates reach this server; again for more', more, [] as string[])
    .addHelpText(
      'after',
      '\nExample:\n  stile-cloud certificates /etc/stile/pki --host venue.example --host 192.168.1.10\n\nNeeds no database. Whoever has the keys of this folder can be any gate: keep it to root.',
    )
    .action(async (folder: string, options) => (await access()).certificates(terminal, folder, options.host));
  add(program, 'broker-acl', "prints Mosquitto's ACL file, made from enrolment: each gate its own topics and no others")
    .option('--out <file>', 'write it here, in one step')
    .addHelpText('after', '\nExample:\n  stile-cloud broker-acl --out /etc/mosquitto/stile/acl && systemctl reload mosquitto')
    .action((options, command: Command) => session(command, async (open) => (await access()).brokerAcl(open, options)));
  const operator = add(program, 'operator', 'who may ask over HTTP: add, list, revoke');
  add(operator, 'add <name>', 'gives somebody or a service a token, shown once')
    .option('--actor <id>', 'the staff id it acts for; default: its name')
    .option('--any-actor', 'a service that names the acting person itself')
    .option('--days <n>', 'good for so long', whole(1, 3650), 365)
    .option('--token-file <file>')
    .option('--json')
    .addOption(tenant())
    .action((name: string, options, command: Command) => session(command, async (open) => (await access()).operatorAdd(open, name, options)));
  add(operator, 'list', 'every token by name')
    .option('--json')
    .addOption(tenant())
    .action((options, command: Command) => session(command, async (open) => (await access()).operatorList(open, options)));
  add(operator, 'revoke <name>', 'takes a token away')
    .addOption(tenant())
    .action((name: string, _options, command: Command) => session(command, async (open) => (await access()).operatorRevoke(open, name)));
}

const more = (value: string, before: string[]): string[] => [...before, value];

function whole(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!Number.isInteger(value) || value < min || value > max) throw new InvalidArgumentError(`a whole number from ${min} to ${max}`);
    return value;
  };
}

if (import.meta.main) {
  process.exitCode = await runCli(process.argv.slice(2), {
    env: process.env,
    interactive: process.stderr.isTTY === true,
    forget: (name) => {
      delete process.env[name];
    },
    ...(process.stdin.isTTY && process.stderr.isTTY
      ? {
          ask: async (question: string) => {
            const { createInterface } = await import('node:readline/promises');
            const lines = createInterface({ input: process.stdin, output: process.stderr });
            return lines.question(question).finally(() => lines.close());
          },
        }
      : {}),
    out: (text) => {
      process.stdout.write(text);
    },
    err: (text) => {
      process.stderr.write(text);
    },
  });
}
