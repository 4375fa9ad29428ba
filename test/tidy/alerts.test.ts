/** Every alert of the contract is raised by the product, cleared where it can end, and documented; nothing else is raised. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { ALERT_IDS } from '../../contract/messages.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const READERS = 'reader-<name>';
/** Alerts that the cloud raises (cloud/db): an operator clears them by `POST /gates/:site/:gate/alerts/:alert/clear`. */
const BY_CLOUD = ['clone', 'ledger'];

function sourcesBelow(folder: string, suffix: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith(suffix) && !name.includes('.test.') && !/(^|\/)testing\//.test(name))
    .map((name) => readFileSync(join(root, folder, name), 'utf8'));
}
const sorted = (ids: Iterable<string>) => [...new Set(ids)].sort();

/** Returns the ids that a text raises or clears by name: as an outcome or an effect, or by a call. */
function named(verb: 'raise' | 'clear', text: string): string[] {
  const byName = text.matchAll(new RegExp(`kind: '${verb}',\\s*alert: '([^']+)'|\\b${verb}\\(\\s*'([^']+)'`, 'g'));
  const ids = [...byName].map(([, asData, byCall]) => (asData ?? byCall) as string);
  // The one that is no literal: `reader-<name>`.
  if (/alert = `reader-\$\{[^}]+\}` as const/.test(text) && new RegExp(`kind: '${verb}', alert[,} ]`).test(text)) ids.push(READERS);
  return ids;
}
/** Returns the ids that a SQL function writes as the cloud's own. */
const raisedBySql = (text: string): string[] =>
  text.includes('INSERT INTO device_alerts') && text.includes('by_cloud') ? [...text.matchAll(/, '([a-z-]+)', true,/g)].map(([, id]) => id as string) : [];

const daemon = sourcesBelow('daemon', '.ts');
const sql = sourcesBelow('cloud/db/functions', '.sql');

test('every alert of the contract is raised by product code, and no other', () => {
  expect(sorted([...new Set(sql.flatMap(raisedBySql))])).toEqual(BY_CLOUD);
  expect(sorted([...daemon.flatMap((text) => named('raise', text)), ...BY_CLOUD])).toEqual(sorted([...ALERT_IDS, READERS]));
});

test('every alert that a gate raises is cleared by the gate', () => {
  expect(sorted(daemon.flatMap((text) => named('clear', text)))).toEqual(sorted(daemon.flatMap((text) => named('raise', text))));
});

test('every alert is documented, and every documented one is of the contract', () => {
  const line = /^Alert ids: ([^.]+)\./m.exec(readFileSync(join(root, 'docs/spec/LANE.md'), 'utf8'))?.[1] ?? '';
  expect(sorted(line.split(', '))).toEqual(sorted([...ALERT_IDS, READERS]));
  const route = /clears an alert that the cloud raised: ([a-z, -]+) \|/.exec(readFileSync(join(root, 'docs/spec/CONTRACT.md'), 'utf8'))?.[1] ?? '';
  expect(sorted(route.split(', '))).toEqual(BY_CLOUD);
});

test('an alert that is planted under another name is seen', () => {
  expect(named('raise', "report({ kind: 'raise', alert: 'lane-closed', severity: 'critical', message });")).toEqual(['lane-closed']);
  expect(named('raise', "options.alerts.raise('manifets', 'warning', message)")).toEqual(['manifets']);
  expect(named('clear', "turn.effects.push({ kind: 'clear', alert: 'stuk' })")).toEqual(['stuk']);
  expect(raisedBySql("INSERT INTO device_alerts (tenant_id, device, alert_id, by_cloud, alert) SELECT t, g, 'clon', true, '{}'")).toEqual(['clon']);
});
