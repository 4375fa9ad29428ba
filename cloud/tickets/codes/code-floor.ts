/**
 * Recognises texts that are no code, whatever strength is required: leftovers of spreadsheets and forms, a header among the tickets, and the first
 * guesses of anybody. Pure. A problem never holds the code.
 */
import { recogniseCode } from '../../../rules/code.ts';
import type { FieldProblem } from '../ticket-fields.ts';

/** Fewest characters of a code; a shorter one is guessed at a gate within minutes, and refused. */
export const MIN_CODE_CHARS = 6;
/** Repeats of one piece from which on a code is a pattern, and refused. */
const MIN_REPEATS = 4;

/** Placeholders for empty fields, in lower case without spaces and marks around them. */
const PLACEHOLDERS: ReadonlySet<string> = new Set(
  [
    'n/a na n.a n.a. n/v nv n.v k.a k.a. k/a none null nil nan undefined unknown void empty blank missing pending invalid error false true no yes',
    'tbd tba tbc t.b.d todo to-do tbd. fixme test dummy sample example placeholder changeme default unbekannt keine kein keiner leer fehlt offen folgt',
    'nicht-vorhanden not-available not-applicable not-assigned unassigned not-set no-code nocode xxx xxxx xxxxx xxxxxx 000000 sans aucun vide ninguno nulo ukjent',
  ]
    .join(' ')
    .split(' '),
);
/** Usual names of columns in ticket lists. */
const HEADERS: ReadonlySet<string> = new Set(
  'code codes ticket_code ticketcode ticket_id ticketid ticket barcode barcodes bar_code strichcode qr qr_code qrcode qr-code secret ticket_secret ticket_number ticketnumber number nummer ticketnummer id uuid'.split(
    ' ',
  ),
);
/** Matches `#REF!`, `#N/A`, `#DIV/0!`, `#WERT!`, `Err:502`: a spreadsheet's errors, in any language. */
const SPREADSHEET_ERROR =
  /^(#[¡¿]?\p{L}[\p{L}\p{N}_ /]{0,24}[!?]|#\p{L}{1,8}\/\p{L}|#(nv|null|num|name|ref|value|spill|calc|field|blocked|unknown|busy|connect|getting_data|wert|bezug|zahl)|err:\s?\d{1,4})$/iu;
/** Matches `1.00E+11`, `1,5E11`: a number that a spreadsheet shortened. A point or a sign must be there: hexadecimal codes have an E too. */
const SHORTENED = /^[+-]?(\d+[.,]\d*E[+-]?\d{1,3}|\d+E[+-]\d{1,3})$/i;
/** Matches `123456789012.0`: a number, not a text. */
const WITH_FRACTION = /^[+-]?\d+[.,]0+$/;

/** `2026-07-01`, `01/07/2026`, `1.7.2026`, `01-Jul-26`, `20:15:00`: a spreadsheet takes much for a date or a time. */
const DAY = '(0?[1-9]|[12]\\d|3[01])';
const MONTH = '(0?[1-9]|1[0-2])';
const DATE_OR_TIME = new RegExp(
  `^(\\d{4}([-/.])${MONTH}\\2${DAY}|(${DAY}([-/.])${MONTH}|${MONTH}([-/.])${DAY})[-/.](19|20)\\d\\d|${DAY}[- ](jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[- ](\\d{2}|\\d{4})|([01]?\\d|2[0-3]):[0-5]\\d(:[0-5]\\d)?)$`,
);

const EXPORT_AGAIN = 'format the column as text in the spreadsheet, and export it again';

/** Returns the problem of a text that is no code; null: it may be one. Does not judge how well it can be guessed, except by `tooPlain`. */
export function notACode(code: string): FieldProblem | null {
  const bare = code.trim().toLowerCase();
  const bad = (what: string, hint: string): FieldProblem => ({ field: 'code', what, hint });
  if (SPREADSHEET_ERROR.test(bare)) return bad("is a spreadsheet's error, not a code", 'correct the formula, and export it again');
  if (SHORTENED.test(bare)) return bad('is a number in E-notation: a spreadsheet took its digits away', EXPORT_AGAIN);
  if (WITH_FRACTION.test(bare)) return bad('is a number with a fraction: a spreadsheet changed it', EXPORT_AGAIN);
  if (DATE_OR_TIME.test(bare)) return bad('is a date or a time: a spreadsheet changed it', EXPORT_AGAIN);
  if (HEADERS.has(bare.replace(/[\s-]+/g, '_')) || HEADERS.has(bare)) return bad("is a column's name: a header stands among the tickets", 'remove the line');
  const plain = bare.replace(/^[\s([{<"'*]+|[\s)\]}>"'*]+$/g, '').replace(/[\s_]+/g, '-');
  if (PLACEHOLDERS.has(plain) || /^[\p{P}\p{S}\s]*$/u.test(bare)) return bad('stands for "no code"', "leave the field empty, or write the ticket's code");
  return null;
}

/** Returns the problem of a code that is too plain even where weak codes are accepted; null: it is not. */
export function tooPlain(code: string): FieldProblem | null {
  if (recogniseCode(code).form !== 'opaque') return null;
  if ([...code].length < MIN_CODE_CHARS)
    return { field: 'code', what: `has fewer than ${MIN_CODE_CHARS} characters, and can be guessed at once`, hint: 'issue longer random codes' };
  if (repeats(code)) return { field: 'code', what: 'repeats itself, and can be guessed at once', hint: 'issue random codes' };
  return null;
}

/** Matches one repeated piece, such as `00000000` or `ABABABAB`. */
function repeats(code: string): boolean {
  for (let size = 1; size * MIN_REPEATS <= code.length; size++) {
    let same = size;
    while (same < code.length && code[same] === code[same - size]) same++;
    if (same === code.length) return true;
  }
  return false;
}

export interface ZeroWatch {
  look(code: string, line: number): void;
  /** Returns the warning, with the first line; null: no sign of lost zeros. */
  warning(): { readonly line: number; readonly text: string } | null;
}

/** Checks all codes of a file: where all are digits, some are shorter and none begins with 0, leading zeros were lost. */
export function watchZeros(): ZeroWatch {
  const lengths = new Map<number, { count: number; line: number }>();
  let [other, leading] = [false, false];
  return {
    look(code, line) {
      if (other || leading) return;
      if (!/^\d+$/.test(code)) other = true;
      else if (code.startsWith('0')) leading = true;
      else {
        const known = lengths.get(code.length);
        if (known === undefined) lengths.set(code.length, { count: 1, line });
        else known.count += 1;
      }
    },
    warning() {
      if (other || leading || lengths.size < 2) return null;
      const full = Math.max(...lengths.keys());
      const short = [...lengths].filter(([length]) => length < full);
      const count = short.reduce((sum, [, one]) => sum + one.count, 0);
      const line = Math.min(...short.map(([, one]) => one.line));
      return {
        line,
        text: `code: ${count} codes have fewer digits than the ${full} of the others, and none begins with 0: did a spreadsheet take leading zeros away? Such a code never opens: ${EXPORT_AGAIN}`,
      };
    },
  };
}
