/**
 * Generates documents from the schemas: JSON Schema for every message and body, and an AsyncAPI 3 document of the topics.
 *
 *   node contract/generate.ts           writes contract/generated/
 *   node contract/generate.ts --check   exits 1 where what is committed differs
 */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { MAX_PAYLOAD_BYTES, SCHEMA_VERSION } from './limits.ts';
import { COMMANDS, REQUEST_EXPIRY_MS } from './requests.ts';
import { REQUEST_SCHEMAS, SCHEMAS, schemaName, TOPIC_SCHEMAS } from './schemas.ts';
import { DELIVERY, TOPIC_ROOT, type Topic, topicOf } from './topics.ts';

type Json = Record<string, unknown>;

const FOLDER = fileURLToPath(new URL('generated/', import.meta.url));

const jsonSchema = (schema: z.ZodType): Json => z.toJSONSchema(schema, { io: 'input' }) as Json;

/** The purpose of each topic and its publisher. */
const TOPICS: Readonly<Record<Exclude<Topic['kind'], 'request' | 'site_request' | 'response'>, { readonly from: 'gate' | 'cloud'; readonly summary: string }>> =
  {
    state: { from: 'gate', summary: 'Online or offline; also the will' },
    info: { from: 'gate', summary: 'What the gate is: versions, hardware, boot' },
    health: { from: 'gate', summary: 'How the gate is, every 30 s, in flat numbers' },
    stats: { from: 'gate', summary: 'What happened, every 60 s' },
    ledger: { from: 'gate', summary: 'The ledger: rows in order, sent until the cloud acknowledges them' },
    handback: { from: 'gate', summary: 'Ledger messages as they were published, of rows that the cloud lost' },
    event: { from: 'gate', summary: 'Live copy for tools; may be lost' },
    alert: { from: 'gate', summary: 'One thing that is wrong; cleared by an empty payload' },
    ack: { from: 'cloud', summary: 'Which rows are committed' },
    want: { from: 'cloud', summary: 'Which manifests the gate must hold' },
    overlay: { from: 'cloud', summary: 'Changed tickets, signed' },
    lookup: { from: 'gate', summary: 'The online question about one unknown code' },
    lookup_answer: { from: 'cloud', summary: 'Facts about that code, never a grant' },
    time: { from: 'gate', summary: 'A round trip for the clock offset' },
    time_answer: { from: 'cloud', summary: "The cloud's clock at arrival and departure" },
    cloud_state: { from: 'cloud', summary: "The cloud's own state; also its will" },
  };

/** Returns the address of a kind, with the names of its parts in braces. Built by topicOf, so there is no second table. */
function address(kind: Topic['kind'], command?: (typeof COMMANDS)[number]): string {
  const marks = { gate: 'SITE/GATE', site: 'SITE', alert: 'ALERT', host: 'HOST', n: 0, command: command ?? 'open' };
  return topicOf({ kind, ...marks } as Topic)
    .replace('SITE', '{site}')
    .replace('GATE', '{gate}')
    .replace('ALERT', '{alert}')
    .replace('HOST', '{host}')
    .replace(/\/0$/, '/{n}');
}

const PARAMETERS: Readonly<Record<string, string>> = {
  site: 'The site: 1 to 31 of a-z, 0-9 and -',
  gate: "The gate within its site; `cloud` is the cloud's own ledger",
  alert: 'board, disk, clock, manifest, uplink, fire, tamper, forced, stuck, ledger, clone, or reader-<name>',
  host: 'A host of the cloud',
  n: "The question's number",
};

function channel(where: string, message: string, summary: string): Json {
  const names = [...where.matchAll(/\{(\w+)\}/g)].map(([, name]) => name as string);
  return {
    address: where,
    summary,
    parameters: Object.fromEntries(names.map((name) => [name, { description: PARAMETERS[name] }])),
    messages: { [message]: { $ref: `#/components/messages/${message}` } },
  };
}

/** `send` and `receive` as the gate sees them. */
function operation(id: string, message: string, from: 'gate' | 'cloud', kind: Topic['kind'], expiryS: number | undefined): Json {
  const { qos, retain } = DELIVERY[kind];
  return {
    action: from === 'gate' ? 'send' : 'receive',
    channel: { $ref: `#/channels/${id}` },
    messages: [{ $ref: `#/channels/${id}/messages/${message}` }],
    bindings: { mqtt: { qos, retain, ...(expiryS === undefined ? {} : { messageExpiryInterval: expiryS }), bindingVersion: '0.2.0' } },
  };
}

/** Returns AsyncAPI 3 of every topic, from the gate's side. */
export function asyncApi(): Json {
  const [channels, operations, messages, schemas]: [Json, Json, Json, Json] = [{}, {}, {}, {}];
  const add = (id: string, message: string, kind: Topic['kind'], where: string, from: 'gate' | 'cloud', summary: string, expiryS = DELIVERY[kind].expiry_s) => {
    channels[id] = channel(where, message, summary);
    operations[id] = operation(id, message, from, kind, expiryS);
    messages[message] = { name: message, contentType: 'application/json', payload: { $ref: `#/components/schemas/${message}` } };
  };
  const schemaOf = (name: string, schema: z.ZodType) => {
    const { $schema: _dialect, ...rest } = jsonSchema(schema);
    schemas[name] = rest;
  };
  for (const [kind, { from, summary }] of Object.entries(TOPICS) as [keyof typeof TOPICS, (typeof TOPICS)[keyof typeof TOPICS]][]) {
    const name = schemaName(kind);
    add(name, name, kind, address(kind), from, summary);
    schemaOf(name, TOPIC_SCHEMAS[kind]);
  }
  schemaOf('response', TOPIC_SCHEMAS.response);
  for (const command of COMMANDS) {
    const name = `request-${command}`;
    const expiryS = REQUEST_EXPIRY_MS[command] / 1000;
    add(name, name, 'request', address('request', command), 'cloud', `Command ${command}, for one gate`, expiryS);
    add(`site-${name}`, name, 'site_request', address('site_request', command), 'cloud', `Command ${command}, for every gate of a site`, expiryS);
    add(`response-${command}`, 'response', 'response', address('response', command), 'gate', `The answer to ${command}`);
    schemaOf(name, REQUEST_SCHEMAS[name] as z.ZodType);
  }
  return {
    asyncapi: '3.0.0',
    info: {
      title: 'Stile',
      version: `${SCHEMA_VERSION}.0.0`,
      description: `What gates and cloud say to each other over MQTT 3.1.1 or 5, under ${TOPIC_ROOT}/. Payloads are UTF-8 JSON of at most ${MAX_PAYLOAD_BYTES} bytes. Written from the gate's side: it sends what gates publish.`,
    },
    defaultContentType: 'application/json',
    channels,
    operations,
    components: { messages, schemas },
  };
}

/** Returns every generated file, by name, with its text. */
export function generate(): ReadonlyMap<string, string> {
  const files = new Map<string, string>();
  const text = (document: Json) => `${JSON.stringify(document, null, 2)}\n`;
  for (const [name, schema] of Object.entries(SCHEMAS)) files.set(`${name}.schema.json`, text({ title: name, ...jsonSchema(schema) }));
  files.set('asyncapi.json', text(asyncApi()));
  return files;
}

/** Returns the names of the files that are missing, differ or are left over. */
export function differences(folder = FOLDER): readonly string[] {
  const wanted = generate();
  const there = new Set(readNames(folder));
  const wrong = [...wanted].filter(([name, text]) => !there.has(name) || readFileSync(`${folder}${name}`, 'utf8') !== text).map(([name]) => name);
  return [...wrong, ...[...there].filter((name) => !wanted.has(name))];
}

function readNames(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

function main(args: readonly string[]): number {
  if (args.includes('--check')) {
    const wrong = differences();
    for (const name of wrong) console.error(`contract/generated/${name} is not what the schemas say: run node contract/generate.ts and commit`);
    return wrong.length === 0 ? 0 : 1;
  }
  rmSync(FOLDER, { recursive: true, force: true });
  mkdirSync(FOLDER, { recursive: true });
  for (const [name, text] of generate()) writeFileSync(`${FOLDER}${name}`, text);
  return 0;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exitCode = main(process.argv.slice(2));
