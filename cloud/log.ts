/** Writes the cloud's log: structured lines on stderr. The only file of the cloud that imports pino. */
import pino from 'pino';

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** The log of the cloud's parts. Never pass it a code, a token or a key. */
export interface Log {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
  child(fields: object): Log;
}

/** Writes JSON lines on stderr, so that stdout stays for answers. */
export function createLog(options: { readonly level: LogLevel; readonly name: string }): Log {
  return pino(
    {
      level: options.level,
      base: { name: options.name },
      timestamp: pino.stdTimeFunctions.isoTime,
      redact: ['token', 'code', 'authorization', '*.token', '*.code', '*.authorization'],
    },
    pino.destination({ fd: 2, sync: false }),
  );
}

/** Discards everything: for tests and for commands with output for a person. */
export const SILENT: Log = { debug() {}, info() {}, warn() {}, error() {}, child: () => SILENT };
