/**
 * Extracts values from a long JSON text while it arrives, without holding or parsing the whole: a site's ledger of a day must not
 * block the loop that drives the relays. Returns values as bytes; the caller parses and checks them.
 */

export interface JsonItems {
  /** Takes the next bytes. Returns the values that end in them. Throws on a value that is too large or on invalid JSON. */
  push(chunk: Uint8Array): readonly JsonItem[];
  /** Throws when the text ended early. */
  end(): void;
}
export interface JsonItem {
  readonly path: string;
  readonly bytes: Uint8Array;
}

/** Deepest nesting; a deeper text is refused. The cloud's answers have 8. */
const MAX_DEPTH = 64;
const MAX_KEY_BYTES = 128;

const [QUOTE, BACKSLASH, COMMA, COLON, OPEN_OBJECT, CLOSE_OBJECT, OPEN_ARRAY, CLOSE_ARRAY] = [0x22, 0x5c, 0x2c, 0x3a, 0x7b, 0x7d, 0x5b, 0x5d];

/**
 * Extracts the values at `paths`: keys joined by dots, `*` for every element of an array: `more`, `rows.*`, `manifest.overlays.*`.
 * Throws on a value above `maxItemBytes`.
 */
export function createJsonItems(paths: readonly string[], maxItemBytes: number): JsonItems {
  const wanted = new Set(paths);
  /** Open containers: the path of their values, and whether a key comes next. */
  const stack: { readonly array: boolean; readonly path: string; key: string | null }[] = [];
  let capture: { readonly path: string; readonly depth: number; readonly scalar: boolean; parts: Uint8Array[]; size: number; from: number } | null = null;
  let inString: 'key' | 'value' | null = null;
  let escaped = false;
  let key: number[] = [];
  let begun = false;
  let inScalar = false;
  let over = false;

  const pathHere = (): string => {
    const top = stack.at(-1);
    if (top === undefined) return '';
    const last = top.array ? '*' : (top.key ?? '');
    return top.path === '' ? last : `${top.path}.${last}`;
  };
  const bad = (why: string): never => {
    throw new Error(`the answer is not valid JSON: ${why}`);
  };

  return {
    push(chunk) {
      const items: JsonItem[] = [];
      const keep = (upto: number) => {
        if (capture === null) return;
        capture.size += upto - capture.from;
        if (capture.size > maxItemBytes) bad(`a value at ${capture.path} has more than ${maxItemBytes} bytes`);
        capture.parts.push(chunk.subarray(capture.from, upto));
      };
      const finish = (upto: number) => {
        if (capture === null) return;
        keep(upto);
        items.push({ path: capture.path, bytes: Buffer.concat(capture.parts) });
        capture = null;
      };
      const begin = (at: number, scalar: boolean) => {
        begun = true;
        if (capture !== null) return;
        const path = pathHere();
        if (wanted.has(path)) capture = { path, depth: stack.length, scalar, parts: [], size: 0, from: at };
      };
      if (capture !== null) (capture as { from: number }).from = 0;
      for (let i = 0; i < chunk.length; i++) {
        const c = chunk[i] as number;
        if (inString !== null) {
          if (escaped) escaped = false;
          else if (c === BACKSLASH) escaped = true;
          else if (c === QUOTE) {
            const top = stack.at(-1);
            if (inString === 'key' && top !== undefined) top.key = Buffer.from(key).toString('utf8');
            inString = null;
            continue;
          }
          if (inString === 'key') {
            key.push(c);
            if (key.length > MAX_KEY_BYTES) bad('a key is too long');
          }
          continue;
        }
        if (c === 0x20 || c === 0x0a || c === 0x0d || c === 0x09) {
          if (capture?.scalar && capture.depth === stack.length) finish(i);
          continue;
        }
        if (over) bad('data follows its end');
        const top = stack.at(-1);
        const within = inScalar;
        inScalar = false;
        switch (c) {
          case QUOTE:
            if (top !== undefined && !top.array && top.key === null) {
              inString = 'key';
              key = [];
            } else {
              begin(i, true);
              inString = 'value';
            }
            break;
          case OPEN_OBJECT:
          case OPEN_ARRAY: {
            begin(i, false);
            if (stack.length >= MAX_DEPTH) bad(`nested deeper than ${MAX_DEPTH}`);
            stack.push({ array: c === OPEN_ARRAY, path: pathHere(), key: null });
            break;
          }
          case CLOSE_OBJECT:
          case CLOSE_ARRAY:
            if (top === undefined || top.array !== (c === CLOSE_ARRAY)) bad('brackets do not match');
            if (capture?.scalar && capture.depth === stack.length) finish(i);
            stack.pop();
            if (capture !== null && !capture.scalar && capture.depth === stack.length) finish(i + 1);
            if (stack.length === 0) over = true;
            break;
          case COMMA:
            if (capture?.scalar && capture.depth === stack.length) finish(i);
            if (top === undefined) bad('a comma outside');
            else if (!top.array) top.key = null;
            break;
          case COLON:
            break;
          default:
            // A number, true, false, null: its first byte begins it, a delimiter ends it.
            if (stack.length === 0) bad('neither object nor array');
            if (!within) begin(i, true);
            inScalar = true;
        }
      }
      keep(chunk.length);
      return items;
    },
    end() {
      if (!begun || !over || inString !== null) bad('it ended early');
    },
  };
}
