/** Reports the service's state to systemd (sd_notify), by systemd's own program; does nothing where systemd does not ask. */
import { execFile } from 'node:child_process';

export interface ServiceNotifier {
  /** Ready; from now on the watchdog is fed, each time after `alive` said so. */
  ready(alive: () => Promise<boolean>): void;
  stopping(): void;
}

/** `systemd-notify` is a child of this process: the unit needs NotifyAccess=all. */
export function createServiceNotifier(env: Readonly<Record<string, string | undefined>>): ServiceNotifier {
  const asked = env['NOTIFY_SOCKET'] !== undefined && env['NOTIFY_SOCKET'] !== '';
  const watchdogMs = Number(env['WATCHDOG_USEC'] ?? 0) / 1000;
  let timer: NodeJS.Timeout | undefined;
  const notify = (...states: string[]) => {
    execFile('systemd-notify', states, () => {});
  };
  return {
    ready(alive) {
      if (!asked) return;
      notify('--ready', `--pid=${process.pid}`);
      if (watchdogMs > 0)
        timer = setInterval(
          () =>
            void alive().then(
              (well) => {
                if (well) notify('WATCHDOG=1');
              },
              () => {},
            ),
          watchdogMs / 3,
        );
    },
    stopping() {
      clearInterval(timer);
      if (asked) notify('STOPPING=1');
    },
  };
}
