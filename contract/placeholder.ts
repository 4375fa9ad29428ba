/** Finds placeholders of a document's example in settings: left as printed, everything starts and nothing arrives. */

/** Names that RFC 2606 and RFC 6761 reserve for examples: no machine ever has one. */
const EXAMPLE_HOST = /(?:^|\.)(?:example(?:\.(?:com|net|org))?|invalid)\.?$/i;
/** Matches `…` anywhere; three dots as a whole part; `<name>`. */
const GAP = /…|(?<=^|[/:@=])\.{3}(?=$|[/:@?&])|<[^<>]*>/;

/** Returns the part of a setting that is still a placeholder, or null. Checks a URL's host too. */
export function placeholderIn(value: string): string | null {
  const gap = GAP.exec(value)?.[0];
  if (gap !== undefined) return gap;
  const host = URL.canParse(value) ? new URL(value).hostname : '';
  return EXAMPLE_HOST.test(host) ? host : null;
}
