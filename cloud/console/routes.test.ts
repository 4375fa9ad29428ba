import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type App, createHttp } from '../http/server.ts';
import { SILENT } from '../log.ts';
import { createMetrics } from '../metrics.ts';
import { registerConsole } from './routes.ts';

let app: App;
beforeAll(async () => {
  app = await createHttp({
    log: SILENT,
    metrics: createMetrics(),
    version: '0',
    identify: async () => null,
    readiness: async () => ({}),
    deviceNameHeader: null,
    trustedProxies: [],
    ratePerMinute: 100,
  });
  registerConsole(app);
});
afterAll(() => app.close());

test('the page and its parts come without a token, run nothing from elsewhere, and are no part of the interface', async () => {
  const page = await app.inject('/console');
  expect([page.statusCode, page.headers['content-type']]).toEqual([200, 'text/html; charset=utf-8']);
  const parts = [...page.body.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, url]) => url).filter((url) => !url?.startsWith('data:'));
  expect(parts).toEqual(['console/page.css', 'console/page.js']);
  for (const part of parts) {
    const answer = await app.inject(`/${part}`);
    expect([answer.statusCode, answer.headers['x-content-type-options']], part).toEqual([200, 'nosniff']);
    expect(answer.headers['content-security-policy'], part).toMatch(/default-src 'none'; script-src 'self'/);
  }
  // Inline parts would be stopped by the policy.
  expect(page.body).not.toMatch(/ on[a-z]+=|style=|<script>|<style>/);
  expect((await app.inject('/openapi.json')).body).not.toContain('/console');
});

test('text from outside is never set as HTML', () => {
  const script = readFileSync(join(import.meta.dirname, 'page/page.js'), 'utf8');
  expect(script).not.toMatch(/innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(/);
});
