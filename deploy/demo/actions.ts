/** What one can do to the demo's stack, by key or by script: each does the real thing and can be undone. */
import { connect } from 'node:net';
import type { DemoBroker } from '../../testkit/demo-broker.ts';
import type { GateProcess } from '../../testkit/gate-process.ts';

export interface Actions {
  /** Guests at this gate wait. */
  paused(gate: GateProcess): boolean;
  cutBroker(): Promise<void>;
  restoreBroker(): Promise<void>;
  brokerUp(): boolean;
  /** Pulls the reader of the gate (first the one, next time the other), or plugs it in again. Says what it did. */
  pullReader(): string;
  ringFire(): Promise<string>;
  killGate(which?: number): Promise<string>;
  startGate(): Promise<string>;
  /** SIGKILL while a guest is in the arms of the turnstile. */
  killInPassage(): Promise<string>;
  /** Keys until the end: b, r, f, k, q and Ctrl-C. Answers how to stop listening. */
  listen(input: NodeJS.ReadStream, quit: () => void, say: (text: string) => void): () => void;
}

const KILL_WAIT_MS = 15_000;

export function createActions(parts: { readonly broker: DemoBroker; readonly gates: readonly GateProcess[] }): Actions {
  const { broker, gates } = parts;
  const killed = new Set<GateProcess>();
  const pulled = new Set<GateProcess>();
  let fireAt: GateProcess | null = null;
  let turn = 0;
  const next = () => gates[turn++ % gates.length] as GateProcess;

  const actions: Actions = {
    paused: (gate) => killed.has(gate) || pulled.has(gate) || fireAt === gate,
    cutBroker: () => broker.cut(),
    restoreBroker: () => broker.restore(),
    brokerUp: () => broker.up(),
    pullReader() {
      const [out] = pulled;
      if (out !== undefined) {
        out.reader.plug();
        pulled.delete(out);
        return `the reader of ${out.gate} is plugged in again: the gate finds it by itself`;
      }
      const gate = next();
      pulled.add(gate);
      gate.reader.unplug();
      return `the reader of ${gate.gate} was pulled out: an alert, and one amber flash; the lane goes on by button and command`;
    },
    async ringFire() {
      const ringing = fireAt;
      if (ringing !== null) {
        await wire(ringing, { input: 'fire', active: false });
        await new Promise((resolve) => setTimeout(resolve, 600));
        await ringing.command('reset-emergency', { actor: 'demo', reason: 'the fire loop is closed again' });
        fireAt = null;
        return `the fire loop of ${ringing.gate} is closed, and an operator reset the emergency: controlled again`;
      }
      const gate = next();
      fireAt = gate;
      await wire(gate, { input: 'fire', active: true });
      return `the fire loop of ${gate.gate} is open: the lane opens at once and stays open, whatever else happens`;
    },
    async killGate(which) {
      const gate = which === undefined ? next() : (gates[which] as GateProcess);
      killed.add(gate);
      await gate.kill();
      return `${gate.gate} was killed (SIGKILL)`;
    },
    async startGate() {
      const [gate] = killed;
      if (gate === undefined) return 'no gate is down';
      await gate.start();
      killed.delete(gate);
      return `${gate.gate} is back: nothing that it recorded is lost`;
    },
    async killInPassage() {
      const gate = next();
      const passing = gate.line(({ kind }) => kind === 'granted', KILL_WAIT_MS);
      // A guest who does not get through is shown on the screen.
      await passing.catch(() => undefined);
      killed.add(gate);
      await gate.kill();
      return `${gate.gate} was killed in mid-passage: the grant is on disk, its passage is not; it will come back as "unknown"`;
    },
    listen(input, quit, say) {
      const run = (work: () => Promise<string> | string) => {
        Promise.resolve()
          .then(work)
          .then(say, (error: unknown) => say((error as Error).message));
      };
      const key = (bytes: Buffer) => {
        for (const name of bytes.toString('utf8')) {
          if (name === 'q' || name === '\u0003') quit();
          else if (name === 'r') run(() => actions.pullReader());
          else if (name === 'f') run(() => actions.ringFire());
          else if (name === 'k') run(() => (killed.size > 0 ? actions.startGate() : actions.killGate()));
          else if (name === 'b') {
            run(async () => {
              if (!broker.up()) {
                await broker.restore();
                return 'the broker is back: what waited goes out, in order';
              }
              await broker.cut();
              return 'the broker was cut: gates go on deciding, rows wait in their ledgers';
            });
          }
        }
      };
      input.setRawMode(true);
      input.resume();
      input.on('data', key);
      return () => {
        input.off('data', key);
        input.setRawMode(false);
        input.pause();
      };
    },
  };
  return actions;
}

/** One line to a gate's software turnstile. */
function wire(gate: GateProcess, line: Readonly<Record<string, unknown>>): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect(gate.simSocket);
    socket.on('error', reject).on('connect', () => socket.end(`${JSON.stringify(line)}\n`));
    socket.resume().on('close', () => resolve());
  });
}
