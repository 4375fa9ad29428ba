/**
 * A small Debian machine of its own on this machine's kernel: systemd as first process of its own namespaces, in the unified
 * hierarchy of cgroups (bookworm and trixie both boot with it), with a network of its own that leads to its peers alone. Needs
 * root. Commands are run in it from outside, as somebody at its console would type them.
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const BOOT_MS = 60_000;
const POLL_MS = 100;
/** Output of one command, in bytes. */
const MAX_OUTPUT = 4 * 1024 * 1024;

/** In new namespaces, with the tree as root, then systemd. `$2`: where the unified hierarchy is, in a group of its own. */
const START = `
set -eu
mkdir -p "$2"; echo $$ >"$2/cgroup.procs"
exec unshare --mount --uts --ipc --pid --net --cgroup --fork --kill-child=KILL sh -eu -c '
  tree=$1
  mount --make-rprivate /
  mount --bind "$tree" "$tree"
  mount -t proc proc "$tree/proc"
  mount --bind "$tree/proc/sys" "$tree/proc/sys"; mount -o remount,bind,ro "$tree/proc/sys"
  mount -t sysfs -o ro sysfs "$tree/sys"
  mount -t tmpfs -o mode=755 tmpfs "$tree/dev"
  for node in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do set -- $node; mknod -m 666 "$tree/dev/$1" c "$2" "$3"; done
  mkdir "$tree/dev/pts" "$tree/dev/shm"; mount --rbind /dev/pts "$tree/dev/pts"; ln -s pts/ptmx "$tree/dev/ptmx"; ln -s /proc/self/fd "$tree/dev/fd"
  mount -t tmpfs tmpfs "$tree/dev/shm"
  mount -t cgroup2 cgroup2 "$tree/sys/fs/cgroup"
  mount -t tmpfs -o mode=755,noexec,nosuid,nodev tmpfs "$tree/run"
  cd "$tree"; mkdir -p mnt; pivot_root . mnt; umount -l /mnt
  exec env -i container=stile PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
' machine "$1"
`;

export interface Result {
  readonly code: number;
  readonly out: string;
}

export interface Machine {
  readonly name: string;
  readonly tree: string;
  /** In this machine's namespaces: its first process. */
  readonly pid: number;
  /** Types a command into a shell at `/root`. */
  type(command: string): Result;
  stop(): Promise<void>;
}

/** Boots the system in `tree` under the host name `name`; resolves when systemd has come up. */
export async function bootMachine(name: string, tree: string, log: string): Promise<Machine> {
  const unified = ['/sys/fs/cgroup/unified', '/sys/fs/cgroup'].find((path) => existsSync(join(path, 'cgroup.controllers')));
  if (unified === undefined) throw new Error('the unified hierarchy of cgroups is not mounted');
  const group = join(unified, `stile-${name}-${process.pid}`);
  writeFileSync(join(tree, 'etc/hostname'), `${name}\n`);
  writeFileSync(join(tree, 'etc/hosts'), `127.0.0.1 localhost\n127.0.1.1 ${name}\n`);
  writeFileSync(join(tree, 'etc/fstab'), '');
  mkdirSync(join(tree, 'root'), { recursive: true });
  const child = spawn('sh', ['-c', START, 'start', tree, group], { stdio: ['ignore', 'ignore', 'inherit'] });
  const pid = await firstProcess(child);
  const type = (command: string): Result => {
    const ran = spawnSync(
      'nsenter',
      [
        '-t',
        String(pid),
        '-m',
        '-u',
        '-i',
        '-n',
        '-p',
        '-C',
        '--',
        '/usr/bin/env',
        '-i',
        'HOME=/root',
        'LANG=C.UTF-8',
        'DEBIAN_FRONTEND=noninteractive',
      ].concat(['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', '/bin/bash', '-c', `cd /root\n${command}`]),
      { encoding: 'utf8', maxBuffer: MAX_OUTPUT, stdio: ['ignore', 'pipe', 'pipe'] },
    );
    const out = `${ran.stdout}${ran.stderr}`;
    appendFileSync(log, `${name}# ${command}\n${out}[${ran.status}]\n`);
    return { code: ran.status ?? -1, out };
  };
  const machine: Machine = {
    name,
    tree,
    pid,
    type,
    async stop() {
      const ended = new Promise((resolve) => child.once('exit', resolve));
      if (child.exitCode === null && child.kill('SIGKILL')) await ended;
      // What was killed ends within a moment, and a group goes only when it is empty.
      for (let tries = 0; tries < 40 && existsSync(group); tries++) {
        removeGroups(group);
        await sleep(50);
      }
    },
  };
  const deadline = Date.now() + BOOT_MS;
  for (;;) {
    const state = machine.type('systemctl is-system-running').out.trim();
    if (state === 'running' || state === 'degraded') return machine;
    if (Date.now() > deadline || child.exitCode !== null) {
      await machine.stop();
      throw new Error(`${name} did not boot: ${state}`);
    }
    await sleep(POLL_MS);
  }
}

/** systemd is the child of `unshare`, which is the shell that was spawned. */
async function firstProcess(child: ChildProcess): Promise<number> {
  const deadline = Date.now() + BOOT_MS;
  while (Date.now() < deadline && child.exitCode === null) {
    const children = existsSync(`/proc/${child.pid}/task/${child.pid}/children`)
      ? readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').trim().split(' ')
      : [];
    const pid = Number(children[0]);
    if (pid > 0 && readFileSync(`/proc/${pid}/comm`, 'utf8').trim() === 'systemd') return pid;
    await sleep(POLL_MS);
  }
  throw new Error('the machine did not start');
}

function removeGroups(path: string): void {
  for (const entry of readdirSync(path, { withFileTypes: true })) if (entry.isDirectory()) removeGroups(join(path, entry.name));
  try {
    rmdirSync(path);
  } catch {
    // A process that is still ending keeps its group; it is tried again.
  }
}

/** A cable from a server with the address `at` to a machine with the address `its`, such as `192.168.1.11`; again for further machines of the same network. */
export function connectMachine(server: Machine, at: string, machine: Machine, its: string): void {
  const inNet = (where: Machine, ...args: string[]) => execFileSync('nsenter', ['-t', String(where.pid), '-n', '--', 'ip', ...args]);
  const port = `lan-${its.split('.').at(-1)}`;
  inNet(server, 'link', 'add', port, 'type', 'veth', 'peer', 'name', 'lan0', 'netns', String(machine.pid));
  for (const [where, name, address] of [
    [server, port, `${at}/32`],
    [machine, 'lan0', `${its}/24`],
  ] as const) {
    inNet(where, 'link', 'set', 'lo', 'up');
    inNet(where, 'addr', 'add', address, 'dev', name);
    inNet(where, 'link', 'set', name, 'up');
  }
  inNet(server, 'route', 'add', `${its}/32`, 'dev', port, 'src', at);
}
