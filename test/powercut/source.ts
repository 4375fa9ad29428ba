/** A source file of the checkout, by its path from the root. */
import { readFileSync } from 'node:fs';

export const sourceOf = (file: string): string => readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8');
