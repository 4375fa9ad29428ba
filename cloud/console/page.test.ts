/** The page's own behaviour, run with stand-ins for the document and the network: what it keeps, and what it says of a command (FAULTS M5). */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { runInNewContext } from 'node:vm';
import { expect, test } from 'vitest';

const SCRIPT = readFileSync(join(import.meta.dirname, 'page/page.js'), 'utf8');

/** An element that takes what the page sets, and hands listeners back. */
class Stand {
  value = '';
  textContent = '';
  className = '';
  hidden = false;
  disabled = false;
  open = false;
  readonly dataset: Record<string, string> = {};
  readonly listeners = new Map<string, (event: object) => void>();
  readonly children: unknown[] = [];
  addEventListener = (name: string, listener: (event: object) => void): void => void this.listeners.set(name, listener);
  append = (...children: unknown[]): void => void this.children.push(...children);
  replaceChildren = (...children: unknown[]): void => void this.children.splice(0, this.children.length, ...children);
  querySelector = (): Stand => new Stand();
  querySelectorAll = (): readonly Stand[] => [];
  focus = (): void => undefined;
  close = (): void => undefined;
  showModal = (): void => undefined;
  scrollIntoView = (): void => undefined;
}

interface Answer {
  readonly status: number;
  readonly body: unknown;
}

/** Opens the page, signed in. `answer` is the cloud. */
interface Question {
  readonly path: string;
  readonly method: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: unknown;
}
async function openPage(answer: (path: string, method: string) => Answer | Error, how: { readonly token?: string | null; readonly confirms?: boolean } = {}) {
  const { token = 'a-token-of-anna', confirms = true } = how;
  const stored = new Map(token === null ? [] : [['stile-operator-token', token]]);
  const asked: Question[] = [];
  let timers = 0;
  const elements = new Map<string, Stand>();
  const at = (id: string): Stand => {
    const found = elements.get(id) ?? new Stand();
    elements.set(id, found);
    return found;
  };
  runInNewContext(SCRIPT, {
    document: {
      hidden: false,
      getElementById: at,
      querySelector: at,
      querySelectorAll: () => [],
      createElement: () => new Stand(),
      addEventListener: () => undefined,
    },
    sessionStorage: {
      getItem: (key: string) => stored.get(key) ?? null,
      setItem: (key: string, value: string) => void stored.set(key, value),
      removeItem: (key: string) => void stored.delete(key),
    },
    fetch: async (path: string, { method = 'GET', headers = {}, body }: { method?: string; headers?: Record<string, string>; body?: string } = {}) => {
      asked.push({ path, method, headers, body: body === undefined ? null : JSON.parse(body) });
      const given = answer(path, method);
      if (given instanceof Error) throw given;
      return { ok: given.status < 400, status: given.status, json: async () => given.body };
    },
    confirm: () => confirms,
    AbortSignal,
    Node: Stand,
    setTimeout: () => ++timers,
    clearTimeout: () => undefined,
    Date,
  });
  await settled();
  return { stored, at, asked, timers: () => timers };
}
const settled = () => new Promise((resolve) => setTimeout(resolve, 20));

async function send(answer: Answer) {
  const page = await openPage((_path, method) => (method === 'POST' ? answer : { status: 503, body: {} }));
  page.at('command-title').textContent = 'arena/north';
  page.at('command-name').value = 'refresh';
  page.at('#command form').listeners.get('submit')?.({ preventDefault: () => undefined });
  await settled();
  return page.at('command-answer');
}

test('M5: sign-out removes the token from the browser', async () => {
  const page = await openPage(() => ({ status: 503, body: {} }));
  expect(page.stored.size).toBe(1);
  page.at('sign-out').listeners.get('click')?.({});
  expect([...page.stored.keys()]).toEqual([]);
  expect(page.at('work').hidden).toBe(true);
});

test('M5: a token that opens nothing is removed as well', async () => {
  const page = await openPage(() => ({ status: 401, body: { message: 'the token has ended' } }));
  expect([...page.stored.keys()]).toEqual([]);
  expect(page.at('sign-in-problem').textContent).toBe('the token has ended');
});

test('M5: the page says of a command what became of it: done, refused by the gate, or failed on its way', async () => {
  const done = await send({ status: 200, body: { response: { status: 'ok' } } });
  expect([done.className, done.textContent]).toEqual(['good', 'The gate has done it.']);
  const refused = await send({ status: 200, body: { response: { status: 'error', error: { message: 'the lane is locked' } } } });
  expect([refused.className, refused.textContent]).toEqual(['bad', 'The gate refused: the lane is locked']);
  // Even where a body says ok: the status counts.
  const failed = await send({ status: 504, body: { message: 'the gate did not answer', response: { status: 'ok' } } });
  expect([failed.className, failed.textContent]).toEqual(['bad', 'the gate did not answer']);
});

const GATE = { gate: 'arena/north', state: 'online', mode: 'controlled', alerts: [], backlog: 0, event_ids: ['concert'], last_row_at: null };
const EVENT = { event_id: 'concert', uncertain: 0, inside: 7, entries: 9, exits: 2, free_passages: 0, overrides: 1 };
/** A cloud in which all is well, but for what a test says. */
const well =
  (over: Readonly<Record<string, Answer | Error>> = {}) =>
  (path: string): Answer | Error => {
    const of: Readonly<Record<string, unknown>> = {
      './gates': { gates: [GATE] },
      './readyz': {},
      './refusals': { refusals: [] },
      './conflicts': { conflicts: [] },
      './events/concert/occupancy': EVENT,
    };
    return over[path] ?? (path in of ? { status: 200, body: of[path] } : { status: 404, body: { message: `no ${path}` } });
  };
/** The texts of a table, cell by cell, each with its class where it has one. */
const cellsOf = (page: Awaited<ReturnType<typeof openPage>>, id: string): string[][] =>
  (page.at(`#${id} tbody`).children as Stand[]).map((row) =>
    (row.children as Stand[]).map(
      ({ children, className }) =>
        `${className === '' ? '' : `${className}: `}${children.map((child) => (child instanceof Stand ? child.children.join('') : child)).join('')}`,
    ),
  );

test('M5: the token goes with every question in a header, in no address, and is kept for this window alone', async () => {
  const page = await openPage(well(), { token: null });
  expect([page.asked, page.at('sign-in').hidden, page.at('work').hidden]).toEqual([[], false, true]);
  page.at('token').value = '  typed-token\n';
  page.at('sign-in').listeners.get('submit')?.({ preventDefault: () => undefined });
  await settled();
  expect([...page.stored]).toEqual([['stile-operator-token', 'typed-token']]);
  expect(page.at('token').value).toBe('');
  expect([page.at('sign-in').hidden, page.at('work').hidden, page.at('sign-out').hidden]).toEqual([true, false, false]);
  for (const { path, headers } of page.asked) {
    expect(path).not.toContain('typed-token');
    expect(headers['authorization']).toBe(path === './readyz' ? undefined : 'Bearer typed-token');
  }
  expect(page.asked.map(({ path }) => path)).toEqual(['./gates', './readyz', './events/concert/occupancy', './refusals', './conflicts']);
});

test('M5: a token that may not look is removed; one that may not do this one thing is kept', async () => {
  expect([...(await openPage(well({ './gates': { status: 403, body: {} } }))).stored]).toEqual([]);
  const page = await openPage((path, method) => (method === 'POST' ? { status: 403, body: { message: 'not your site' } } : well()(path)));
  page.at('command-title').textContent = 'arena/north';
  page.at('command-name').value = 'refresh';
  page.at('#command form').listeners.get('submit')?.({ preventDefault: () => undefined });
  await settled();
  expect([page.at('command-answer').className, page.at('command-answer').textContent, page.stored.size]).toEqual(['bad', 'not your site', 1]);
});

test("M5: the page shows a lane's faults as faults", async () => {
  const lane = (over: object) => ({ ...GATE, ...over });
  const gates = [
    lane({}),
    lane({ gate: 'arena/east', state: 'offline', since: '2026-05-01T10:00:00Z', mode: 'emergency', alerts: ['fire', 'disk'], backlog: 3, event_ids: [] }),
    lane({ gate: 'arena/south', state: 'revoked', since: '2026-05-01T10:00:00Z', mode: 'locked' }),
    lane({ gate: 'arena/west', state: 'never', mode: null, backlog: null }),
  ];
  const page = await openPage(well({ './gates': { status: 200, body: { gates } } }));
  const [north, east, south, west] = cellsOf(page, 'lanes') as [string[], string[], string[], string[]];
  expect(north.slice(0, 6)).toEqual(['arena/north', 'good: online', 'controlled', 'bad: ', '0', 'concert']);
  expect(east.slice(0, 6)).toEqual([
    'arena/east',
    expect.stringMatching(/^bad: offline since ./),
    'bad: emergency',
    'bad: fire, disk',
    'warn: 3',
    'warn: no event assigned',
  ]);
  expect(south.slice(1, 3)).toEqual([expect.stringMatching(/^bad: revoked since ./), 'warn: locked']);
  expect(west.slice(1, 3)).toEqual(['warn: never seen', '']);
  // A revoked gate is not missing.
  expect(page.at('news').textContent).toMatch(/^4 gates, 2 not online; as of /);
});

test('M5: counts that are not certain, and conflicts whose order is not known, say so', async () => {
  const conflict = { ticket_id: 'T-1', event_id: 'concert', cause: 'two gates', overlapping: true, loser: ['arena/south'], loser_at: null, winner: null };
  const page = await openPage(
    well({
      './events/concert/occupancy': { status: 200, body: { ...EVENT, uncertain: 2, warnings: ['the event has no end'] } },
      './conflicts': {
        status: 200,
        body: { conflicts: [conflict, { ...conflict, overlapping: false, loser_device: 'door 3', winner: ['arena/north'], winner_at: null }] },
      },
      './refusals': {
        status: 200,
        body: { refusals: [{ at: null, unmeasured: true, gate: 'arena/north', explanation: '', reason: 'invalid', ticket_id: null }] },
      },
    }),
  );
  expect(cellsOf(page, 'inside')[0]?.slice(0, 2)).toEqual(['warn: the event has no end', '7, of these 2 uncertain']);
  expect(cellsOf(page, 'conflicts').map(([, device, , cause, winner]) => [device, cause, winner])).toEqual([
    ['arena/south', 'two gates (the clocks cannot tell which was first)', ''],
    ['door 3', 'two gates', 'arena/north, '],
  ]);
  expect(cellsOf(page, 'refusals')).toEqual([['about  (clock not measured)', 'arena/north', 'invalid', '']]);
});

test('M5: a list that is longer than what is shown says how many are not', async () => {
  const gates = Array.from({ length: 201 }, (_, n) => ({ ...GATE, gate: `arena/g-${n}` }));
  const lanes = cellsOf(await openPage(well({ './gates': { status: 200, body: { gates } } })), 'lanes');
  expect([lanes.length, lanes.at(-1)]).toEqual([201, ['empty: and 1 more']]);
  expect(cellsOf(await openPage(well()), 'refusals')).toEqual([['empty: Nobody was refused.']]);
});

test('M5: the page marks what is old, and what the cloud cannot see', async () => {
  let over: Record<string, Answer | Error> = { './readyz': { status: 503, body: { message: 'broker cannot be reached' } } };
  const page = await openPage((path) => well(over)(path));
  expect([page.at('news').className, page.at('news').textContent]).toEqual(['bad', 'What gates do now is not seen here: broker cannot be reached']);
  over = { './gates': new Error('network is gone') };
  const timers = page.timers();
  page.at('sign-in').listeners.get('submit')?.({ preventDefault: () => undefined });
  await settled();
  expect([page.at('news').className, page.at('news').textContent]).toEqual([
    'bad',
    expect.stringMatching(/^No answer; what stands here is of .+ \(network is gone\)$/),
  ]);
  // It asks again.
  expect(page.timers()).toBe(timers + 1);
  const never = await openPage(well({ './gates': { status: 500, body: {} } }));
  expect(never.at('news').textContent).toBe('The cloud does not answer: the cloud answered 500');
});

async function command(fields: Readonly<Record<string, string>>, how: { readonly answer?: Answer | Error; readonly confirms?: boolean } = {}) {
  const { answer = { status: 200, body: { response: { status: 'ok' } } }, confirms = true } = how;
  const page = await openPage((path, method) => (method === 'POST' ? answer : well()(path)), { confirms });
  page.at('command-title').textContent = 'arena/north';
  for (const [id, value] of Object.entries({ name: 'refresh', actor: 'staff-9', reason: 'a test', direction: '', ...fields }))
    page.at(`command-${id}`).value = value;
  page.at('#command form').listeners.get('submit')?.({ preventDefault: () => undefined });
  const while_ = [page.at('command-send').disabled, page.at('command-answer').textContent];
  await settled();
  const sent = page.asked.filter(({ method }) => method === 'POST');
  return { page, while_, sent, answer: page.at('command-answer') };
}

test('M5: a command names its gate, who sends it and why, and cannot be sent twice while it is under way', async () => {
  const { sent, while_, page } = await command({ name: 'open', direction: 'in', units: '2' });
  expect(sent).toMatchObject([
    { path: './gates/arena/north/requests/open', body: { actor: 'staff-9', reason: 'a test', args: { direction: 'in', units: 2 } } },
  ]);
  expect(while_).toEqual([true, 'Sent; waiting for the gate…']);
  expect(page.at('command-send').disabled).toBe(false);
  const late = await command({}, { answer: Object.assign(new Error('timed out'), { name: 'TimeoutError' }) });
  expect([late.answer.className, late.answer.textContent, late.page.at('command-send').disabled]).toEqual([
    'bad',
    'No answer: look at the lane before sending it again.',
    false,
  ]);
});

test.each([
  ['out', 'locked', true, { mode: 'locked', direction: 'out', confirm_exit_closed: true }],
  ['out', 'out_of_service', true, { mode: 'out_of_service', direction: 'out', confirm_exit_closed: true }],
  ['out', 'locked', false, { mode: 'locked', direction: 'out' }],
  ['out', 'free', true, { mode: 'free', direction: 'out' }],
  ['in', 'locked', true, { mode: 'locked', direction: 'in' }],
  ['', 'locked', true, { mode: 'locked' }],
])('M5: the mode of direction "%s" to %s, asked whether and answered %s, is sent as it is meant', async (direction, mode, confirms, args) => {
  const { sent } = await command({ name: 'mode', direction, mode }, { confirms });
  expect(sent.map(({ body }) => body)).toEqual([{ actor: 'staff-9', reason: 'a test', args }]);
});
