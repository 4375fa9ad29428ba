/** Runs `gate add`: makes gates, assigns them, and prints the code by which each enrols itself. */
import { createHash, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { extname } from 'node:path';
import { shownLine } from '../../contract/text.ts';
import { encodeEnrolment } from '../../rules/enrolment-code.ts';
import { writeSafeFile } from '../../runtime/safe-file.ts';
import { assignGate, ENROLMENT_TOKEN_PREFIX, ensureDevice, newEnrolmentToken } from '../devices/assignment.ts';
import { drawSheet, type SheetFormat } from '../tickets/codes/qr-sheet.ts';
import { CliError, EXIT, type Session } from './context.ts';
import { waitUntilGatesNotified } from './wait-published.ts';

/** Lines of a file of lanes; a longer one is refused. */
const MAX_LANES = 1_000;

export interface GateAddOptions {
  readonly zones?: string;
  readonly qr?: string;
  readonly hours: number;
  readonly file?: string;
  readonly sheet?: string;
  readonly json?: boolean;
  readonly wait?: boolean;
}

interface Lane {
  readonly gate: string;
  readonly events: readonly string[];
  readonly zones: readonly string[] | undefined;
  /** The place where it was given, for messages. */
  readonly at: string;
}

interface Enrolled {
  readonly gate: string;
  readonly code: string;
  readonly known: boolean;
}

const words = (text: string | undefined, parting: RegExp): string[] => (text ?? '').split(parting).filter((part) => part !== '');

/** Returns whether this installation signs certificates of gates: where it does not, a gate has a token alone. */
export const enrols = ({ config }: Session): boolean => config.ca !== null;

/** Makes one gate, or those of a file: all of them or none. Prints what enrols each. */
export async function gateAddCommand(session: Session, gate: string | undefined, events: readonly string[], options: GateAddOptions): Promise<void> {
  const lanes = lanesOf(gate, events, options);
  const [first] = lanes as [Lane];
  const { cloud, fingerprint } = placeOf(session);
  const tenantId = await session.tenant(true);
  const made = await session.database.withTenant(tenantId, async (client) => {
    const all: Enrolled[] = [];
    for (const lane of lanes) {
      const device = await ensureDevice(client, tenantId, lane.gate);
      if (!device.ok) throw new CliError(EXIT.usage, `${lane.at}${device.message}`);
      if (lane.events.length > 0) {
        const result = await assignGate(
          client,
          tenantId,
          lane.gate,
          { eventIds: [...new Set(lane.events)], zones: lane.zones, tiers: undefined },
          { force: false },
        );
        if (!result.ok) throw new CliError(EXIT.failed, `${lane.at}${result.message}`);
        for (const warning of result.warnings) session.terminal.err(`warning: ${lane.gate}: ${warning}\n`);
      }
      const made = await newEnrolmentToken(client, tenantId, lane.gate, options.hours);
      const secret = Buffer.from((made?.token ?? '').slice(ENROLMENT_TOKEN_PREFIX.length), 'base64url');
      all.push({ gate: lane.gate, code: encodeEnrolment({ cloud, fingerprint, token: secret }), known: !device.created });
    }
    if (options.qr !== undefined) draw(options.qr, all, '--qr');
    if (options.sheet !== undefined) draw(options.sheet, all, '--sheet');
    return all;
  });
  show(session, made, options);
  if (lanes.some((lane) => lane.events.length > 0)) await waitUntilGatesNotified(session, tenantId, options.wait ?? true);
  else session.terminal.err(`no event yet: stile-cloud assign ${first.gate} EVENT\n`);
}

function lanesOf(gate: string | undefined, events: readonly string[], options: GateAddOptions): readonly Lane[] {
  if (options.file === undefined) {
    if (gate === undefined)
      throw new CliError(EXIT.usage, 'name the gate: stile-cloud gate add arena/north-04 concert-1, or many at once with --file lanes.csv');
    if (options.sheet !== undefined) throw new CliError(EXIT.usage, '--sheet goes with --file; for one gate: --qr north-04.svg');
    return [{ gate, events, zones: options.zones === undefined ? undefined : words(options.zones, /,/), at: '' }];
  }
  if (gate !== undefined) throw new CliError(EXIT.usage, `--file names the gates: leave out ${gate}`);
  return lanesInFile(options.file);
}

function lanesInFile(file: string): readonly Lane[] {
  let text: string;
  try {
    text = readFileSync(file, 'utf8').replace(/^\uFEFF/, '');
  } catch (error) {
    throw new CliError(EXIT.failed, `--file ${file}: cannot be read (${(error as NodeJS.ErrnoException).code})`);
  }
  const [header = '', ...lines] = text.split(/\r?\n/);
  const columns = header.split(/[,;]/).map((name) => name.trim().toLowerCase());
  const column = (name: string) => columns.indexOf(name);
  if (column('gate') === -1) throw new CliError(EXIT.usage, `--file ${file}, line 1: the header names no column gate; it is such as: gate,events,zones`);
  const lanes = lines.flatMap((line, index): Lane[] => {
    if (line.trim() === '') return [];
    const cells = line.split(/[,;]/).map((cell) => cell.trim());
    const cell = (name: string) => (column(name) === -1 ? undefined : cells[column(name)]);
    const zones = words(cell('zones'), /\s+/);
    return [
      { gate: cell('gate') ?? '', events: words(cell('events'), /\s+/), zones: zones.length === 0 ? undefined : zones, at: `${file}, line ${index + 2}: ` },
    ];
  });
  if (lanes.length === 0) throw new CliError(EXIT.usage, `--file ${file}: names no gate`);
  if (lanes.length > MAX_LANES) throw new CliError(EXIT.usage, `--file ${file}: ${lanes.length} gates, and at most ${MAX_LANES} at once: cut it`);
  const seen = new Set<string>();
  for (const { gate, at } of lanes) {
    if (seen.has(gate)) throw new CliError(EXIT.usage, `${at}${shownLine(gate)} stands in the file twice`);
    seen.add(gate);
  }
  return lanes;
}

/** Returns what a code says of this cloud. Throws CliError where this installation enrols no gates. */
function placeOf({ config }: Session): { readonly cloud: string; readonly fingerprint: Uint8Array } {
  const cloud = config.http.publicUrl;
  if (cloud === null || !cloud.startsWith('https:'))
    throw new CliError(EXIT.badConfig, 'STILE_PUBLIC_URL is not set to an https:// address, and a gate must be told where the cloud is');
  if (config.ca === null) throw new CliError(EXIT.badConfig, 'STILE_CA_CERT and STILE_CA_KEY are not set: this installation signs no certificates of gates');
  try {
    return {
      cloud,
      fingerprint: createHash('sha256')
        .update(new X509Certificate(readFileSync(config.ca.cert)).raw)
        .digest(),
    };
  } catch (error) {
    throw new CliError(EXIT.badConfig, `STILE_CA_CERT=${config.ca.cert}: ${(error as Error).message}`);
  }
}

/** Writes the QR codes, for their owner alone: whoever holds a code can be that gate. */
function draw(file: string, enrolled: readonly Enrolled[], option: string): void {
  const format = extname(file).slice(1) as SheetFormat;
  if (!['svg', 'png', 'html'].includes(format)) throw new CliError(EXIT.usage, `${option} ${file}: name a file that ends in .svg, .png or .html`);
  const codes = enrolled.map(({ gate, code }) => ({ label: gate, code }));
  try {
    writeSafeFile(file, drawSheet(codes, format), { mode: 0o600 });
  } catch (error) {
    throw new CliError(EXIT.failed, `${option} ${file}: ${(error as NodeJS.ErrnoException).code ?? (error as Error).message}; nothing was made`);
  }
}

function show({ terminal }: Session, made: readonly Enrolled[], { json, qr, sheet }: GateAddOptions): void {
  for (const { gate, known } of made)
    terminal.err(known ? `${gate} is known: whoever uses this code takes its place; codes before it are good no more\n` : `made the gate ${gate}\n`);
  if (json === true) {
    terminal.out(`${JSON.stringify(made.map(({ gate, code }) => ({ gate, code })))}\n`);
    return;
  }
  const file = qr ?? sheet;
  if (file !== undefined)
    terminal.err(`the QR ${made.length === 1 ? 'is' : `codes of ${made.length} gates are`} in ${file}: keep it to those who set the gates up\n`);
  if (sheet !== undefined) return;
  terminal.err("on the gate, once, with the code in quotes: sudo stile-gate enroll 'STILE1:…' --wiring gate.yaml\n");
  for (const { gate, code } of made) terminal.out(made.length === 1 ? `${code}\n` : `${gate}\t${code}\n`);
}
