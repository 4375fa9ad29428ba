/** The demo's one screen, drawn from plain data: no reading of clocks or files here. Without a terminal: plain lines. */

import { cutText } from '../../contract/text.ts';
import type { DemoGate } from './plan.ts';

export interface LampView {
  readonly green: boolean;
  readonly amber: boolean;
  readonly red: boolean;
}

export interface GateView {
  readonly gate: DemoGate;
  readonly process: 'starting' | 'up' | 'killed';
  readonly online: boolean;
  readonly readerPulled: boolean;
  readonly mode: string;
  /** Is the turnstile unlocked now? */
  readonly released: boolean;
  readonly lamps: LampView;
  readonly backlog: number;
  readonly rows: number;
  /** Newest last, ready to be read: `19:02:11 admitted: first entry`. */
  readonly decisions: readonly { readonly text: string; readonly admitted: boolean }[];
  readonly guestEnd: string;
}

export interface DemoView {
  readonly caption: string;
  readonly brokerUp: boolean;
  readonly gates: readonly GateView[];
  readonly postgresRows: number | null;
  readonly guests: { readonly done: number; readonly all: number | null };
  readonly samples: readonly { readonly code: string; readonly meaning: string }[];
  readonly operators: { readonly url: string; readonly token: string };
  readonly keys: boolean;
}

const ESC = '\u001b[';
const paint = (code: string, text: string) => `${ESC}${code}m${text}${ESC}0m`;
const bold = (text: string) => paint('1', text);
const dim = (text: string) => paint('2', text);
const lamp = (on: boolean, colour: string, name: string) => (on ? paint(`1;${colour}`, `● ${name}`) : dim(`○ ${name}`));

/** Length as it is seen: without escape sequences. */
const seen = (text: string) => text.replace(/\u001b\[[0-9;]*m/g, '').length;
const padTo = (text: string, width: number) => (seen(text) <= width ? text + ' '.repeat(width - seen(text)) : `${cutText(text, width - 1)}…`);

const DECISIONS_SHOWN = 7;

function gateBox(gate: GateView, width: number): string[] {
  const inner = width - 4;
  const process = gate.process === 'up' ? (gate.online ? paint('32', 'online') : paint('33', 'offline')) : paint('31', gate.process);
  const lines = [
    `${process}  mode ${gate.mode}${gate.readerPulled ? paint('31', '  reader pulled out') : ''}`,
    `${lamp(gate.lamps.green, '32', 'green')}  ${lamp(gate.lamps.amber, '33', 'amber')}  ${lamp(gate.lamps.red, '31', 'red')}   turnstile ${gate.released ? paint('1;32', 'OPEN') : 'locked'}`,
    `rows ${gate.rows}   not yet in Postgres ${gate.backlog === 0 ? '0' : paint('33', String(gate.backlog))}`,
    '',
    ...gate.decisions.slice(-DECISIONS_SHOWN).map((decision) => fitPlain(decision, inner)),
  ];
  while (lines.length < DECISIONS_SHOWN + 4) lines.push('');
  const title = ` ${gate.gate} `;
  return [
    `┌─${bold(title)}${'─'.repeat(Math.max(0, width - 3 - title.length))}┐`,
    ...lines.map((line) => `│ ${padTo(line, inner)} │`),
    `└${'─'.repeat(width - 2)}┘`,
  ];
}

function fitPlain(decision: GateView['decisions'][number], width: number): string {
  const text = decision.text.length > width ? `${cutText(decision.text, width - 1)}…` : decision.text;
  return decision.admitted ? paint('32', text) : paint('31', text);
}

/** The sentence that the whole system is about. */
export function rowsLine(view: Pick<DemoView, 'gates' | 'postgresRows'>): string {
  const gates = view.gates.reduce((sum, gate) => sum + gate.rows, 0);
  const postgres = view.postgresRows;
  const sign = postgres === gates ? '=' : '≠';
  return `ledger rows: gates ${gates} ${sign} Postgres ${postgres ?? '?'}`;
}

/** The whole screen, for a terminal of this many columns (at least 60; below 100 the lanes stand under each other). */
export function drawScreen(view: DemoView, columns: number): string {
  const whole = Math.max(60, Math.min(columns, 160)) - 1;
  const side = whole >= 100;
  const boxes = view.gates.map((gate) => gateBox(gate, side ? Math.floor((whole - 1) / 2) : whole));
  const lanes = side ? (boxes[0] ?? []).map((_, row) => boxes.map((box) => box[row] ?? '').join(' ')) : boxes.flat();
  const guests = view.guests.all === null ? `guests ${view.guests.done}` : `guests ${view.guests.done} of ${view.guests.all}`;
  const rows = rowsLine(view);
  const lines = [
    `${bold('Stile')}  two gates, one account    broker ${view.brokerUp ? paint('32', 'up') : paint('31', 'CUT')}    ${guests}`,
    '',
    ...lanes,
    '',
    bold(rows.includes('=') ? paint('32', rows) : paint('33', rows)),
    '',
    paint('36', view.caption),
    '',
    'Show a code to a reader yourself, from another terminal:',
    ...view.gates.map((gate) => `  echo CODE > ${gate.guestEnd}`),
    ...view.samples.map(({ code, meaning }) => `  ${bold(code)}  ${dim(meaning)}`),
    '',
    `The operators' page: ${view.operators.url}  ${dim(`token ${view.operators.token}`)}`,
    '',
    view.keys ? dim('b cut or restore the broker   r pull or plug a reader   f ring or clear fire   k kill or start a gate   q quit') : '',
  ];
  return `${ESC}H${lines.map((line) => `${line}${ESC}K`).join('\n')}${ESC}J`;
}

export const ENTER_SCREEN = `${ESC}?1049h${ESC}?25l${ESC}2J`;
export const LEAVE_SCREEN = `${ESC}?25h${ESC}?1049l`;

/** A table for the end of a run: what was planned, what Postgres holds. */
export function countTable(rows: readonly { readonly what: string; readonly expected: number; readonly found: number }[]): string {
  const width = Math.max(8, ...rows.map((row) => row.what.length));
  const line = (what: string, expected: string, held: string, mark: string) =>
    `  ${what.padEnd(width)}  ${expected.padStart(8)}  ${held.padStart(8)}  ${mark}`.trimEnd();
  return [
    line('', 'expected', 'Postgres', ''),
    ...rows.map((row) => line(row.what, String(row.expected), String(row.found), row.expected === row.found ? 'ok' : 'WRONG')),
  ].join('\n');
}
