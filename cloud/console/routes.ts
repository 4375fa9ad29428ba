/**
 * Serves the operators' page at /console: three files that hold no data. The page uses the operator's token for its requests, so it can do no more
 * than its operator.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { App } from '../http/server.ts';

const FILES = [
  { url: '/console', file: 'index.html', type: 'text/html; charset=utf-8' },
  { url: '/console/page.css', file: 'page.css', type: 'text/css; charset=utf-8' },
  { url: '/console/page.js', file: 'page.js', type: 'text/javascript; charset=utf-8' },
] as const;

/** Allows nothing from elsewhere, nothing inline, no frame: a text that slipped through as HTML still runs nothing. */
const HEADERS = {
  'content-security-policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cache-control': 'no-cache',
} as const;

/** Finds the page: in a checkout beside this file, in a bundle beside the program. Throws where it is in neither. */
function pageFolder(): string {
  const folder = [join(import.meta.dirname, 'page'), join(import.meta.dirname, 'console')].find((path) => existsSync(join(path, 'index.html')));
  if (folder === undefined) throw new Error(`the console's files are not beside the program (${import.meta.dirname}): install it again`);
  return folder;
}

/** Registers the page; its files are read once, now. */
export function registerConsole(app: App): void {
  const folder = pageFolder();
  for (const { url, file, type } of FILES) {
    const body = readFileSync(join(folder, file));
    app.get(url, { config: { who: 'open', unlimited: true }, schema: { hide: true } }, (_request, reply) => reply.headers(HEADERS).type(type).send(body));
  }
}
