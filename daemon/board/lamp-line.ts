/** A lane's outputs in one line of text, for people who watch a simulated lane. Pure. */
import type { OutputName } from '../ports.ts';

const LAMPS = ['green', 'amber', 'red'] as const;

/** Draws the lamps in a line, such as `in: green, open | out: red | buzzer`. Directions without anything lit say `dark`. */
export function drawLamps(outputs: ReadonlyMap<OutputName, boolean>): string {
  const parts = (['in', 'out'] as const).flatMap((direction) => {
    if (!LAMPS.some((lamp) => outputs.has(`${lamp}_${direction}`)) && !outputs.has(`release_${direction}`)) return [];
    const lit: string[] = LAMPS.filter((lamp) => outputs.get(`${lamp}_${direction}`));
    if (lit.length === 0) lit.push('dark');
    if (outputs.get(`release_${direction}`)) lit.push('open');
    return [`${direction}: ${lit.join(', ')}`];
  });
  if (outputs.get('stop')) parts.push('stop');
  if (outputs.get('buzzer')) parts.push('buzzer');
  return parts.join(' | ');
}
