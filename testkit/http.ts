/** The cloud's HTTP server for a test, with the real identities of its database and no routes yet. */

import type { Database } from '../cloud/db/database.ts';
import { createIdentify } from '../cloud/devices/identity.ts';
import { LOOPBACK } from '../cloud/http/addresses.ts';
import { type App, createHttp } from '../cloud/http/server.ts';
import { SILENT } from '../cloud/log.ts';
import { createMetrics } from '../cloud/metrics.ts';

/** `ratePerMinute`: as good as none, where the limit is not what is tested. */
export function createTestHttp(
  database: Database,
  options: { readonly ratePerMinute?: number; readonly deviceNameHeader?: string; readonly trustedProxies?: readonly string[] } = {},
): Promise<App> {
  return createHttp({
    log: SILENT,
    metrics: createMetrics(),
    version: '0',
    identify: createIdentify(database),
    readiness: async () => ({}),
    deviceNameHeader: options.deviceNameHeader ?? null,
    trustedProxies: options.trustedProxies ?? LOOPBACK,
    ratePerMinute: options.ratePerMinute ?? 100_000,
  });
}
