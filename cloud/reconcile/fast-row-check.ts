/**
 * Recognises valid grants and passages in a tenth of the time that their schemas take: almost every row is one. The schemas decide: this accepts a
 * part of what they accept, and nothing that they refuse (fast-row-check.test.ts); every other row goes to the schemas.
 */
import { GRANT_TYPES, type LedgerEntry, PASSAGE_OUTCOMES } from '../../contract/ledger.ts';
import { MAX_UNITS } from '../../contract/limits.ts';

type Fields = Readonly<Record<string, unknown>>;

const HASH = /^[0-9a-f]{64}$/;
const REF = /^[0-9a-f]{32}$/;
const ID = /^[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}$/;
const LEDGER = /^(?!cloud\/)[a-z0-9][a-z0-9-]{0,30}\/(?:[a-z0-9]|@(?!cloud$)[a-z0-9])[a-z0-9-]{0,30}$/;
/** Matches every day but the 29th of February: calendars are left to the schema. */
const TIME = /^20\d\d-(?:(?:0[13-9]|1[0-2])-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8])|(?:0[13578]|1[02])-31)T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{3}Z$/;
const MEDIA = ['opaque', 'signed', 'rotating', 'manual'];

const fits = (pattern: RegExp, value: unknown): boolean => typeof value === 'string' && pattern.test(value);
const whole = (value: unknown, least: number): boolean => Number.isSafeInteger(value) && (value as number) >= least;
const number = (value: unknown): value is number => typeof value === 'number' && Number.isFinite(value);

/** Returns the entry itself, or null: use the schemas. */
export function plainRow(entry: unknown): LedgerEntry | null {
  if (typeof entry !== 'object' || entry === null || Object.getPrototypeOf(entry) !== Object.prototype || Object.hasOwn(entry, '__proto__')) return null;
  const row = entry as Fields;
  const plain = row['kind'] === 'grant' ? common(row) && grant(row) : row['kind'] === 'passage' && common(row) && passage(row);
  return plain ? (entry as LedgerEntry) : null;
}

function common(row: Fields): boolean {
  const boot = row['boot_id'];
  const offset = row['clock_offset_ms'];
  const bound = row['clock_bound_ms'];
  return (
    whole(row['seq'], 1) &&
    fits(HASH, row['hash']) &&
    fits(TIME, row['ts']) &&
    typeof boot === 'string' &&
    boot.length > 0 &&
    boot.length <= 64 &&
    number(row['boottime_ms']) &&
    row['boottime_ms'] >= 0 &&
    (offset === undefined || number(offset)) &&
    (bound === undefined || (number(bound) && bound >= 0)) &&
    fits(ID, row['event_id']) &&
    fits(ID, row['ticket_id']) &&
    fits(REF, row['ticket_ref']) &&
    (row['direction'] === 'in' || row['direction'] === 'out') &&
    row['again'] === undefined &&
    row['area'] === undefined &&
    row['pass'] === undefined
  );
}

function grant(row: Fields): boolean {
  return (
    (GRANT_TYPES as readonly unknown[]).includes(row['type']) &&
    units(row['units']) &&
    (MEDIA as readonly unknown[]).includes(row['medium']) &&
    whole(row['manifest_version'], 0) &&
    typeof row['online'] === 'boolean' &&
    whole(row['latency_us'], 0) &&
    row['flags'] === undefined &&
    row['of'] === undefined &&
    seen(row['seen'])
  );
}

function passage(row: Fields): boolean {
  return (
    (PASSAGE_OUTCOMES as readonly unknown[]).includes(row['outcome']) &&
    (row['of'] === undefined || place(row['of'], 1) || reference(row['of'])) &&
    (row['unit'] === undefined || units(row['unit']))
  );
}

const units = (value: unknown): boolean => whole(value, 1) && (value as number) <= MAX_UNITS;
/** [epoch, seq]. */
const place = (value: unknown, least: number): boolean => Array.isArray(value) && value.length === 2 && whole(value[0], 1) && whole(value[1], least);

/** [epoch, seq, hash]. */
const reference = (value: unknown): boolean => Array.isArray(value) && value.length === 3 && whole(value[0], 1) && whole(value[1], 1) && fits(HASH, value[2]);

function seen(value: unknown): boolean {
  if (typeof value !== 'object' || value === null || Object.getPrototypeOf(value) !== Object.prototype) return false;
  for (const ledger of Object.keys(value)) if (!LEDGER.test(ledger) || !place((value as Fields)[ledger], 0)) return false;
  return true;
}
