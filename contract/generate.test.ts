import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { asyncApi, differences, generate } from './generate.ts';
import { COMMANDS } from './requests.ts';
import { SCHEMAS } from './schemas.ts';
import { DELIVERY } from './topics.ts';

test('the committed files are those of the schemas (else: node contract/generate.ts)', () => {
  expect(differences()).toEqual([]);
});

test('a changed, a missing and a left-over file are told', () => {
  const folder = mkdtempSync(join(tmpdir(), 'stile-generated-'));
  try {
    for (const [name, text] of generate()) writeFileSync(join(folder, name), text);
    expect(differences(`${folder}/`)).toEqual([]);
    writeFileSync(join(folder, 'state.schema.json'), '{}\n');
    writeFileSync(join(folder, 'old.schema.json'), '{}\n');
    rmSync(join(folder, 'ack.schema.json'));
    expect([...differences(`${folder}/`)].sort()).toEqual(['ack.schema.json', 'old.schema.json', 'state.schema.json']);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('every schema has its document', () => {
  expect([...generate().keys()].sort()).toEqual(['asyncapi.json', ...Object.keys(SCHEMAS).map((name) => `${name}.schema.json`)].sort());
});

test('the AsyncAPI document refers only to what it holds, and leaves no topic out', () => {
  const document = asyncApi();
  const resolve = (pointer: string) =>
    pointer
      .slice(2)
      .split('/')
      .reduce<unknown>((at, key) => (at as Record<string, unknown> | undefined)?.[key], document);
  const references = [...JSON.stringify(document).matchAll(/"\$ref":"(#[^"]*)"/g)].map(([, pointer]) => pointer as string);
  expect(references.length).toBeGreaterThan(100);
  for (const pointer of references) expect(resolve(pointer), pointer).toBeDefined();
  const { channels, operations } = document as {
    channels: Record<string, { address: string; parameters: Record<string, unknown> }>;
    operations: Record<string, { action: string }>;
  };
  expect(Object.keys(operations)).toEqual(Object.keys(channels));
  // Three channels a command stand for request, site_request and response.
  expect(Object.keys(channels)).toHaveLength(Object.keys(DELIVERY).length - 3 + 3 * COMMANDS.length);
  for (const { address, parameters } of Object.values(channels)) {
    expect(address).toMatch(/^stile\/1\/[a-z{}_/-]+$/);
    expect([...address.matchAll(/\{(\w+)\}/g)].map(([, name]) => name)).toEqual(Object.keys(parameters));
  }
  expect(channels['want']?.address).toBe('stile/1/{site}/{gate}/manifest/want');
  expect(channels['time-answer']?.address).toBe('stile/1/{site}/{gate}/time/{n}');
  expect([operations['ledger']?.action, operations['ack']?.action]).toEqual(['send', 'receive']);
});
