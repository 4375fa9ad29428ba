/** Runs `stile-cloud init`: sets this server up step by step, shows the plan, or takes it back. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { ActorId } from '../../contract/ids.ts';
import { CliError, EXIT, type Terminal } from './context.ts';
import { createHost, type Host } from './init/host.ts';
import { runPlan, StepError, undoPlan } from './init/plan.ts';
import { type InitOptions, initSteps } from './init/steps.ts';
import { HOST_NAME } from './operators.ts';

export interface InitFlags {
  readonly host: readonly string[];
  readonly operator: string;
  readonly start: boolean;
  readonly dryRun?: boolean;
  readonly undo?: boolean;
  readonly withData?: boolean;
}

/** Returns where the installed program keeps what `init` puts in place; the checkout's own files where it is one. */
export function shareFolder(): string {
  const installed = join(import.meta.dirname, '../share');
  if (existsSync(join(installed, 'mosquitto.conf'))) return installed;
  return '/opt/stile-cloud/share';
}

/** `host`: another machine in tests. */
export async function initCommand(terminal: Terminal, flags: InitFlags, host: Host = createHost(), share = shareFolder()): Promise<void> {
  const strange = flags.host.find((name) => !HOST_NAME.test(name));
  if (strange !== undefined)
    throw new CliError(EXIT.usage, `--host ${JSON.stringify(strange)}: give a name or an address alone, such as venue.example or 192.168.1.10`);
  if (!ActorId.safeParse(flags.operator).success)
    throw new CliError(EXIT.usage, `--operator ${JSON.stringify(flags.operator)}: 1 to 64 letters, digits or . _ : @ -`);
  if (flags.withData === true && flags.undo !== true) throw new CliError(EXIT.usage, '--with-data goes with --undo: what is set up keeps its data');
  const dryRun = flags.dryRun === true;
  if (!dryRun && process.geteuid?.() !== 0)
    throw new CliError(EXIT.failed, 'init writes into /etc and starts services: run it as root (sudo stile-cloud init …), or look with --dry-run');
  const options: InitOptions = { hosts: flags.host, operator: flags.operator, start: flags.start, share };
  const steps = initSteps(host, options);
  const say = (line: string) => terminal.out(`${line}\n`);
  if (flags.undo === true) return undoPlan(steps, { say, dryRun, withData: flags.withData === true });
  if (flags.host.length === 0 && !host.exists('/etc/stile/cloud.env') && !dryRun)
    throw new CliError(EXIT.usage, 'say how gates reach this server: stile-cloud init --host NAME (a name or an address; again for more)');
  try {
    const worked = await runPlan(steps, { say, dryRun });
    if (dryRun) say(`${worked} of ${steps.length} steps have work; nothing was changed`);
  } catch (error) {
    if (error instanceof StepError) throw new CliError(EXIT.failed, error.message);
    throw error;
  }
}
