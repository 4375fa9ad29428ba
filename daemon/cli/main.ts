/**
 * Defines the command line stile-gate. Only `run` is the gate; other commands call the running gate or read files. The only file of
 * the daemon that imports commander. Loads a subcommand when it is used, so that `run` starts fast.
 */

import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { MAX_TEXT_CHARS } from '../../contract/limits.ts';
import { stileVersion } from '../../runtime/build-info.ts';
import { DEFAULT_CONFIG_FILE } from '../config/load.ts';
import { CliError, EXIT, printFailure } from './exit-codes.ts';
import type { CommonOptions } from './options.ts';

const wholeNumber = (min: number, max: number) => (value: string) => {
  const number = Number(value);
  if (!Number.isInteger(number) || number < min || number > max) throw new InvalidArgumentError(`give a whole number from ${min} to ${max}`);
  return number;
};

function command(parent: Command, name: string, summary: string, examples: readonly string[]): Command {
  return parent
    .command(name)
    .description(summary)
    .addOption(new Option('-c, --config <file>', "the gate's configuration").env('STILE_CONFIG').default(DEFAULT_CONFIG_FILE))
    .addHelpText('after', `\nFor example:\n${examples.map((example) => `  ${example}`).join('\n')}`);
}
const socket = () => new Option('--socket <path>', "the running gate's control socket, where it is not the configured one").env('STILE_SOCKET');
const json = () => new Option('--json', 'for programs: JSON instead of text');
const direction = () => new Option('--direction <direction>', 'in or out').choices(['in', 'out']);
/** Kinds of rows that a gate writes. A test compares them with contract/ledger.ts, which is too slow to load here. */
const OWN_KINDS = ['grant', 'refusal', 'passage', 'exit_unmatched', 'override', 'mode', 'fault', 'alarm', 'clock'];
/** Parses a text that the gate records: not empty and not too long. */
const recordedText = (value: string): string => {
  if (value.trim() === '') throw new InvalidArgumentError('it must not be empty: give the reason that is recorded');
  if (value.length > MAX_TEXT_CHARS) throw new InvalidArgumentError(`it has at most ${MAX_TEXT_CHARS} characters`);
  return value;
};
const person = (to: Command): Command =>
  to
    .requiredOption('--reason <text>', 'why; it is recorded', recordedText)
    .option('--actor <id>', 'who, as a staff id; it is recorded (default: your login name)');

function program(): Command {
  const root = new Command('stile-gate')
    .description('Admits guests at one turnstile: reads codes, decides from the tickets on this machine, opens, records.')
    .addHelpText(
      'after',
      `
Exit codes: 0 done, 1 failed, 2 usage, 69 gate not reachable, 75 try again, 78 bad configuration.

First steps:
  stile-gate enroll                    get this gate its certificate, with a token from the office
  stile-gate check-config              is /etc/stile/gate.yaml right?
  stile-gate doctor                    checks every part and says how to fix it
  stile-gate watch                     see what guests and lamps do, live
  stile-gate sim                       be the guest at a simulated lane
  stile-gate open --reason "wheelchair"`,
    )
    .option('-V, --version', 'prints the version')
    .on('option:version', () => {
      const { version, commit } = stileVersion();
      process.stdout.write(`stile-gate ${version} (${commit})\n`);
      throw new CommanderError(EXIT.done, 'commander.version', version);
    })
    .showHelpAfterError('(stile-gate --help says more)')
    .exitOverride();

  command(root, 'run', 'Runs the gate until SIGTERM or SIGINT.', ['stile-gate run', 'stile-gate run --config ./gate.yaml']).action(
    async (options: CommonOptions) => (await import('./run.ts')).run(options),
  );
  command(root, 'check-config', 'Checks the configuration and lists every error with file, line and hint.', [
    'stile-gate check-config',
    'stile-gate check-config --config ./gate.yaml --json',
  ])
    .addOption(json())
    .option('--skip-files', 'do not look at the files that it names (certificates, keys), as before they are there')
    .action(async (options: CommonOptions & { skipFiles?: boolean }) => (await import('./config.ts')).checkConfig(options));
  command(root, 'config', 'Shows the settings in effect, defaults included, and where each came from.', [
    'stile-gate config',
    'stile-gate config --boot-lines >> /boot/firmware/config.txt',
  ])
    .addOption(json())
    .option('--boot-lines', "the gpio= lines for the Pi's config.txt, which hold the outputs from power-on")
    .action(async (options: CommonOptions & { bootLines?: boolean }) => (await import('./config.ts')).showConfig(options));
  command(root, 'doctor', 'Checks every part: ok, warn or fail, with cause and hint. Changes nothing; measures the disk with a small file of its own.', [
    'stile-gate doctor',
    'stile-gate doctor --json | jq \'.checks[] | select(.result != "ok")\'',
  ])
    .addOption(socket())
    .addOption(json())
    .action(async (options: CommonOptions) => (await import('./doctor.ts')).doctor(options));
  command(root, 'status', 'Shows the status of the running gate.', ['stile-gate status', 'stile-gate status --json | jq .ledger.backlog'])
    .addOption(socket())
    .addOption(json())
    .action(async (options: CommonOptions) => (await import('./status.ts')).status(options));
  command(root, 'watch', 'Shows lamps, mode, the last decisions, backlog and health, live. q or Ctrl-C ends it.', [
    'stile-gate watch',
    'stile-gate watch --json    (a line of JSON for everything that happens)',
  ])
    .addOption(socket())
    .addOption(json())
    .action(async (options: CommonOptions) => (await import('./watch.ts')).watch(options));
  operations(root);
  records(root);
  setUp(root);
  readers(root);
  play(root);
  technician(root);
  support(root);
  return root;
}

/** Orders without arguments: name, description, the line printed afterwards. */
const ENTRY_ORDERS = [
  ['evacuate', 'Opens both ways, like fire, until reset-emergency.', 'the lane is open both ways until stile-gate reset-emergency'],
  ['stop-entry', 'Closes in; out stays open, tickets stay as they are.', 'in is closed; stile-gate resume-entry ends it'],
  ['resume-entry', 'Ends stop-entry.', 'in is back in its mode'],
] as const;

function operations(root: Command): void {
  person(
    command(root, 'open', 'Lets guests through without a ticket. Recorded as an override.', [
      'stile-gate open --reason "wheelchair"',
      'stile-gate open --units 3 --reason "school class" --actor anna-7',
    ]),
  )
    .addOption(direction().default('in'))
    .option('--units <n>', 'how many guests', wholeNumber(1, 100), 1)
    .addOption(socket())
    .addOption(json())
    .action(async (options) => (await import('./override.ts')).open(options));
  person(
    command(root, 'mode', 'Puts the lane into a mode: controlled, free, locked or out_of_service.', [
      'stile-gate mode free --until 18:00 --reason "doors open"',
      'stile-gate mode controlled --reason "doors closed"',
      'stile-gate mode locked --reason "queue outside"',
      'stile-gate mode locked --direction out --confirm-exit-closed --reason "crush outside the exit"',
    ]),
  )
    .argument('<mode>', 'controlled (by decision), free (open, counted), locked (nobody in), out_of_service (nobody in)')
    .addOption(direction())
    .option('--confirm-exit-closed', 'with direction out: closes the way out. Alarms while it lasts, and ends by itself after 15 min')
    .option('--until <time>', "ends by itself: HH:MM (today or tomorrow, this machine's time) or ISO 8601")
    .addOption(socket())
    .addOption(json())
    .action(async (mode: string, options) => (await import('./override.ts')).mode(mode, options));
  person(
    command(root, 'reset-emergency', 'Ends the emergency after the fire input has cleared.', [
      'stile-gate reset-emergency --reason "false alarm, fire brigade has left"',
    ]),
  )
    .addOption(socket())
    .addOption(json())
    .action(async (options) => (await import('./override.ts')).resetEmergency(options));
  for (const [order, what, done] of ENTRY_ORDERS) {
    person(command(root, order, what, [`stile-gate ${order} --reason "crush at the north doors"`]))
      .addOption(socket())
      .addOption(json())
      .action(async (options) => (await import('./override.ts')).giveOrder(order, done, options));
  }
  person(
    command(root, 'sensor', 'Answers whether the arms turn, after grants in a row without a passage.', [
      'stile-gate sensor --turns yes --reason "arms turn, cable loose"',
    ]),
  )
    .addOption(
      new Option('--turns <answer>', 'yes: releases count as passages until the sensor works; no: in closes').choices(['yes', 'no']).makeOptionMandatory(),
    )
    .addOption(socket())
    .addOption(json())
    .action(async (options) => (await import('./override.ts')).answerSensor(options));
}

function records(root: Command): void {
  const ledger = root.command('ledger').description("Reads the gate's ledger. Changes nothing.");
  command(ledger, 'ls', 'Lists rows, the newest last.', ['stile-gate ledger ls', 'stile-gate ledger ls -n 500 --kind refusal'])
    .option('-n, --last <n>', 'so many rows', wholeNumber(1, 100_000), 20)
    .addOption(new Option('--kind <kind>', 'only rows of this kind').choices(OWN_KINDS))
    .addOption(socket())
    .addOption(json())
    .action(async (options) => (await import('./ledger.ts')).list(options));
  command(ledger, 'verify', 'Checks that no row is missing and none was changed.', ['stile-gate ledger verify'])
    .addOption(socket())
    .addOption(json())
    .action(async (options) => (await import('./ledger.ts')).verify(options));
  command(ledger, 'export', 'Writes every kept row as ledger messages, one JSON object a line; stile-cloud import --ledger takes it.', [
    'stile-gate ledger export > north-03.jsonl',
    "stile-gate ledger export --store /mnt/sd/var/lib/stile > north-03.jsonl      (a dead gate's SD card; nothing on it changes)",
  ])
    .option('--store <folder>', "read this store folder instead of the running gate's ledger")
    .option('--gate <site/gate>', 'with --store: the gate, when the store does not name it')
    .addOption(socket())
    .action(async (options) => (await import('./ledger.ts')).exportRows(options));
  command(ledger, 'recover', 'Lists quarantined databases and their contents, and exports their readable rows. Changes nothing.', [
    'stile-gate ledger recover',
    'stile-gate ledger recover --export saved.jsonl    (then: stile-cloud import --ledger saved.jsonl)',
    'stile-gate ledger recover ledger.damaged-20260701T080000-123Z.sqlite --export saved.jsonl --unacknowledged',
  ])
    .argument('[files...]', 'only these of them')
    .option('--store <folder>', 'the folder to look in (default: store.path)')
    .option('--export <file>', 'write their readable rows to this file; the cloud ignores rows that it has')
    .option('--unacknowledged', 'export only rows without an acknowledgement of the cloud')
    .option('--gate <site/gate>', 'the gate, when a database does not name it')
    .addOption(json())
    .action(async (files: string[], options) => (await import('./ledger-recover.ts')).recover(files, options));
  const manifest = root.command('manifest').description('Reads the manifests of this gate.');
  command(manifest, 'show', 'Lists the events of this gate and the age of their tickets.', ['stile-gate manifest show'])
    .addOption(socket())
    .addOption(json())
    .action(async (options) => (await import('./status.ts')).manifestShow(options));
}

function support(root: Command): void {
  command(root, 'support-bundle', 'Writes configuration, status, doctor, log and a check of the ledger into one archive. No codes, no secrets.', [
    'sudo stile-gate support-bundle',
    'stile-gate support-bundle --out /tmp/north-03.tar.gz',
  ])
    .option('--out <file>', 'the archive (default: stile-support-<gate>-<time>.tar.gz here)')
    .option('--log <file>', "a log file, where the gate's log is not in the journal")
    .addOption(socket())
    .addOption(json())
    .action(async (options) => (await import('./support-bundle.ts')).supportBundle(options));
}

function play(root: Command): void {
  const gather = (value: string, before: readonly string[] = []) => [...before, value];
  command(
    root,
    'sim',
    'You are the guest at a simulated lane (board.driver: sim): show codes, walk or stand still, ring the fire loop, and watch what the gate does.',
    [
      'stile-gate run --config ./gate.yaml              (in another terminal; with board: { driver: sim, sim_socket: ./sim.sock })',
      'stile-gate sim --config ./gate.yaml',
      'stile-gate sim --config ./gate.yaml --codes codes.txt          (keys 1 to 9 show its first nine lines)',
      'stile-gate sim --config ./gate.yaml --guest in=/run/stile/guest-in   (where the reader is plugged in already)',
    ],
  )
    .addHelpText(
      'after',
      `
Keys: 1-9 show a sample code   c type a code   Tab the other reader   p pull the reader out, or plug it in
      w walk through   n do not walk   s get stuck   u go on   g push   j force the arms
      b staff button   f fire on and off   t tamper on and off   q quit

A reader whose path does not exist is plugged in there by this program, as a pseudo-terminal.`,
    )
    .option('--code <code>', 'a sample code; may be given several times', gather)
    .option('--codes <file>', 'sample codes, one a line')
    .option('--guest <reader=path>', 'where guests write for this reader; may be given several times', gather)
    .addOption(socket())
    .action(async (options) => (await import('./sim.ts')).sim(options));
}

function readers(root: Command): void {
  const group = root.command('readers').description('Distinguishes equal readers, and shows what comes from them.');
  command(group, 'watch', 'Shows the bytes of each reader, its frames and what looks wrong, live. Nothing is stored. Ctrl-C ends it.', [
    'stile-gate readers watch',
  ])
    .addOption(socket())
    .addOption(json())
    .action(async (options) => (await import('./readers-watch.ts')).watchReaders(options));
  command(group, 'assign', 'Binds each reader to the USB socket that it is plugged into: show a code to each as it is asked for. The gate must run.', [
    'stile-gate mode out_of_service --reason "binding readers"    (codes are refused meanwhile)',
    'sudo stile-gate readers assign',
    'stile-gate readers assign out --print                        (only this one; prints the udev rule)',
  ])
    .argument('[names...]', 'readers as the configuration names them (default: all)')
    .option('--rules <file>', 'the udev rules file', '/etc/udev/rules.d/61-stile-readers.rules')
    .option('--wait <seconds>', 'for each reader', wholeNumber(1, 600), 60)
    .option('--print', 'write nothing, print the rules')
    .addOption(new Option('--machine-root <folder>', 'where /sys and /run are, for tests').hideHelp())
    .addOption(socket())
    .addOption(json())
    .action(async (names: string[], options) => (await import('./readers-assign.ts')).assign(names, options));
}

/** Adds the commands of a technician: set up, test, diagnose. */
function technician(root: Command): void {
  command(root, 'selftest', 'Tries lamps, buzzer, inputs, releases and readers one after the other, and writes a report. The lane must be out of service.', [
    'stile-gate mode out_of_service --reason commissioning',
    'stile-gate selftest --reason commissioning --report /root',
    'stile-gate mode controlled --reason "commissioned"',
    'stile-gate selftest --check selftest-arena-north-03-20260701T080000Z.json',
  ])
    .option('--reason <text>', 'why; it is recorded', recordedText)
    .option('--actor <id>', 'who, as a staff id; it is recorded (default: your login name)')
    .option('--report <folder>', 'where the report goes, as .txt and .json', '.')
    .option('--check <file>', 'moves nothing: checks the signature of this report')
    .addOption(socket())
    .addOption(json())
    .action(async (options) => {
      const { selftest, checkSelftest } = await import('./selftest.ts');
      if (options.check !== undefined) return checkSelftest(options.check, options);
      if (options.reason === undefined) throw new CliError(EXIT.usage, '--reason is missing', 'say why: --reason commissioning');
      return selftest(options);
    });
}

function setUp(root: Command): void {
  command(root, 'renew', "Renews this gate's certificate where it is due; stile-renew.timer runs it daily.", ['stile-gate renew', 'stile-gate renew --now'])
    .option('--now', 'asks also before it is due; the cloud decides')
    .addOption(json())
    .action(async (options) => (await import('./renew.ts')).renew(options));
  command(root, 'enroll', 'Exchanges a one-use token for this gate’s certificate, and writes the settings for broker and cloud.', [
    "stile-gate enroll 'STILE1:…'             (the code that stile-cloud gate add prints)",
    "stile-gate enroll 'STILE1:…' --wiring gate.yaml",
    'stile-gate enroll --cloud https://cloud.example --broker mqtts://broker.example:8883 --token stile-enrol-…',
    'stile-gate enroll                        (from /boot/firmware/stile-enroll.yaml, which holds cloud, broker and token)',
    'stile-gate enroll --token … --force      (again, before the certificate ends)',
  ])
    .argument('[code]', 'STILE1:…, from stile-cloud gate add or its QR: holds address, authority and token')
    .option('--wiring <file>', 'puts this configuration into place first: readers, outputs, inputs')
    .option('--no-start', 'does not restart the service')
    .option('--token <token>', 'the one-use token, without a code')
    .option('--cloud <url>', "the cloud's address (default: cloud.url)")
    .option('--broker <url>', "the broker's address (default: mqtt.url)")
    .option('--ca <file>', "certificate of the cloud's authority, PEM, where the system does not know it")
    .option('--file <file>', 'YAML with cloud, broker, token and ca')
    .option('--force', 'also when the certificate is still valid for long')
    .addOption(json())
    .action(async (code: string | undefined, options) => (await import('./enroll.ts')).enroll({ ...options, code }));
}

/** Runs a command line. Returns the exit code. */
export async function main(argv: readonly string[]): Promise<number> {
  // A reader that closes the pipe early (`| head`) is no failure.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? EXIT.done : EXIT.failed));
  try {
    await program().parseAsync(argv);
    return Number(process.exitCode ?? EXIT.done);
  } catch (error) {
    // commander has printed its message already; help and version are no failure.
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.done : EXIT.usage;
    return printFailure(error);
  }
}

process.exitCode = await main(process.argv);
