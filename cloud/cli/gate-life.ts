/** Runs what ends or pauses a gate: `gate revoke`, `remove`, `replace`, `suspend`, `resume`, `let-back`. */
import { ActorId } from '../../contract/ids.ts';
import { sqlState } from '../db/database.ts';
import { removeDevice, revokeDevice } from '../devices/assignment.ts';
import type { GateRequests } from '../devices/requests.ts';
import { CliError, EXIT, type Session } from './context.ts';
import { type GateAddOptions, gateAddCommand } from './gate-enrolment.ts';
import { sendRequest } from './gates.ts';

/** Time for a gate with an ended certificate to renew it, in days; then it must be let back again. */
const LET_BACK_DAYS = 7;

const unknown = (gate: string) => new CliError(EXIT.failed, `there is no gate ${gate}: stile-cloud gates lists them`);

async function know(session: Session, gate: string): Promise<string> {
  const tenantId = await session.tenant();
  const found = await session.database.withTenant(tenantId, (client) => client.query('SELECT 1 FROM devices WHERE name = $1', [gate]));
  if (found.rowCount === 0) throw unknown(gate);
  return tenantId;
}

/** Asks for the gate's name, typed: what cannot be taken back is not done by a slip of the hand. */
async function confirm({ terminal }: Session, gate: string, yes: string | undefined, what: string): Promise<void> {
  const typed = yes ?? (await terminal.ask?.(`${what}\nType the name of the gate to go on: `)) ?? null;
  if (typed === null) throw new CliError(EXIT.usage, `${what} Say so with --yes ${gate}`);
  if (typed.trim() !== gate) throw new CliError(EXIT.usage, `${JSON.stringify(typed.trim())} is not ${gate}: nothing was changed`);
}

/** Takes the gate's identity away: token, certificate, rights at the broker. */
export async function gateRevoke(session: Session, gate: string, options: { readonly yes?: string }): Promise<void> {
  const tenantId = await know(session, gate);
  await confirm(session, gate, options.yes, `${gate} loses its identity and must be enrolled again; gate suspend closes it, and can be taken back.`);
  if (!(await session.database.withTenant(tenantId, (client) => revokeDevice(client, gate)))) throw unknown(gate);
  session.terminal.out(
    `${gate} is revoked: its token and its certificate open nothing any more. A broker beside the cloud knows within 10 s; another one: docs/INSTALL.md, "Certificates".\n`,
  );
}

/** Removes a gate that was made by mistake. One that has a record stays in it, and can only be revoked. */
export async function gateRemove(session: Session, gate: string, options: { readonly yes?: string }): Promise<void> {
  const tenantId = await know(session, gate);
  await confirm(session, gate, options.yes, `${gate} is removed, with its assignments and its certificate.`);
  const record = new CliError(EXIT.failed, `${gate} has admitted or refused somebody, and its record stays: stile-cloud gate revoke ${gate}`);
  const removed = await session.database
    .withTenant(tenantId, (client) => removeDevice(client, gate))
    .catch((error: unknown) => {
      throw sqlState(error) === '23503' ? record : error;
    });
  if (!removed) throw record;
  session.terminal.out(`${gate} is removed\n`);
}

/** Makes a code that puts another machine in a known gate's place. The old one works until the new one enrols; then its certificate is refused. */
export async function gateReplace(session: Session, gate: string, options: GateAddOptions): Promise<void> {
  await know(session, gate);
  await gateAddCommand(session, gate, [], options);
  session.terminal.err(`the machine that is ${gate} now stays so until another one enrols with this code; then it is shut out\n`);
}

export interface PauseOptions {
  readonly actor: string;
  readonly reason: string;
}

/** Closes the way in and frees the way out, until `gate resume`. */
export async function gateSuspend(session: Session, requests: GateRequests, gate: string, { actor, reason }: PauseOptions): Promise<void> {
  if (!ActorId.safeParse(actor).success) throw new CliError(EXIT.usage, '--actor is a staff id, never a name');
  // The way out first: nobody is inside a lane that is closed both ways, however the second request ends.
  await sendRequest(session, requests, gate, 'mode', { actor, reason, arg: ['mode=free', 'direction=out'] });
  await sendRequest(session, requests, gate, 'mode', { actor, reason, arg: ['mode=locked', 'direction=in'] });
  session.terminal.err(`${gate} is suspended: in is closed, out is free; stile-cloud gate resume ${gate} takes it back\n`);
}

export async function gateResume(session: Session, requests: GateRequests, gate: string, { actor, reason }: PauseOptions): Promise<void> {
  if (!ActorId.safeParse(actor).success) throw new CliError(EXIT.usage, '--actor is a staff id, never a name');
  await sendRequest(session, requests, gate, 'mode', { actor, reason, arg: ['mode=controlled'] });
  session.terminal.err(`${gate} is in service again\n`);
}

/** Lets gates that come back from store renew a certificate that has ended; one that is revoked stays out. */
export async function gateLetBack(session: Session, gate: string): Promise<void> {
  const tenantId = await session.tenant();
  const changed = await session.database.withTenant(tenantId, (client) =>
    client.query('UPDATE devices SET let_back_until = now() + make_interval(days => $2) WHERE name = $1 AND revoked_at IS NULL', [gate, LET_BACK_DAYS]),
  );
  if (changed.rowCount === 0) throw new CliError(EXIT.failed, `there is no gate ${gate} that is not revoked: stile-cloud gates lists them`);
  session.terminal.out(`${gate} may renew its certificate within ${LET_BACK_DAYS} days, though it has ended\n`);
}
