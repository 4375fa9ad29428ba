import { expect, test } from 'vitest';
import { runPlan, type Step, StepError, undoPlan } from './plan.ts';

/** Steps over a set of what is set up; `broken` cannot be applied. */
function planOf(names: readonly string[], { broken = new Set<string>(), absent = new Set<string>(), data = new Set<string>() } = {}) {
  const present = new Set<string>();
  const steps = names.map(
    (name): Step => ({
      name,
      does: `makes ${name}`,
      undoes: `removes ${name}`,
      holdsData: data.has(name),
      find: () =>
        absent.has(name) ? { state: 'absent', why: 'not here' } : present.has(name) ? { state: 'done', why: 'there' } : { state: 'todo', why: 'missing' },
      apply() {
        if (broken.has(name)) throw new Error('the disk is full: make room');
        present.add(name);
        return null;
      },
      undo: () => void present.delete(name),
    }),
  );
  return { steps, present };
}

const lines: string[] = [];
const say = (line: string) => void lines.push(line);
const run = async (steps: readonly Step[], dryRun = false) => {
  lines.length = 0;
  return runPlan(steps, { say, dryRun });
};

test('init does what is missing, in order, and nothing the second time', async () => {
  const { steps, present } = planOf(['database', 'broker', 'service'], { absent: new Set(['broker']) });
  expect(await run(steps)).toBe(2);
  expect([...present]).toEqual(['database', 'service']);
  expect(lines).toEqual(['1/3 database     done: makes database', '2/3 broker       left out: not here', '3/3 service      done: makes service']);
  expect(await run(steps)).toBe(0);
  expect(lines[0]).toBe('1/3 database     is so already: there');
});

test('init --dry-run shows every step with its undo, and changes nothing', async () => {
  const { steps, present } = planOf(['database', 'broker']);
  expect(await run(steps, true)).toBe(2);
  expect(lines.join('\n')).toMatch(/makes database\n.*undo: removes database\n.*makes broker\n.*undo: removes broker/);
  expect(present.size).toBe(0);
});

test('init names the step that failed and its cause, keeps those before it, and goes on from there', async () => {
  const broken = new Set(['broker']);
  const { steps, present } = planOf(['database', 'broker', 'service'], { broken });
  await expect(run(steps)).rejects.toThrow(/^step broker failed: the disk is full: make room/);
  await expect(run(steps)).rejects.toBeInstanceOf(StepError);
  expect([...present]).toEqual(['database']);
  broken.clear();
  expect(await run(steps)).toBe(2);
});

test('init --undo takes the last step back first, and data only with --with-data', async () => {
  const { steps, present } = planOf(['database', 'broker', 'service'], { data: new Set(['database']) });
  await run(steps);
  lines.length = 0;
  await undoPlan(steps, { say, dryRun: false, withData: false });
  expect([...present]).toEqual(['database']);
  expect(lines[0]).toContain('service      taken back');
  expect(lines[2]).toContain('kept: it holds data');
  await undoPlan(steps, { say, dryRun: false, withData: true });
  expect(present.size).toBe(0);
});
