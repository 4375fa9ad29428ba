/** Serves metrics on a port of their own, so that the proxy before the HTTP interface does not publish them. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Metrics } from '../metrics.ts';
import { coalesce } from './coalesce.ts';

/** Time, in milliseconds, for which repeated requests get the same numbers. */
const KEPT_MS = 250;
/** Connections at once; further ones are dropped. */
const MAX_CONNECTIONS = 32;
/** Time for a caller to send its request, in milliseconds; a slower one is dropped. */
const REQUEST_TIMEOUT_MS = 5_000;

export interface MetricsPort {
  readonly url: string;
  close(): Promise<void>;
}

/** Serves `GET /metrics` and nothing else. Rejects with the port's error where it cannot listen. */
export async function openMetricsPort(at: { readonly host: string; readonly port: number }, metrics: Metrics): Promise<MetricsPort> {
  const text = coalesce(() => metrics.text(), KEPT_MS);
  const server = createServer({ requestTimeout: REQUEST_TIMEOUT_MS, headersTimeout: REQUEST_TIMEOUT_MS }, (request, response) => {
    if (request.method !== 'GET' || request.url !== '/metrics') {
      response.writeHead(404).end();
      return;
    }
    text().then(
      (body) => response.writeHead(200, { 'content-type': metrics.contentType }).end(body),
      () => response.writeHead(503).end(),
    );
  });
  server.maxConnections = MAX_CONNECTIONS;
  await new Promise<void>((done, fail) => {
    server.once('error', fail);
    server.listen(at.port, at.host, () => {
      server.off('error', fail);
      done();
    });
  });
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://${at.host.includes(':') ? `[${at.host}]` : at.host}:${port}`,
    close: () =>
      new Promise((done) => {
        server.close(() => done());
        server.closeAllConnections();
      }),
  };
}
