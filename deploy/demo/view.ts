/** What people see of the demo: the screen in a terminal, else plain lines. Looks at gates and account twice a second. */
import type { RecentLine } from '../../daemon/control/protocol.ts';
import type { DemoBroker } from '../../testkit/demo-broker.ts';
import type { GateProcess } from '../../testkit/gate-process.ts';
import type { IngestCounts } from './counts.ts';
import type { Played } from './guests.ts';
import type { DemoPlan } from './plan.ts';
import { type DemoView, drawScreen, type GateView, rowsLine } from './screen.ts';

const REFRESH_INTERVAL_MS = 400;
const DRAW_MS = 120;
/** Without a terminal: how it stands, so often. */
const LINE_MS = 10_000;
const LINES_KEPT = 12;

export interface Show {
  guest(played: Played): void;
  caption(text: string): void;
  close(): void;
}

export interface ShowOptions {
  readonly gates: readonly GateProcess[];
  readonly broker: DemoBroker;
  readonly account: IngestCounts;
  readonly plan: DemoPlan;
  /** The operators' page, and a token that opens it. */
  readonly operators: DemoView['operators'];
  readonly interactive: boolean;
  readonly once: boolean;
  readonly say: (text: string) => void;
  readonly columns: () => number;
  readonly write: (text: string) => void;
}

export function createShow(options: ShowOptions): Show {
  const { gates, account, plan, interactive, say } = options;
  const lines = new Map<GateProcess, GateView['decisions'][number][]>(gates.map((gate) => [gate, []]));
  const rows = new Map<GateProcess, { rows: number; backlog: number }>(gates.map((gate) => [gate, { rows: 0, backlog: 0 }]));
  let postgresRows: number | null = null;
  let caption = '';
  let done = 0;
  let looking = false;
  let closed = false;

  const samples = [
    { code: plan.spare[0]?.code ?? '', meaning: 'good once: the second time it is refused, at either gate' },
    { code: plan.spare[1]?.code ?? '', meaning: 'another good one' },
    { code: plan.cancelled.code, meaning: 'cancelled' },
    { code: plan.wrongZone.code, meaning: 'for the balcony: the wrong entrance' },
    { code: 'NOT-A-TICKET', meaning: 'unknown' },
  ];
  const view = (): DemoView => ({
    caption,
    brokerUp: options.broker.up(),
    postgresRows,
    samples,
    operators: options.operators,
    keys: interactive,
    guests: { done, all: plan.guests.length },
    gates: gates.map((gate) => gateView(gate, lines.get(gate) ?? [], rows.get(gate) ?? { rows: 0, backlog: 0 })),
  });
  const unwatch = gates.map((gate) =>
    gate.watch((item) => {
      if (!('line' in item)) return;
      const list = lines.get(gate) as GateView['decisions'][number][];
      list.push({ text: `${clockOf(item.line)} ${item.line.words}`, admitted: item.line.kind !== 'refused' });
      if (list.length > LINES_KEPT) list.shift();
      if (!interactive) say(`${gate.gate}: ${item.line.words}`);
    }),
  );
  const refresh = async () => {
    if (looking || closed) return;
    looking = true;
    await Promise.all([
      ...gates.map(async (gate) => {
        const status = gate.running() ? await gate.fresh().catch(() => null) : null;
        if (status !== null) rows.set(gate, { rows: status.ledger.last_seq, backlog: status.ledger.backlog });
      }),
      account.rows().then(
        (count) => (postgresRows = count),
        () => undefined,
      ),
    ]);
    looking = false;
  };
  const timers = [
    setInterval(refresh, REFRESH_INTERVAL_MS),
    interactive
      ? setInterval(() => options.write(drawScreen(view(), options.columns())), DRAW_MS)
      : setInterval(() => say(`guests ${done} of ${plan.guests.length}, ${rowsLine(view())}`), LINE_MS),
  ];
  if (!interactive) {
    say('show a code to a reader yourself, from another terminal:');
    for (const gate of gates) say(`  echo CODE > ${gate.reader.guestPath}    (${gate.gate})`);
    for (const { code, meaning } of samples) say(`  ${code}  ${meaning}`);
    say(`the operators' page: ${options.operators.url}  token ${options.operators.token}`);
  }
  return {
    guest: () => {
      done++;
    },
    caption(text) {
      caption = text;
      if (!interactive) say(text);
    },
    close() {
      closed = true;
      for (const timer of timers) clearInterval(timer);
      for (const end of unwatch) end();
    },
  };
}

function gateView(gate: GateProcess, decisions: GateView['decisions'], { rows, backlog }: { rows: number; backlog: number }): GateView {
  const status = gate.status();
  const running = gate.running();
  return {
    gate: gate.gate as GateView['gate'],
    process: running ? (status === null ? 'starting' : 'up') : 'killed',
    online: running && (status?.uplink.online ?? false),
    readerPulled: !gate.reader.plugged,
    mode: status?.modes.in.mode ?? 'unknown',
    released: running && status !== null && ['granted', 'granted_attention', 'free', 'emergency'].includes(status.signals.in),
    lamps: running && status !== null ? status.lamps.in : { green: false, amber: false, red: false },
    backlog,
    rows,
    decisions,
    guestEnd: gate.reader.guestPath,
  };
}

const clockOf = (line: RecentLine) => new Date(line.at).toLocaleTimeString('en-GB', { hour12: false });
