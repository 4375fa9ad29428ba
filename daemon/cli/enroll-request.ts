/** Asks the cloud for an enrolment: fetches its authority by fingerprint, and exchanges the one-use token for a certificate. */
import { createHash, X509Certificate } from 'node:crypto';
import http from 'node:http';
import https from 'node:https';
import { rootCertificates } from 'node:tls';
import { EnrollAuthority, EnrollResponse } from '../../contract/http.ts';
import { causeOf, networkHint } from './doctor-network.ts';
import { CliError, EXIT } from './exit-codes.ts';

const ANSWER_WAIT_MS = 30_000;
const MAX_ANSWER_BYTES = 256 * 1024;

/** Settings of an enrolment: from the command line, the file, and the configuration, in this order. */
export interface Wanted {
  readonly token: string;
  readonly cloud: string;
  /** null: the cloud's answer says it. */
  readonly broker: string | null;
  /** PEM of the cloud's authority; null: the system's authorities. */
  readonly ca: string | null;
  /** SHA-256 of the authority that the cloud must show; null: `ca` is it. */
  readonly fingerprint: Uint8Array | null;
  /** Configured name; null: none. */
  readonly gate: string | null;
  /** The file that named the token. */
  readonly from: string | null;
}

/** Fetches the authority's certificate, and believes it by its fingerprint alone: nothing else is known of the cloud yet. */
export async function fetchAuthority(cloud: string, fingerprint: Uint8Array): Promise<string> {
  const { status, text } = await ask(new URL('enroll/ca', `${cloud}/`), null).catch((error: unknown) => {
    const cause = causeOf(error);
    throw new CliError(EXIT.unreachable, `${cloud} is not reached: ${cause}`, networkHint(cause));
  });
  const parsed = status === 200 ? EnrollAuthority.safeParse(jsonOf(text)) : null;
  if (parsed === null || !parsed.success)
    throw new CliError(
      EXIT.failed,
      `${cloud} answers otherwise than Stile's cloud does (${status})`,
      'is that address the cloud of Stile, and of the same version?',
    );
  let certificate: X509Certificate;
  try {
    certificate = new X509Certificate(parsed.data.ca);
  } catch {
    throw new CliError(EXIT.failed, `${cloud} shows no certificate of an authority`, 'see STILE_CA_CERT of the cloud');
  }
  if (!createHash('sha256').update(certificate.raw).digest().equals(fingerprint))
    throw new CliError(
      EXIT.failed,
      `${cloud} is not the cloud that this code is for: its authority has another fingerprint`,
      'the token was not sent; check the address and who stands between, or get a new code where the authority was renewed',
    );
  return parsed.data.ca;
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

export type Answer = ReturnType<typeof EnrollResponse.parse> & { readonly token?: unknown };

export async function buy({ token, cloud, ca, fingerprint }: Wanted, csr: string): Promise<Answer> {
  let answer: { status: number; text: string };
  try {
    answer = await ask(new URL('enroll', cloud.endsWith('/') ? cloud : `${cloud}/`), {
      body: JSON.stringify({ token, csr }),
      token,
      ca,
      system: fingerprint !== null,
    });
  } catch (error) {
    const cause = causeOf(error);
    const hint = /not yet valid|NOT_YET_VALID/i.test(cause)
      ? "this machine's clock is behind: let a time server be reached, or timedatectl set-time"
      : networkHint(cause).replace('(cloud.ca)', '(--ca)');
    throw new CliError(EXIT.unreachable, `${cloud} is not reached: ${cause}`, hint);
  }
  let body: unknown;
  try {
    body = JSON.parse(answer.text);
  } catch {
    body = null;
  }
  if (answer.status !== 200) {
    const { error, message } = (body ?? {}) as { error?: string; message?: string };
    const reason = message ?? `it answers with ${answer.status}, and not as Stile's cloud does`;
    throw new CliError(
      answer.status === 503 || answer.status === 429 ? EXIT.tryAgain : EXIT.failed,
      `the cloud refuses${error === undefined ? '' : ` (${error})`}: ${reason}`,
    );
  }
  const parsed = EnrollResponse.safeParse(body);
  if (!parsed.success)
    throw new CliError(EXIT.failed, `${cloud} answers otherwise than an enrolment is answered`, 'is that address the cloud of Stile, and of the same version?');
  return parsed.data;
}

/** Posts to the cloud with the device's token. Rejects where it is not reached. */
export const postToCloud = (url: URL, post: Post): Promise<{ status: number; text: string }> => ask(url, post);

export interface Post {
  readonly body: string;
  readonly token: string;
  /** PEM of the authority; null: the system's. */
  readonly ca: string | null;
  /** The system's authorities are believed too. */
  readonly system: boolean;
}

/**
 * Posts, or gets without one. A post sends the token in a header too: the cloud accepts it even when it blocks the address after failed attempts. A
 * get believes any certificate: what it fetches is compared with a fingerprint.
 */
function ask(url: URL, post: Post | null): Promise<{ status: number; text: string }> {
  return new Promise((done, reject) => {
    const tls = post === null ? { rejectUnauthorized: false } : post.ca === null ? {} : { ca: post.system ? [...rootCertificates, post.ca] : post.ca };
    const headers =
      post === null
        ? { accept: 'application/json' }
        : {
            'content-type': 'application/json',
            'content-length': Buffer.byteLength(post.body),
            accept: 'application/json',
            authorization: `Bearer ${post.token}`,
          };
    const request = (url.protocol === 'https:' ? https : http).request(
      url,
      { method: post === null ? 'GET' : 'POST', headers, agent: false, ...tls },
      (response) => {
        let text = '';
        response.setEncoding('utf8');
        response.on('data', (chunk: string) => {
          text += chunk;
          if (text.length > MAX_ANSWER_BYTES) response.destroy(new Error(`its answer is larger than ${MAX_ANSWER_BYTES} bytes`));
        });
        response.on('end', () => done({ status: response.statusCode ?? 0, text }));
        response.on('error', reject);
      },
    );
    request.setTimeout(ANSWER_WAIT_MS, () => request.destroy(new Error(`no answer within ${ANSWER_WAIT_MS / 1000} s`)));
    request.on('error', reject);
    request.end(post?.body);
  });
}
