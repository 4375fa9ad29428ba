/** What the uplink brings, handed to whom it concerns. Nothing here may throw into the loop. */
import type { AckMessage } from '../../contract/ledger.ts';
import type { Log } from '../log/log.ts';
import type { Decider, Uplink, UplinkEvent } from '../ports.ts';
import type { Alerts } from './alerts.ts';
import type { CommandResult, GateCommand } from './commands.ts';

/** Manifests and the site's ledger, fetched over HTTP: the link's part, handed in. */
export interface GateSync {
  /** `manifest/want` as it came. */
  want(payload: Uint8Array): Promise<void>;
  /** A signed overlay as it came. */
  overlay(payload: Uint8Array): Promise<void>;
  /** A peer's rows have a gap: fetch the site's ledger. */
  gap(): Promise<void>;
  /** Fetch what is wanted now; what it says goes into the answer. */
  refresh(): Promise<unknown>;
  /** Why what is wanted could not be fetched, with the address that was asked; null: nothing is known to stand in the way. */
  problem?(): string | null;
  /** Calls back whenever `problem` has changed, or what the decider holds of tickets or of the peers' usage has changed. Where it can't, the gate finds out within STATUS_MS. */
  changed?(listener: () => void): void;
}

export interface InboxOptions {
  readonly decider: Pick<Decider, 'acknowledge' | 'applyPeer'>;
  readonly uplink: Pick<Uplink, 'kick'>;
  readonly sync: GateSync;
  readonly alerts: Alerts;
  readonly log: Log;
  readonly command: (command: GateCommand) => Promise<CommandResult>;
  readonly backlog: (rows: number) => void;
  readonly changed: () => void;
}

/** The listener of the uplink. Its promise holds back the next `peer`, nothing else. Never rejects. */
export function createUplinkHandler(options: InboxOptions): (event: UplinkEvent) => Promise<void> {
  const { decider, uplink, sync, alerts, log, changed } = options;

  async function acknowledged(ack: AckMessage): Promise<void> {
    const { backlog, ahead, again } = await decider.acknowledge(ack);
    options.backlog(backlog);
    if (ahead) log.warn('the cloud knows rows that this ledger does not have: a new epoch was begun');
    if (again === true) log.warn('the cloud does not hold rows any more that it had acknowledged: they are sent again');
    uplink.kick(again);
    changed();
  }

  async function take(event: UplinkEvent): Promise<void> {
    switch (event.kind) {
      case 'online':
        alerts.clear('uplink');
        uplink.kick();
        return changed();
      case 'offline':
        alerts.raise('uplink', 'warning', `${event.fault.operation}: ${event.fault.cause}`);
        return changed();
      case 'ack':
        return acknowledged(event.ack);
      case 'peer':
        if ((await decider.applyPeer({ ledger: event.ledger, payload: event.payload })).gap) await sync.gap();
        return;
      case 'want':
        return sync.want(event.payload);
      case 'overlay':
        return sync.overlay(event.payload);
      case 'request': {
        const { actor, reason, transaction, args } = event.request;
        return event.respond(await options.command({ command: event.command, args, actor, reason, transaction }));
      }
    }
  }

  return async (event) => {
    try {
      await take(event);
    } catch (error) {
      log.warn('what the uplink brought could not be taken', { what: event.kind, cause: error instanceof Error ? error.message : String(error) });
    }
  };
}
