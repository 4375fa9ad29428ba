/** Finds what a document's example leaves for a person to fill in: kept as printed, everything starts and nothing arrives. */

/** Names that RFC 2606 and RFC 6761 keep for examples: no machine will ever answer to one. */
const EXAMPLE_HOST = /(?:^|\.)(?:example(?:\.(?:com|net|org))?|invalid)\.?$/i;
/** `…` anywhere; three dots that stand for a whole part; `<name>`. */
const GAP = /…|(?<=^|[/:@=])\.{3}(?=$|[/:@?&])|<[^<>]*>/;

/** Answers the piece of a setting that was left as an example shows it, or null. A URL's host is looked at as well. */
export function placeholderIn(value: string): string | null {
  const gap = GAP.exec(value)?.[0];
  if (gap !== undefined) return gap;
  const host = URL.canParse(value) ? new URL(value).hostname : '';
  return EXAMPLE_HOST.test(host) ? host : null;
}
