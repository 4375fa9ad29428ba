/** Draws codes as QR on one sheet, for trying gates: SVG, HTML or PNG. The only file that imports qrcode. */
import { crc32, deflateSync } from 'node:zlib';
import QRCode from 'qrcode';

/** Codes on one sheet; more are refused. */
export const MAX_SHEET_CODES = 1_000;
/** Free modules around a code: four, as the standard says. */
const QUIET_MODULES = 4;
const LABEL_MODULES = 6;
/** Pixels of a module in a PNG. */
const PIXELS_PER_MODULE = 6;
const ALPHANUMERIC = /^[0-9A-Z $%*+\-./:]+$/;

export interface SheetCode {
  /** Printed under the code; PNG has no text. */
  readonly label: string;
  readonly code: string;
}
export type SheetFormat = 'svg' | 'png' | 'html';

interface Drawn {
  readonly label: string;
  readonly size: number;
  dark(row: number, column: number): boolean;
}

/** Throws a RangeError for none or too many codes, and for a code longer than any QR. */
export function drawSheet(codes: readonly SheetCode[], format: SheetFormat, columns = 4): string | Buffer {
  if (codes.length < 1 || codes.length > MAX_SHEET_CODES) throw new RangeError(`1 to ${MAX_SHEET_CODES} codes fit on a sheet, not ${codes.length}`);
  const drawn = codes.map(draw);
  const across = Math.max(1, Math.min(columns, drawn.length));
  if (format === 'png') return png(drawn, across);
  return format === 'svg' ? svgSheet(drawn, across) : htmlSheet(drawn);
}

/** Encodes a code. Signed codes are base45: one alphanumeric segment, 5.5 bits a character. */
const create = (code: string) => QRCode.create(ALPHANUMERIC.test(code) ? [{ data: code, mode: 'alphanumeric' }] : code, { errorCorrectionLevel: 'M' });

function draw({ label, code }: SheetCode): Drawn {
  let made: ReturnType<typeof create>;
  try {
    made = create(code);
  } catch {
    // The library's message could quote the text.
    throw new RangeError(`the code of ${label} is too long for a QR`);
  }
  const { size, data } = made.modules;
  return { label, size, dark: (row, column) => data[row * size + column] === 1 };
}

/** Draws one rectangle a run of dark modules. */
function path(drawn: Drawn, left: number, top: number): string {
  const parts: string[] = [];
  for (let row = 0; row < drawn.size; row++)
    for (let column = 0; column < drawn.size; column++) {
      if (!drawn.dark(row, column)) continue;
      const from = column;
      while (column + 1 < drawn.size && drawn.dark(row, column + 1)) column++;
      parts.push(`M${left + from} ${top + row}h${column - from + 1}v1h-${column - from + 1}z`);
    }
  return parts.join('');
}

const escaped = (text: string): string => text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);
const cellOf = (drawn: readonly Drawn[]): number => Math.max(...drawn.map(({ size }) => size)) + 2 * QUIET_MODULES;
const label = (drawn: Drawn, x: number, y: number, width: number): string =>
  `<text x="${x}" y="${y}" font-size="3" font-family="monospace" text-anchor="middle" textLength="${Math.min(width, drawn.label.length * 2)}" lengthAdjust="spacingAndGlyphs">${escaped(drawn.label)}</text>`;

function svgSheet(drawn: readonly Drawn[], across: number): string {
  const cell = cellOf(drawn);
  const high = cell + LABEL_MODULES;
  const cells = drawn.map((one, n) => {
    const [left, top] = [(n % across) * cell, Math.floor(n / across) * high];
    return `<path d="${path(one, left + (cell - one.size) / 2, top + QUIET_MODULES)}"/>${label(one, left + cell / 2, top + cell + LABEL_MODULES / 2 - 1, cell - 4)}`;
  });
  const [width, height] = [across * cell, Math.ceil(drawn.length / across) * high];
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}mm" height="${height}mm" shape-rendering="crispEdges"><rect width="100%" height="100%" fill="#fff"/>${cells.join('\n')}</svg>\n`;
}

function htmlSheet(drawn: readonly Drawn[]): string {
  const figures = drawn.map((one) => {
    const cell = one.size + 2 * QUIET_MODULES;
    return `<figure><svg viewBox="0 0 ${cell} ${cell}" shape-rendering="crispEdges"><path d="${path(one, QUIET_MODULES, QUIET_MODULES)}"/></svg><figcaption>${escaped(one.label)}</figcaption></figure>`;
  });
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Test sheet</title>
<style>body{margin:8mm;background:#fff;color:#000;display:flex;flex-wrap:wrap;gap:6mm}figure{margin:0;width:42mm;break-inside:avoid;text-align:center}svg{width:42mm;height:42mm}figcaption{font:7pt monospace;overflow-wrap:anywhere}</style>
${figures.join('\n')}
</html>
`;
}

/** Encodes one bit a pixel. */
function png(drawn: readonly Drawn[], across: number): Buffer {
  const cell = cellOf(drawn);
  const [wide, high] = [across * cell, Math.ceil(drawn.length / across) * cell];
  const width = wide * PIXELS_PER_MODULE;
  const line = Math.ceil(width / 8) + 1;
  const pixels = Buffer.alloc(line * high * PIXELS_PER_MODULE, 0xff);
  for (let row = 0; row < high * PIXELS_PER_MODULE; row++) pixels[row * line] = 0;
  const blacken = (row: number, column: number) => {
    for (let y = row * PIXELS_PER_MODULE; y < (row + 1) * PIXELS_PER_MODULE; y++)
      for (let x = column * PIXELS_PER_MODULE; x < (column + 1) * PIXELS_PER_MODULE; x++) {
        const at = y * line + 1 + (x >> 3);
        pixels[at] = (pixels[at] as number) & ~(0x80 >> (x & 7));
      }
  };
  for (const [n, one] of drawn.entries()) {
    const [top, left] = [Math.floor(n / across) * cell + QUIET_MODULES, (n % across) * cell + Math.floor((cell - one.size) / 2)];
    for (let row = 0; row < one.size; row++) for (let column = 0; column < one.size; column++) if (one.dark(row, column)) blacken(top + row, left + column);
  }
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width, 0);
  head.writeUInt32BE(high * PIXELS_PER_MODULE, 4);
  // One bit of grey, no interlacing.
  head.set([1, 0, 0, 0, 0], 8);
  return Buffer.concat([Buffer.from('89504e470d0a1a0a', 'hex'), chunk('IHDR', head), chunk('IDAT', deflateSync(pixels)), chunk('IEND', Buffer.alloc(0))]);
}

function chunk(type: string, data: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data]);
  const size = Buffer.alloc(4);
  size.writeUInt32BE(data.length);
  const sum = Buffer.alloc(4);
  sum.writeUInt32BE(crc32(body));
  return Buffer.concat([size, body, sum]);
}
