/**
 * The gate's HTTP side: GET with the device's identity (bearer token, client certificate, or both), bounded waiting, answers as
 * streams. The identity goes to the cloud's own origin and nowhere else, and redirects are not followed.
 */
import http, { type IncomingMessage } from 'node:http';
import https from 'node:https';
import { cutText } from '../../contract/text.ts';
import type { TlsIdentity } from './mqtt-session.ts';

/** From the request to the answer's head. */
export const HEAD_TIMEOUT_MS = 20_000;
/** Silence in the middle of an answer. */
export const IDLE_TIMEOUT_MS = 20_000;
/** Of an answer that is read whole (errors, small bodies); the rest is cut off. */
const MAX_SMALL_BYTES = 64 * 1024;

export interface CloudClientOptions extends TlsIdentity {
  /** `https://cloud.example`; a path below it is kept. */
  readonly url: string;
  readonly token?: string | undefined;
}

export interface CloudResponse {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | undefined>>;
  /** Must be read to its end or destroyed. Errors (silence, a lost connection, an abort) come out of the iteration. */
  readonly body: AsyncIterable<Uint8Array> & { destroy(): void };
}

export interface CloudClient {
  /** What is asked for `path`, for people to read: without query, name or password. */
  addressOf(path: string): string;
  /** `path`: absolute URL, or a path of the cloud. Rejects where there is no answer. */
  get(
    path: string,
    options: { readonly accept: string; readonly headers?: Readonly<Record<string, string>>; readonly signal: AbortSignal },
  ): Promise<CloudResponse>;
}

export function createCloudClient(options: CloudClientOptions): CloudClient {
  const base = options.url.replace(/\/+$/, '');
  const { origin } = new URL(base);
  const absolute = (path: string) => new URL(path.startsWith('/') ? base + path : path);
  return {
    addressOf(path) {
      const where = path.startsWith('/') ? base + path : path;
      if (!URL.canParse(where)) return 'an address that is none';
      const { origin: asked, pathname } = new URL(where);
      return asked + pathname;
    },
    get(path, how) {
      const url = absolute(path);
      if (url.protocol !== 'https:' && url.protocol !== 'http:')
        return Promise.reject(new Error(`${url.protocol}// is not fetched, only https:// and http://`));
      const ours = url.origin === origin;
      const tls =
        url.protocol === 'https:'
          ? { ca: options.ca as Buffer | undefined, ...(ours ? { cert: options.cert as Buffer | undefined, key: options.key as Buffer | undefined } : {}) }
          : {};
      const headers = {
        accept: how.accept,
        'accept-encoding': 'identity',
        ...(ours && options.token !== undefined ? { authorization: `Bearer ${options.token}` } : {}),
        ...how.headers,
      };
      return new Promise((resolve, reject) => {
        const request = (url.protocol === 'https:' ? https : http).get(url, { headers, signal: how.signal, agent: false, ...tls }, (response) => {
          clearTimeout(deadline);
          response.setTimeout(IDLE_TIMEOUT_MS, () => response.destroy(new Error(`nothing came for ${IDLE_TIMEOUT_MS} ms`)));
          resolve({ status: response.statusCode ?? 0, headers: flat(response), body: response });
        });
        const deadline = setTimeout(() => request.destroy(new Error(`no answer within ${HEAD_TIMEOUT_MS} ms`)), HEAD_TIMEOUT_MS);
        request.on('error', (error) => {
          clearTimeout(deadline);
          reject(named(error));
        });
      });
    },
  };
}

function flat(response: IncomingMessage): Record<string, string | undefined> {
  return Object.fromEntries(Object.entries(response.headers).map(([name, value]) => [name, Array.isArray(value) ? value[0] : value]));
}

/** What an error answer says of itself, for the log: `404 NO_SUCH_EVENT: …`. Reads at most 64 KiB. */
export async function problemOf(response: CloudResponse): Promise<{ readonly status: number; readonly error: string | null; readonly text: string }> {
  let text = '';
  try {
    for await (const chunk of response.body) {
      text += Buffer.from(chunk).toString('utf8');
      if (text.length > MAX_SMALL_BYTES) break;
    }
  } catch {
    // The status says enough.
  }
  response.body.destroy();
  try {
    const { error, message } = JSON.parse(text) as { error?: unknown; message?: unknown };
    if (typeof error === 'string') return { status: response.status, error, text: `${response.status} ${error}: ${cutText(String(message), 200)}` };
  } catch {
    // Not an answer of ours: a proxy's, perhaps.
  }
  return { status: response.status, error: null, text: `HTTP ${response.status}` };
}

/** A host of several addresses fails with an error that has no words of its own: those of its first are taken. */
function named(error: NodeJS.ErrnoException & { readonly errors?: readonly Error[] }): Error {
  return error.message !== '' ? error : new Error(error.errors?.[0]?.message ?? error.code ?? 'no answer', { cause: error });
}
