/**
 * Sends HTTP GET with the device's identity (bearer token, client certificate, or both), with timeouts, and returns answers as
 * streams. Sends the identity to the cloud's origin alone and follows no redirect.
 */
import http, { type IncomingMessage } from 'node:http';
import https from 'node:https';
import { cutText } from '../../contract/text.ts';
import type { TlsIdentity } from './mqtt-session.ts';

/** Longest wait for the head of an answer, in ms; then the request fails. */
export const HEAD_TIMEOUT_MS = 20_000;
/** Longest pause within an answer, in ms; then the body fails. */
export const IDLE_TIMEOUT_MS = 20_000;
/** Most characters read of an error answer; the rest is cut off. */
const MAX_PROBLEM_CHARS = 64 * 1024;

export interface CloudClientOptions extends TlsIdentity {
  /** `https://cloud.example`; a path below it is kept. */
  readonly url: string;
  readonly token?: string | undefined;
}

export interface CloudResponse {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | undefined>>;
  /** The caller must read it to its end or destroy it. The iteration throws on a timeout, a lost connection or an abort. */
  readonly body: AsyncIterable<Uint8Array> & { destroy(): void };
}

export interface CloudClient {
  /** Returns the address of `path` for messages: without query, name or password. */
  addressOf(path: string): string;
  /** Requests an absolute URL, or a path of the cloud. Rejects when no answer arrives. */
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
      if (!URL.canParse(where)) return 'an invalid address';
      const { origin: host, pathname } = new URL(where);
      return host + pathname;
    },
    get(path, how) {
      const url = absolute(path);
      if (url.protocol !== 'https:' && url.protocol !== 'http:')
        return Promise.reject(new Error(`${url.protocol}// is not supported, only https:// and http://`));
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
          response.setTimeout(IDLE_TIMEOUT_MS, () => response.destroy(new Error(`no data within ${IDLE_TIMEOUT_MS} ms`)));
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

/** Reads an error answer for the log: `404 NO_SUCH_EVENT: …`. Reads at most 64 KiB. */
export async function problemOf(response: CloudResponse): Promise<{ readonly status: number; readonly error: string | null; readonly text: string }> {
  let text = '';
  try {
    for await (const chunk of response.body) {
      text += Buffer.from(chunk).toString('utf8');
      if (text.length > MAX_PROBLEM_CHARS) break;
    }
  } catch {
    // The status is enough.
  }
  response.body.destroy();
  try {
    const { error, message } = JSON.parse(text) as { error?: unknown; message?: unknown };
    if (typeof error === 'string') return { status: response.status, error, text: `${response.status} ${error}: ${cutText(String(message), 200)}` };
  } catch {
    // Not an answer of the cloud: a proxy's, perhaps.
  }
  return { status: response.status, error: null, text: `HTTP ${response.status}` };
}

/** Gives an error without a message the message of its first cause: Node reports a host of several addresses so. */
function named(error: NodeJS.ErrnoException & { readonly errors?: readonly Error[] }): Error {
  return error.message !== '' ? error : new Error(error.errors?.[0]?.message ?? error.code ?? 'no answer', { cause: error });
}
