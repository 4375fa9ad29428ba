/** Steps that set a server up: each looks whether it is done, does it, and can take it back. Run in order, as often as you like. */

/** The finding of a step. `todo`: it has work; `done`: it is so already; `absent`: what it sets up is not on this machine. */
export type Found = { readonly state: 'todo' | 'done' | 'absent'; readonly why: string };

export interface Step {
  readonly name: string;
  /** Its work, for people: "makes …". */
  readonly does: string;
  /** The effect of taking it back, for people. */
  readonly undoes: string;
  /** Taking it back loses data (tickets, keys): only with `--with-data`. */
  readonly holdsData: boolean;
  /** Looks, and changes nothing. */
  find(): Promise<Found> | Found;
  /** Does the step's work. Returns what the operator should know, or null. Throws with the cause and the hint. */
  apply(): Promise<string | null> | string | null;
  /** Takes it back; nothing happens where there is nothing. */
  undo(): Promise<void> | void;
}

export interface PlanOptions {
  readonly say: (line: string) => void;
  readonly dryRun: boolean;
}

/** A step failed; the ones before it stand, and the next run goes on here. */
export class StepError extends Error {
  override name = 'StepError';
}

const label = (index: number, count: number, step: Step) => `${String(index + 1).padStart(String(count).length)}/${count} ${step.name.padEnd(12)}`;

/** Runs the steps in order. Returns how many had work. Throws StepError with the step's name. */
export async function runPlan(steps: readonly Step[], { say, dryRun }: PlanOptions): Promise<number> {
  let worked = 0;
  for (const [index, step] of steps.entries()) {
    const at = label(index, steps.length, step);
    const found = await step.find();
    if (found.state !== 'todo') {
      say(`${at} ${found.state === 'done' ? 'is so already' : 'left out'}: ${found.why}`);
      continue;
    }
    worked += 1;
    if (dryRun) {
      say(`${at} would be done: ${step.does}\n${' '.repeat(at.length)} undo: ${step.undoes}`);
      continue;
    }
    try {
      const note = await step.apply();
      say(`${at} done: ${note ?? step.does}`);
    } catch (error) {
      throw new StepError(
        `step ${step.name} failed: ${(error as Error).message}\nThe steps before it stand; correct the cause, then run the same command again`,
      );
    }
  }
  return worked;
}

/** Takes the steps back, the last first. Steps that hold data stay unless `withData`. */
export async function undoPlan(steps: readonly Step[], { say, dryRun, withData }: PlanOptions & { readonly withData: boolean }): Promise<void> {
  for (const [index, step] of [...steps.entries()].toReversed()) {
    const at = label(index, steps.length, step);
    if (step.holdsData && !withData) say(`${at} kept: it holds data (--with-data takes it back too: ${step.undoes})`);
    else if (dryRun) say(`${at} would be taken back: ${step.undoes}`);
    else {
      await step.undo();
      say(`${at} taken back: ${step.undoes}`);
    }
  }
}
