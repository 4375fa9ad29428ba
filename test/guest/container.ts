/**
 * A Debian system of its own on this machine's kernel and processor: systemd as the first process of its own namespaces, with
 * cgroups of its own, so that the units' bounds are measured at a real speed. Needs root, and cgroup v1 or hybrid hierarchies.
 */
import { execFileSync, spawn } from 'node:child_process';
import { closeSync, existsSync, openSync, readdirSync, readSync, rmdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const CGROUPS = '/sys/fs/cgroup';
const HIERARCHIES = ['systemd', 'devices', 'pids'];
const POLL_INTERVAL_MS = 20;

/** First in a new cgroup of each hierarchy, then in new namespaces, then with the tree as root, then systemd. */
const START = `
set -eu
tree=$1
for h in ${HIERARCHIES.join(' ')}; do mkdir -p ${CGROUPS}/$h/$2; echo $$ >${CGROUPS}/$h/$2/cgroup.procs; done
exec unshare --mount --uts --ipc --pid --cgroup --fork --kill-child=KILL sh -eu -c '
  tree=$1
  mount --make-rprivate /
  mount --bind "$tree" "$tree"
  mount -t proc proc "$tree/proc"
  mount --bind "$tree/proc/sys" "$tree/proc/sys"; mount -o remount,bind,ro "$tree/proc/sys"
  mount -t sysfs -o ro sysfs "$tree/sys"
  mount -t tmpfs -o mode=755 tmpfs "$tree/dev"
  for node in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do set -- $node; mknod -m 666 "$tree/dev/$1" c "$2" "$3"; done
  mkdir "$tree/dev/pts" "$tree/dev/shm"; mount --rbind /dev/pts "$tree/dev/pts"; ln -s pts/ptmx "$tree/dev/ptmx"; ln -s /proc/self/fd "$tree/dev/fd"
  mount -t tmpfs -o mode=755 tmpfs "$tree/sys/fs/cgroup"
  for h in ${HIERARCHIES.join(' ')}; do
    mkdir "$tree/sys/fs/cgroup/$h"
    case $h in systemd) mount -t cgroup -o none,name=systemd cgroup "$tree/sys/fs/cgroup/$h" ;; *) mount -t cgroup -o "$h" cgroup "$tree/sys/fs/cgroup/$h" ;; esac
  done
  mount -t tmpfs -o mode=755,noexec,nosuid,nodev tmpfs "$tree/run"
  hostname guest
  cd "$tree"; mkdir -p mnt; pivot_root . mnt; umount -l /mnt
  exec env -i container=stile PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
' container "$tree"
`;

export interface Container {
  /** Resolves when its first process has ended. */
  readonly ended: Promise<void>;
  /** Kills everything in it, and removes its cgroups. */
  stop(): Promise<void>;
}

/** Boots `tree`; `line` is called with each line that appears in its file /console. */
export function bootContainer(tree: string, line: (text: string) => void): Container {
  if (!existsSync(join(CGROUPS, 'systemd')))
    throw new Error(`${CGROUPS}/systemd is missing: mount the hierarchy name=systemd, or boot with systemd.unified_cgroup_hierarchy=0`);
  const name = `stile-prove-${process.pid}`;
  const consoleFile = join(tree, 'console');
  writeFileSync(consoleFile, '');
  const child = spawn('sh', ['-c', START, 'start', tree, name], { stdio: ['ignore', 'inherit', 'inherit'] });
  const ended = new Promise<void>((resolve) => {
    child.once('exit', () => resolve());
  });
  const fd = openSync(consoleFile, 'r');
  let offset = 0;
  let rest = '';
  const look = () => {
    const size = statSync(consoleFile).size;
    if (size <= offset) return;
    const bytes = Buffer.alloc(size - offset);
    offset += readSync(fd, bytes, 0, bytes.length, offset);
    const lines = (rest + bytes.toString('utf8')).split('\n');
    rest = lines.pop() ?? '';
    lines.forEach(line);
  };
  const timer = setInterval(look, POLL_INTERVAL_MS);
  return {
    ended,
    async stop() {
      child.kill('SIGKILL');
      await ended;
      clearInterval(timer);
      closeSync(fd);
      const groups = HIERARCHIES.map((hierarchy) => join(CGROUPS, hierarchy, name));
      // What was killed ends within a moment, and a group goes only when it is empty.
      for (let tries = 0; tries < 40 && groups.some((group) => existsSync(group)); tries++) {
        for (const group of groups) removeCgroup(group);
        await sleep(50);
      }
    },
  };
}

/** From the leaves up; a process that is still ending keeps its group. */
function removeCgroup(path: string): void {
  if (!existsSync(path)) return;
  for (const entry of readdirSync(path, { withFileTypes: true })) if (entry.isDirectory()) removeCgroup(join(path, entry.name));
  try {
    rmdirSync(path);
  } catch {
    // Not empty yet.
  }
}

/** Unpacks the system into `tree`, with nothing that is not needed. `packages`: with those that it may install without a network. */
export function unpackSystem(archive: string, tree: string, packages = false): void {
  const apt = packages ? [] : ['var/cache/apt/*', 'var/lib/apt/lists/*'];
  const without = ['dev/*', 'usr/share/doc/*', 'usr/share/locale/*', ...apt].map((path) => `--exclude=./${path}`);
  execFileSync('tar', ['-C', tree, '-xf', archive, ...without]);
}
