/**
 * What the gate writes to stderr: JSON lines, for journald. The only file that imports pino. Codes, tokens and keys
 * never belong in a field; should one get there under a telling name, it is blanked.
 */
import pino from 'pino';
import { createLogLimit } from './rate-limit.ts';

export type LogLevel = 'debug' | 'info' | 'warn' | 'error';
type Fields = Readonly<Record<string, unknown>>;

/** `message`: a sentence without variables; what varies is in the fields. Warnings and errors of one text (and one field `what`) are limited: log-limit.ts. */
export interface Log {
  debug(message: string, fields?: Fields): void;
  info(message: string, fields?: Fields): void;
  warn(message: string, fields?: Fields): void;
  error(message: string, fields?: Fields): void;
}

/** The log of a process. */
export interface ProcessLog extends Log {
  /** Writes the queued lines to stderr before the process ends. */
  flush(): void;
}

/** Lines that wait for a slow reader of stderr; what comes above is dropped, because the loop never waits for its log. */
const MAX_WAITING_BYTES = 1024 * 1024;
const SECRET_FIELDS = ['code', 'bytes', 'password', 'token', 'key', 'pem', 'secret'];

export function createLog(level: LogLevel, base: Fields = {}): ProcessLog {
  const destination = pino.destination({ dest: 2, sync: false, maxLength: MAX_WAITING_BYTES });
  // A closed or broken stderr must not end the gate.
  destination.on('error', () => undefined);
  const logger = pino(
    {
      level,
      base,
      timestamp: pino.stdTimeFunctions.isoTime,
      messageKey: 'msg',
      formatters: { level: (label) => ({ level: label }) },
      redact: { paths: SECRET_FIELDS.flatMap((name) => [name, `*.${name}`]), censor: '(hidden)' },
      serializers: { error: pino.stdSerializers.err },
    },
    destination,
  );
  const write =
    (name: LogLevel) =>
    (message: string, fields: Fields = {}) =>
      logger[name](fields, message);
  type Line = { readonly level: 'warn' | 'error'; readonly message: string; readonly fields: Fields };
  const limit = createLogLimit<Line>({
    write: ({ level: name, message, fields }) => write(name)(message, fields),
    told: ({ level: name, message, fields }, left_out) => write(name)(message, { ...fields, left_out }),
    after: (ms, call) => void setTimeout(call, ms).unref(),
  });
  const limited =
    (name: Line['level']) =>
    (message: string, fields: Fields = {}) =>
      limit.take(`${name} ${message} ${String(fields['what'] ?? '')}`, { level: name, message, fields });
  return {
    debug: write('debug'),
    info: write('info'),
    warn: limited('warn'),
    error: limited('error'),
    flush() {
      limit.flush();
      try {
        destination.flushSync();
      } catch {
        // Nobody reads stderr any more: there is nowhere left to say so.
      }
    },
  };
}
