/** Builds the message `info`: program, machine, configuration. */
import type { InfoMessage } from '../../contract/messages.ts';
import { cutText } from '../../contract/text.ts';
import type { Version } from '../../runtime/build-info.ts';
import type { Clock } from '../ports.ts';
import type { MachineFacts } from './host-metrics.ts';

/** The parts of the configuration that `info` reports. */
export interface ReportedConfig {
  readonly sha256: string;
  readonly readers: readonly Pick<InfoMessage['readers'][number], 'name' | 'path' | 'baud' | 'direction'>[];
  readonly board: { readonly driver: string };
  readonly certificate: { readonly notAfterMs: number } | null;
}

/** Returns the message that the gate publishes, retained, with every connection. */
export function gateInfo(config: ReportedConfig, clock: Clock, { version, commit }: Version, facts: MachineFacts, board: string): Omit<InfoMessage, 'schema'> {
  return {
    version,
    commit,
    runtime: `node ${process.version}`,
    ...facts,
    boot_id: clock.bootId,
    booted_at: new Date(clock.wallMs() - clock.boottimeMs()).toISOString(),
    config_sha256: config.sha256,
    readers: config.readers.map(({ name, path, baud, direction }) => ({ name, path: cutText(path, 255), baud, direction })),
    board: { driver: config.board.driver, by: board },
    cert_expires_at: config.certificate === null ? null : new Date(config.certificate.notAfterMs).toISOString(),
  };
}
