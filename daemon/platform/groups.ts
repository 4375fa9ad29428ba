import { readFileSync } from 'node:fs';

/** The number of a group of this machine (/etc/group); null: there is none of that name, or it cannot be read. */
export function groupId(name: string): number | null {
  try {
    const line = readFileSync('/etc/group', 'utf8')
      .split('\n')
      .find((entry) => entry.startsWith(`${name}:`));
    const gid = Number(line?.split(':')[2]);
    return line !== undefined && Number.isInteger(gid) ? gid : null;
  } catch {
    return null;
  }
}
