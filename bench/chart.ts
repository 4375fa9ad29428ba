/**
 * Lines over time as a plain SVG, panels below each other, for the soaks. A page of code; the chart libraries looked at (uPlot, chart.js,
 * d3) draw in a browser or bring a hundred times as much.
 */

export interface Series {
  readonly name: string;
  /** [seconds, value]; a value that is no number leaves a gap. */
  readonly points: readonly (readonly [number, number])[];
}

export interface Panel {
  /** What is measured, with its unit. */
  readonly title: string;
  readonly series: readonly Series[];
}

const WIDTH = 960;
const PANEL_HEIGHT = 150;
const LEFT = 64;
const RIGHT = 16;
const TOP = 26;
const GAP = 40;
const LINE_HEIGHT = 16;
/** Points of a line; of more, the largest of each stretch is drawn: peaks must stay. */
const MAX_POINTS = 600;
const COLOURS = ['#1f5fa8', '#c2571a', '#3b7d3b'];
const DASHES = ['', '6 3', '2 3'];

const inXml = (text: string) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');

/** The next 1, 2 or 5 times a power of ten. */
function roundUp(value: number): number {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-9)));
  return ([1, 2, 5, 10].find((step) => step * power >= value) ?? 10) * power;
}

function thinned(points: Series['points']): Series['points'] {
  const stretch = Math.ceil(points.length / MAX_POINTS);
  if (stretch <= 1) return points;
  return Array.from({ length: Math.ceil(points.length / stretch) }, (_, index) =>
    points.slice(index * stretch, (index + 1) * stretch).reduce((most, point) => (point[1] > most[1] ? point : most)),
  );
}

/** The picture as text. `caption`: what was run, on what; its lines stand at the foot. */
export function chart(title: string, panels: readonly Panel[], caption: string): string {
  const foot = caption.split('\n');
  const height = TOP + 20 + panels.length * (PANEL_HEIGHT + GAP) + 14 + foot.length * LINE_HEIGHT;
  const endS = Math.max(1, ...panels.flatMap(({ series }) => series.flatMap(({ points }) => points.map(([s]) => s))));
  const x = (s: number) => LEFT + (s / endS) * (WIDTH - LEFT - RIGHT);
  const out = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="sans-serif" font-size="12" fill="#222">`,
    `<title>${inXml(title)}</title>`,
    `<rect width="${WIDTH}" height="${height}" fill="#fff"/>`,
    `<text x="${LEFT}" y="${TOP}" font-size="16">${inXml(title)}</text>`,
  ];
  for (const [index, panel] of panels.entries()) {
    const top = TOP + 36 + index * (PANEL_HEIGHT + GAP);
    const most = roundUp(Math.max(1e-6, ...panel.series.flatMap(({ points }) => points.map(([, value]) => value).filter(Number.isFinite))));
    const y = (value: number) => top + PANEL_HEIGHT - (Math.max(0, value) / most) * PANEL_HEIGHT;
    for (const part of [0, 0.5, 1]) {
      const at = y(most * part);
      out.push(
        `<path d="M${LEFT} ${at}H${WIDTH - RIGHT}" stroke="#ddd"/>`,
        `<text x="${LEFT - 6}" y="${at + 4}" text-anchor="end">${+(most * part).toPrecision(3)}</text>`,
      );
    }
    for (const part of [0, 0.25, 0.5, 0.75, 1])
      out.push(
        `<text x="${x(endS * part)}" y="${top + PANEL_HEIGHT + 15}" text-anchor="${part === 1 ? 'end' : 'middle'}" fill="#666">${((endS * part) / 60).toFixed(1)} min</text>`,
      );
    out.push(`<text x="${LEFT}" y="${top - 6}">${inXml(panel.title)}</text>`);
    for (const [n, { name, points }] of panel.series.entries()) {
      const drawn = thinned(points).filter(([, value]) => Number.isFinite(value));
      const path = drawn.map(([s, value], at) => `${at === 0 ? 'M' : 'L'}${x(s).toFixed(1)} ${y(value).toFixed(1)}`).join('');
      out.push(`<path d="${path}" fill="none" stroke="${COLOURS[n % 3]}" stroke-dasharray="${DASHES[n % 3]}" stroke-width="1.4"/>`);
      out.push(
        `<text x="${WIDTH - RIGHT - (panel.series.length - 1 - n) * 130}" y="${top - 6}" text-anchor="end" fill="${COLOURS[n % 3]}">${inXml(name)}</text>`,
      );
    }
  }
  for (const [n, line] of foot.entries())
    out.push(`<text x="${LEFT}" y="${height - 10 - (foot.length - 1 - n) * LINE_HEIGHT}" fill="#666">${inXml(line)}</text>`);
  out.push('</svg>', '');
  return out.join('\n');
}
