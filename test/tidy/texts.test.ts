/** T12: texts are cut by `cutText` (contract/text.ts), which never cuts within a character. What cuts otherwise stands here, with what it cuts. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const PRODUCT = ['contract', 'rules', 'signing', 'manifest-format', 'runtime', 'daemon', 'cloud', 'deploy'];
/** A cut at a length: at a number, a bound by name, or a width. A cut at a place that was found (an end of line, a colon) is none. */
const CUT = /\.(?:slice\(0, (?:\d+|[A-Z][A-Z_]+|[^)]*(?:[Mm]ax|[Ll]imit|[Ww]idth)\w*[^)]*)\)|substring\(|substr\()/;
/** What is cut where it is no text, or one that is ASCII by its making: how the line reads up to the cut. */
const NO_TEXT: readonly (readonly [what: string, before: RegExp])[] = [
  ['a list that is made there', /(?:\]|=== null\)|\.(?:filter|map|flatMap|sort|toSorted)\(.*\))$/],
  [
    'a list by its name',
    /\b(?:names|lines|keys|values|issues|ranges|refs|columns|waiting|clones|breaks|revoked|later|problems|rows|items|entries|spans|groups|found)$/,
  ],
  ['hexadecimal or Base64', /(?:\bhex|digest\('\w+'\))$/],
  ['the time of a UTC date', /(?:toISOString\(\)|toTimeString\(\)|(?:\b|_)at\??|\bsince\??|\buntil|\.ts\))$/],
  ['a UUID', /\bsession$/],
];
/** By file: how a line begins, and what is cut there. */
const ALLOWED: readonly (readonly [file: string, line: string, what: string])[] = [
  ['contract/identity.ts', 'return `', 'a hash in hexadecimal'],
  ['runtime/build-info.ts', 'return (ref === undefined', 'a commit in hexadecimal'],
  ['cloud/cli/ledger-import.ts', '.slice(0, MAX_NAMED)', 'a list'],
  ['cloud/config.ts', ".slice(0, 64) || 'cloud'", 'a name of a-z, 0-9 and -'],
  ['cloud/console/page/page.js', '.slice(0, MAX_SHOWN)', 'a list'],
  ['cloud/http/server.ts', '.slice(0, MAX_NAMED_PROBLEMS)', 'a list'],
  ['daemon/store/row-copy.ts', 'if (line.length < 10', 'a checksum in hexadecimal'],
  ['cloud/scan/offline-request.ts', 'return `', 'digits'],
  ['runtime/safe-file.ts', 'const part = join(within', 'a name that nobody reads, for a moment'],
  ['cloud/manifest/json-manifest.ts', '.slice(0, 27)}"`', 'Base64'],
  ['daemon/gate/commands.ts', 'return ok({ rows, ranges', 'a list'],
  ['cloud/cli/gates.ts', 'const explained = found', 'a list'],
  ['cloud/cli/gates.ts', '.slice(0, MAX_SUGGESTED)', 'a list'],
  // biome-ignore lint/suspicious/noTemplateCurlyInString: the line as it stands in the source.
  ['cloud/scan/offline-request.ts', 'return `${year}-${month}', 'digits'],
  ['deploy/deb.ts', 'export const debianVersion', 'digits'],
  ['deploy/third-party.ts', 'serialNumber: `urn:uuid', 'digits'],
  ['cloud/scan/pending-scans.ts', 'const kept = items', 'a list'],
];

function* sources(folder: string): Generator<string> {
  for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory() && entry.name !== 'node_modules' && entry.name !== 'testing') yield* sources(path);
    else if (/\.(?:ts|js)$/.test(entry.name) && !/\.test\.ts$/.test(entry.name)) yield path;
  }
}
const cutsIn = (text: string) =>
  text.split('\n').flatMap((line, at) => {
    const cut = /^\s*(?:\*|\/\/|\/\*)/.test(line) ? null : CUT.exec(line);
    return cut === null || NO_TEXT.some(([, before]) => before.test(line.slice(0, cut.index))) ? [] : [{ line: line.trim(), at: at + 1 }];
  });

test('T12: no text of the product is cut within a character', () => {
  const found = PRODUCT.flatMap((folder) => [...sources(folder)]).flatMap((file) =>
    cutsIn(readFileSync(join(root, file), 'utf8'))
      .filter(({ line }) => !ALLOWED.some(([path, begins]) => path === file && line.startsWith(begins)))
      .map(({ line, at }) => `${file}:${at}: ${line}`),
  );
  expect(found, 'cut it with cutText of contract/text.ts, or say in ALLOWED what it is, where it is no text').toEqual([]);
});

test.each([
  'note.slice(0, 128)',
  'why.slice(0, MAX_DETAIL_CHARS)',
  'text.substring(0, end)',
  'text.substr(1)',
  'text.slice(0, width - 1)',
  'text.slice(0, maxChars)',
])('T12: %s would be found', (line) => {
  expect(cutsIn(`const cut = ${line};`)).toHaveLength(1);
});
