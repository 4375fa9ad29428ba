/** How the link's parts write to the log; main.ts hands in the real one. Never codes, never secrets. */
export type LinkLog = (level: 'debug' | 'info' | 'warn' | 'error', message: string, fields?: Readonly<Record<string, unknown>>) => void;
