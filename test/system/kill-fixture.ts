/**
 * One gate as a process, with its wires and a disk of its own, that is struck while its release is driven: killed, hung and then killed
 * by the watchdog, stopped, or left alive with a disk that fails. What the wire did is read from the wire.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { connectGate } from '../../daemon/control/client.ts';
import type { GateStatus } from '../../daemon/control/protocol.ts';
import { DEFAULT_LANE_CONFIG } from '../../daemon/lane/config.ts';
import { CHECKOUT_LAUNCHER, codeOf, createTestGate, type TestGate, until } from '../../testkit/gate.ts';
import { type FaultyDisk, makeFaultyDisk } from '../disk/faulty-disk.ts';
import { boottimeMs, type Wires, watchWires } from '../disk/lane-recorder.ts';

export const WAYS = ['killed', 'hung', 'stopped', 'eio', 'full'] as const;
export type Way = (typeof WAYS)[number];
/** The disk is struck; else the process is. */
export const DISK_WAYS = ['eio', 'full'] as const;
const isDiskWay = (way: Way): way is (typeof DISK_WAYS)[number] => (DISK_WAYS as readonly Way[]).includes(way);

const { pulseMs } = DEFAULT_LANE_CONFIG;
/** Of the pulse, when the blow falls at the latest: a slow messenger must still meet it open. */
const BLOW_WITHIN_MS = pulseMs * 0.6;
/** systemd kills so long after the last sign of life (systemd/stile-gate.service, WatchdogSec). */
export const WATCHDOG_MS = 3_000;
/** A passage that is over before the loop turns again is seen by no sensor: this guest takes longer than a loaded machine stalls. */
const PASSAGE_MS = 500;

export interface Held {
  readonly way: Way;
  /** The wire still stood open when the blow had fallen: somebody had something to do. */
  readonly leftOpen: boolean;
  /** From the release until the wire was back, and from the blow until then, ms. */
  readonly heldMs: number;
  readonly afterBlowMs: number;
  /** A struck disk: the gate had met the fault, and said so, before the wire was back. */
  readonly metInPulse: boolean;
}

export interface LaneOptions {
  /** The compiled stop step, or what is planted in its place. */
  readonly stopStep: string;
  readonly tickets: number;
  /** Default: the unit's. */
  readonly watchdogMs?: number;
}

export interface StruckLane {
  /**
   * One blow in mid-pulse, by the guest of this ticket. Rejects where the stop step fails or leaves an output out of its defined state,
   * and where a struck disk is not noticed by the gate.
   */
  round(code: number, way: Way): Promise<Held>;
  /** Returns each ticket's rows in order: kinds, or outcomes of passages. Throws where the chain does not hold. Starts a gate that does not run. */
  recordOf(codes: readonly number[]): Promise<readonly (readonly string[])[]>;
  close(): Promise<void>;
}

/** Makes everything; the first round starts the gate. */
export async function openStruckLane({ stopStep, tickets, watchdogMs = WATCHDOG_MS }: LaneOptions): Promise<StruckLane> {
  const at: TestGate = await createTestGate(CHECKOUT_LAUNCHER, tickets);
  const disk: FaultyDisk = makeFaultyDisk();
  const level = (wire: string): string => readFileSync(join(at.dir, 'sim.sock.wires', wire), 'utf8').trim();
  /** Each line of the release file: a wire and the level that is its defined state. */
  const targets = (): readonly (readonly [string, string])[] =>
    [...readFileSync(join(at.dir, 'release.conf'), 'utf8').matchAll(/^sim (\S+) ([01])$/gm)].map(([, path, value]) => [path as string, value as string]);
  let gate: ChildProcess | null = null;
  let wires: Wires | null = null;
  let lidOpen = false;

  /** Asked over the socket until it fits: a command line a round would take longer than the round. */
  async function statusThat(fits: (now: GateStatus) => boolean): Promise<GateStatus> {
    const client = await connectGate(join(at.dir, 'gate.sock'));
    try {
      return await until(() => client.call<GateStatus>('status', {}), fits);
    } finally {
      client.close();
    }
  }

  /** The reader is open, the disk works, and the lane waits for guests. */
  async function ready(): Promise<ChildProcess> {
    disk.order('work');
    gate ??= await at.start(disk.env(join(at.dir, 'store')));
    wires ??= await watchWires(join(at.dir, 'sim.sock'));
    await statusThat((now) => now.readers.every(({ ok }) => ok) && now.signals.in === 'ready' && now.alerts.every(({ id }) => id !== 'disk'));
    return gate;
  }

  async function end(running: ChildProcess, way: Way): Promise<void> {
    const ended = new Promise<void>((resolve) => running.once('exit', () => resolve()));
    if (way === 'hung') {
      running.kill('SIGSTOP');
      await sleep(watchdogMs);
    }
    running.kill(way === 'stopped' ? 'SIGTERM' : 'SIGKILL');
    await ended;
  }

  /** systemd's ExecStopPost. */
  async function runStopStep(): Promise<void> {
    const step = spawn(stopStep, [join(at.dir, 'release.conf')], { stdio: ['ignore', 'ignore', 'pipe'] });
    let said = '';
    step.stderr.setEncoding('utf8').on('data', (text: string) => {
      said += text;
    });
    const status = await new Promise((resolve) => step.once('close', resolve));
    if (status !== 0 || said !== '') throw new Error(`the stop step ended with ${status}: ${said}`);
    const wrong = targets().filter(([path, value]) => readFileSync(path, 'utf8').trim() !== value);
    if (wrong.length > 0)
      throw new Error(`not in the defined state after the stop step: ${wrong.map(([path, value]) => `${path} is not ${value}`).join(', ')}`);
  }

  /** The disk fails while the release is driven, and something must be written at once: the lid is opened or shut, which is an alarm's row. */
  async function strikeDisk(watched: Wires, way: 'eio' | 'full', onMs: number): Promise<Held> {
    const blowMs = boottimeMs();
    disk.order(way);
    const leftOpen = level('release_in') === '1';
    lidOpen = !lidOpen;
    watched.send({ input: 'tamper', active: lidOpen });
    const off = await watched.next('release_in', false, onMs);
    const { alerts } = await statusThat((now) => now.alerts.some(({ id }) => id === 'disk'));
    const metMs = Date.parse(alerts.find(({ id }) => id === 'disk')?.since ?? '') - (Date.now() - boottimeMs());
    return { way, leftOpen, heldMs: off.atMs - onMs, afterBlowMs: Math.max(0, off.atMs - blowMs), metInPulse: metMs <= off.atMs };
  }

  return {
    async round(code, way) {
      const running = await ready();
      const watched = wires as Wires;
      watched.send({ walk: { rotate_ms: PASSAGE_MS } });
      const shownMs = boottimeMs();
      at.show(codeOf(code));
      const on = await watched.next('release_in', true, shownMs);
      await sleep(Math.random() * BLOW_WITHIN_MS);
      if (isDiskWay(way)) return strikeDisk(watched, way, on.atMs);
      const blowMs = boottimeMs();
      await end(running, way);
      gate = null;
      wires = null;
      lidOpen = false;
      try {
        const leftOpen = level('release_in') === '1';
        await runStopStep();
        // A process that was told to stop has ended the pulse itself: its own last word on the wire counts.
        const off = way === 'stopped' ? await watched.next('release_in', false, on.atMs) : null;
        const backMs = off?.atMs ?? boottimeMs();
        return { way, leftOpen, heldMs: backMs - on.atMs, afterBlowMs: Math.max(0, backMs - blowMs), metInPulse: false };
      } finally {
        watched.close();
      }
    },
    async recordOf(codes) {
      // The next start writes how the last grant ended, as far as anyone can know.
      await ready();
      const all = (await at.cli('ledger', 'export')).stdout
        .trim()
        .split('\n')
        .flatMap((line) => (JSON.parse(line) as { entries: { kind: string; ticket_id?: string; outcome?: string }[] }).entries);
      const verified = await at.cli('ledger', 'verify');
      if (verified.code !== 0) throw new Error(`the ledger does not hold: ${verified.stderr}${verified.stdout}`);
      return codes.map((code) => all.filter(({ ticket_id }) => ticket_id === `t-${code}`).map(({ kind, outcome }) => outcome ?? kind));
    },
    async close() {
      wires?.close();
      await at.killAll();
      disk.remove();
      at.remove();
    },
  };
}
