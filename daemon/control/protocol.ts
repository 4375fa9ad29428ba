/**
 * What can be asked over the control socket, and what is answered: shared by the gate (main.ts) and the command lines.
 *
 * | call | args | data |
 * |---|---|---|
 * | `status` | | GateStatus |
 * | `watch` | | endless items: `{"status": GateStatus}` at first, with every change (at most ten a second) and every 5 s, `{"line": RecentLine}` as it happens |
 * | `open` | direction, units, actor, reason | `{"row": [epoch, seq]}` |
 * | `mode` | mode, direction?, until?, actor, reason | `{}` |
 * | `reset-emergency`, `evacuate`, `stop-entry`, `resume-entry` | actor, reason | `{}` |
 * | `sensor` | turns, actor, reason | `{}` |
 * | `selftest` | actor, reason | items: SelftestNews (daemon/gate/selftest.ts); `{"steps": […]}`. Ends early where the client goes |
 * | `hear` | ports? | endless items: HeardItem. Ports that no reader of the gate has are opened for so long |
 * | `reader-bytes` | | endless items: ReaderBytesItem, for a technician at the lane |
 * | `ledger` | after? [epoch, seq], limit? | items: LedgerRow, in order; `{"rows": n}` |
 * | `manifest` | | `{"manifests": […], "fetch_problem": …}` as in GateStatus |
 */
import type { Direction } from '../../contract/ids.ts';
import type { Mode } from '../../contract/ledger.ts';
import type { NotTaken, Severity } from '../../contract/messages.ts';

export interface ManifestStatus {
  readonly event_id: string;
  readonly version: number;
  readonly overlay_version: number;
  readonly generated_at: string;
  readonly expires_at: string;
  readonly tickets: number;
}

/** A line of a reader: its bytes in hexadecimal, the end of a frame, or what was wrong. Shown on a terminal, never stored. */
export interface ReaderBytesItem {
  readonly reader: string;
  readonly kind: 'bytes' | 'frame' | 'garbled' | 'up' | 'down';
  readonly hex?: string;
  readonly detail?: string;
  /** The verdict on the reader's set-up now; null: nothing looks wrong. */
  readonly problem: { readonly cause: string; readonly hint: string } | null;
}

/** Something that happened, in words; never a code. */
export interface RecentLine {
  readonly at: string;
  readonly direction: Direction | null;
  /** What kind of thing, for colours: granted, refused, passage, override, mode, conflict, alert. */
  readonly kind: string;
  readonly words: string;
}

export interface GateStatus {
  readonly gate: string;
  readonly version: string;
  readonly pid: number;
  readonly started_at: string;
  readonly uptime_s: number;
  readonly config_files: readonly string[];
  readonly modes: Readonly<Record<Direction, { readonly mode: Mode; readonly until: string | null }>>;
  /** What each direction shows (daemon/lane/signals.ts), and its lamps. */
  readonly signals: Readonly<Record<Direction, string>>;
  readonly lamps: Readonly<Record<Direction, { readonly green: boolean; readonly red: boolean; readonly amber: boolean }>>;
  readonly fire: { readonly asserted: boolean; readonly latched: boolean };
  readonly readers: readonly {
    readonly name: string;
    readonly direction: Direction;
    readonly path: string;
    readonly ok: boolean;
    /** Since the start. `noise`: frames of control bytes alone. */
    readonly bytes: number;
    readonly frames: number;
    readonly garbled: number;
    readonly unknown: number;
    readonly noise: number;
    /** The likely cause where what comes looks wrong, and how to correct it. */
    readonly problem: { readonly cause: string; readonly hint: string } | null;
  }[];
  /** `by`: what drives the lines, such as `onoff (sysfs, pinctrl-bcm2711 at 512)`. */
  readonly board: { readonly driver: string; readonly by: string; readonly ok: boolean };
  readonly ledger: {
    readonly epoch: number;
    readonly last_seq: number;
    readonly backlog: number;
    readonly backlog_oldest_s: number | null;
    readonly usage_complete: boolean;
  };
  readonly manifests: readonly ManifestStatus[];
  /** Why what is wanted of tickets could not be fetched, with the address; null: nothing stands in the way. */
  readonly fetch_problem: string | null;
  /** Grants that the cloud found beyond the ticket's right: how many stand, and the newest words, the newest last. */
  readonly conflicts: {
    readonly standing: number;
    readonly newest: readonly {
      readonly row: readonly [number, number];
      readonly cause: string;
      readonly verdict: 'excess' | 'withdrawn';
      readonly ticket_id: string | null;
      readonly words: string;
    }[];
  };
  readonly totals: { readonly admissions: number; readonly refusals: number; readonly passages: number };
  /** Codes since the process's start that no decision was asked for, by why. */
  readonly not_taken: Readonly<Record<NotTaken, number>>;
  readonly disk_free_mb: number;
  readonly uplink: { readonly url: string | null; readonly online: boolean };
  readonly clock: {
    readonly wall: string;
    readonly trusted: boolean;
    readonly why: string;
    readonly offset_ms: number | null;
    readonly bound_ms: number | null;
  };
  readonly alerts: readonly { readonly id: string; readonly severity: Severity; readonly since: string; readonly message: string }[];
  /** The newest last; at most 20. */
  readonly recent: readonly RecentLine[];
  /** From the process's start to the first possible decision, ms. */
  readonly start_ms: number;
}

export type WatchItem = { readonly status: GateStatus } | { readonly line: RecentLine };

/** Something came from a port: a code (never told), or a fault that keeps the port closed. `reader`: of the gate's own; null: a port that was named. */
export type ReaderTapItem = { readonly port: string; readonly reader: string | null } | { readonly port: string; readonly fault: string };

export interface LedgerRow {
  readonly epoch: number;
  readonly entry: Readonly<Record<string, unknown>> & { readonly seq: number; readonly kind: string; readonly hash: string };
  /** What the cloud found out about a grant, in words. */
  readonly conflict?: string;
}
