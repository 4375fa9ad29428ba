/** Waits after a change until the gates are notified. */
import type { Session } from './context.ts';

/** Longest wait for `stile-cloud serve` to notify the gates, and the interval between two looks, in milliseconds. */
const WAIT_MS = 15_000;
const LOOK_EVERY_MS = 100;
/** Marks that nobody has leased by then, in milliseconds: no worker runs. */
const NOBODY_MS = 2_500;

/** Waits until the outbox has no due mark, and reports the result. Never fails a command: the change is committed. */
export async function waitUntilGatesNotified(session: Session, tenantId: string, wait: boolean): Promise<void> {
  const look = async () =>
    (
      await session.database.withTenant(tenantId, (client) =>
        client.query<{ due: number; taken: number; failed: string | null }>(
          "SELECT count(*) AS due, count(*) FILTER (WHERE due_at > now() + interval '5 seconds') AS taken, max(last_error) AS failed FROM outbox WHERE due_at < now() + interval '3 minutes'",
        ),
      )
    ).rows[0] ?? { due: 0, taken: 0, failed: null };
  const gates =
    (await session.database.withTenant(tenantId, (client) => client.query<{ n: number }>('SELECT count(DISTINCT gate) AS n FROM gate_assignments'))).rows[0]
      ?.n ?? 0;
  if (gates === 0) return;
  const later = 'it is committed; the gates are notified as soon as stile-cloud serve (or all) runs with its broker\n';
  if (!wait) return;
  const started = performance.now();
  for (;;) {
    const { due, taken, failed } = await look();
    const waited = performance.now() - started;
    if (due === 0) {
      session.terminal.err('the gates are notified\n');
      return;
    }
    if (failed !== null) {
      session.terminal.err(`it is committed; notifying the gates failed (${failed}); the service retries\n`);
      return;
    }
    if (waited > (taken > 0 ? WAIT_MS : NOBODY_MS)) {
      session.terminal.err(later);
      return;
    }
    await new Promise((done) => setTimeout(done, LOOK_EVERY_MS));
  }
}
