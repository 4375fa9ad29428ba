/** Compilers for the parts that have no prebuilt file for a gate, or none that is good enough. */
import { spawnSync } from 'node:child_process';

export const ARCHITECTURES = ['x64', 'arm64'] as const;
export type Arch = (typeof ARCHITECTURES)[number];

/** Ends the making of a bundle; `exitCode` as bundle.ts says. */
export class BundleError extends Error {
  readonly exitCode: number;
  constructor(exitCode: number, message: string) {
    super(message);
    this.exitCode = exitCode;
  }
}

/** Runs a program of this folder: a BundleError ends it with its message and exit code, anything else with its stack and 1. */
export async function runTool(name: string, main: (args: readonly string[]) => void | Promise<void>): Promise<void> {
  try {
    await main(process.argv.slice(2));
  } catch (error) {
    process.stderr.write(`${name}: ${error instanceof BundleError ? error.message : (error as Error).stack}\n`);
    process.exitCode = error instanceof BundleError ? error.exitCode : 1;
  }
}

const CROSS: Readonly<Record<Arch, string>> = { x64: 'x86_64-linux-gnu-', arm64: 'aarch64-linux-gnu-' };

/** A compiler for the architecture, or null. */
export function compiler(arch: Arch, name: 'gcc' | 'g++'): string | null {
  const candidates = arch === process.arch ? [name, name === 'gcc' ? 'cc' : 'c++'] : [`${CROSS[arch]}${name}`];
  return candidates.find((candidate) => spawnSync(candidate, ['--version']).status === 0) ?? null;
}

/** Throws BundleError where there is no compiler, or it refuses. `what`: for people. */
export function compile(arch: Arch, name: 'gcc' | 'g++', what: string, args: readonly string[]): void {
  const found = compiler(arch, name);
  if (found === null)
    throw new BundleError(
      1,
      `${what} must be compiled for ${arch}, and there is no ${arch === process.arch ? name : `${CROSS[arch]}${name}`}: apt-get install ${arch === process.arch ? 'build-essential' : `g++-${CROSS[arch].slice(0, -1)}`}`,
    );
  const done = spawnSync(found, [...args], { encoding: 'utf8' });
  if (done.status !== 0) throw new BundleError(1, `${what} did not compile:\n${done.stderr}`);
}
