/** An emulated arm64 machine: a Debian system on a disk image, booted by QEMU with its own kernel, its reader a second serial port. */
import { spawn } from 'node:child_process';
import { copyFileSync, createWriteStream, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { run } from './environment.ts';

const IMAGE_MB = 2_048;

/** The guest reaches this machine's loopback under this address. */
export const EMULATED_HOST = '10.0.2.2';
export const EMULATED_READER = '/dev/ttyS0';

export interface Machine {
  /** Resolves when it has ended. */
  readonly ended: Promise<void>;
  /** A code before the reader. */
  show(code: string): void;
  stop(): Promise<void>;
}

/** Boots what lies in `tree` (which is used up); `line` is called with each line of its console. */
export function bootEmulated(folder: string, tree: string, line: (text: string) => void): Machine {
  const boot = readdirSync(join(tree, 'boot'));
  const take = (prefix: string) => {
    const name = boot.find((file) => file.startsWith(prefix));
    if (name === undefined) throw new Error(`the root file system has no ${prefix}*: remove .tools/guest/rootfs.tar and try again`);
    copyFileSync(join(tree, 'boot', name), join(folder, prefix));
    return join(folder, prefix);
  };
  const [kernel, initrd] = [take('vmlinuz'), take('initrd')];
  rmSync(join(tree, 'boot'), { recursive: true });
  writeFileSync(join(tree, 'etc/systemd/network/10-guest.network'), '[Match]\nName=e*\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n');
  const image = join(folder, 'disk.img');
  run('mke2fs', ['-q', '-t', 'ext4', '-d', tree, image, `${IMAGE_MB}M`]);
  rmSync(tree, { recursive: true });

  const readerPath = join(folder, 'reader.sock');
  const guest = spawn(
    'qemu-system-aarch64',
    [
      ...['-M', 'virt', '-cpu', 'cortex-a72', '-smp', '2', '-m', '1024', '-nographic', '-no-reboot', '-monitor', 'none'],
      ...['-kernel', kernel, '-initrd', initrd, '-append', 'root=/dev/vda rw console=ttyAMA0 loglevel=4 systemd.show_status=false panic=-1'],
      ...[
        '-drive',
        `file=${image},format=raw,if=virtio,cache=unsafe`,
        '-netdev',
        'user,id=net',
        '-device',
        'virtio-net-pci,netdev=net',
        '-device',
        'virtio-rng-pci',
      ],
      ...['-chardev', `socket,id=reader,path=${readerPath},server=on,wait=off`, '-device', 'pci-serial,chardev=reader', '-serial', 'stdio'],
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const ended = new Promise<void>((resolve) => {
    guest.once('exit', () => resolve());
  });
  guest.stdout.pipe(createWriteStream(join(folder, 'console.log')));
  createInterface({ input: guest.stdout }).on('line', line);
  let reader: Socket | null = null;
  return {
    ended,
    show(code) {
      reader ??= connect(readerPath).on('error', (error) => process.stderr.write(`prove: reader: ${error.message}\n`));
      reader.write(`${code}\r\n`);
    },
    async stop() {
      reader?.destroy();
      guest.kill('SIGKILL');
      await ended;
    },
  };
}
