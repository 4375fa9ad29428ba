/**
 * Where the bundle begins. Small, so that the service's two threads start side by side, each with its compiled code at hand, before the
 * rest is read (docs/decisions/0111-bundle-in-parts.md).
 */
import { parseRunArgs } from '../../daemon/cli/parse-run-args.ts';
import { startWorkerEarly } from '../../daemon/decider/early-start.ts';
import { keepCompiled } from '../compile-cache.ts';

const line = parseRunArgs(process.argv.slice(2), process.env);
if (line === null) await import('../../daemon/cli/main.ts');
else {
  const earlyWorker = startWorkerEarly(new URL('./stile-decider.mjs', import.meta.url));
  keepCompiled();
  // A part of its own (deploy/bundle.ts), and none of this program's.
  const part = new URL('./stile-run.mjs', import.meta.url).href;
  const { run, printFailure } = (await import(part)) as typeof import('./run.ts');
  await run(line.config === undefined ? {} : { config: line.config }, earlyWorker).catch((error: unknown) => {
    process.exitCode = printFailure(error);
  });
}
