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
async function openPage(answer: (path: string, method: string) => Answer) {
  const stored = new Map([['stile-operator-token', 'a-token-of-anna']]);
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
    fetch: async (path: string, { method = 'GET' }: { method?: string } = {}) => {
      const { status, body } = answer(path, method);
      return { ok: status < 400, status, json: async () => body };
    },
    confirm: () => true,
    AbortSignal,
    Node: Stand,
    setTimeout: () => 1,
    clearTimeout: () => undefined,
    Date,
  });
  await settled();
  return { stored, at };
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
