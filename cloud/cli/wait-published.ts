/** After a change: have the gates been told? */
import type { Session } from './context.ts';

/** How long a command waits for `stile-cloud serve` to tell the gates, and how often it looks. */
const WAIT_MS = 15_000;
const LOOK_EVERY_MS = 100;
/** If nobody has taken the marks by then, nobody is there to take them. */
const NOBODY_MS = 2_500;

/** Waits until the outbox is empty of what is due, and says how it went. Never fails a command: the change is committed. */
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
  const later = 'it is committed; the gates are told as soon as stile-cloud serve (or all) runs with its broker\n';
  if (!wait) return;
  const started = performance.now();
  for (;;) {
    const { due, taken, failed } = await look();
    const waited = performance.now() - started;
    if (due === 0) {
      session.terminal.err('the gates have been told\n');
      return;
    }
    if (failed !== null) {
      session.terminal.err(`it is committed; the gates could not be told yet (${failed}); it is tried again\n`);
      return;
    }
    if (waited > (taken > 0 ? WAIT_MS : NOBODY_MS)) {
      session.terminal.err(later);
      return;
    }
    await new Promise((done) => setTimeout(done, LOOK_EVERY_MS));
  }
}
