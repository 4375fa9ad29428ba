/**
 * Writes the log to stderr: JSON lines, for journald. The only file that imports pino. Callers never log codes, tokens or keys; a
 * field with such a name is blanked.
 */
import pino from 'pino';
import { createLogLimit } from './rate-limit.ts';

export type LogLevel = 'debug' | 'info' | 'warn' | 'error';
type Fields = Readonly<Record<string, unknown>>;

/** Writes log lines. `message`: constant text; variables go into fields. rate-limit.ts limits warnings and errors of one text (and one field `what`). */
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

/** Most bytes queued for a slow reader of stderr; further lines are dropped, since the loop never waits for its log. */
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
    summary: ({ level: name, message, fields }, left_out) => write(name)(message, { ...fields, left_out }),
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
        // stderr is closed: nothing can report that.
      }
    },
  };
}
