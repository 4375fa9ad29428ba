/** Passes the uplink's events to the parts that they concern. Never throws into the loop. */
import type { AckMessage } from '../../contract/ledger.ts';
import type { Log } from '../log/log.ts';
import type { Decider, GateSync, Uplink, UplinkEvent } from '../ports.ts';
import type { CommandResult, GateCommand } from './commands.ts';
import type { Report } from './outcome.ts';

export interface UplinkHandlerOptions {
  readonly decider: Pick<Decider, 'acknowledge' | 'applyPeer'>;
  readonly uplink: Pick<Uplink, 'kick'>;
  readonly sync: GateSync;
  readonly log: Log;
  readonly command: (command: GateCommand) => Promise<CommandResult>;
  readonly report: Report;
}

/** Returns the uplink's listener. Its promise holds back the next `peer` alone. Never rejects. */
export function createUplinkHandler(options: UplinkHandlerOptions): (event: UplinkEvent) => Promise<void> {
  const { decider, uplink, sync, log, report } = options;
  const changed = () => report({ kind: 'view_changed' });

  async function acknowledged(ack: AckMessage): Promise<void> {
    const { backlog, ahead, again } = await decider.acknowledge(ack);
    report({ kind: 'backlog', rows: backlog });
    if (ahead) log.warn('the cloud knows rows that this ledger does not have: a new epoch was begun');
    if (again === true) log.warn('the cloud does not hold rows any more that it had acknowledged: they are sent again');
    uplink.kick(again);
    changed();
  }

  async function handle(event: UplinkEvent): Promise<void> {
    switch (event.kind) {
      case 'online':
        report({ kind: 'clear', alert: 'uplink' });
        uplink.kick();
        return changed();
      case 'offline':
        report({ kind: 'raise', alert: 'uplink', severity: 'warning', message: `${event.fault.operation}: ${event.fault.cause}` });
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
      await handle(event);
    } catch (error) {
      log.warn('handle an uplink message failed', { what: event.kind, cause: error instanceof Error ? error.message : String(error) });
    }
  };
}
