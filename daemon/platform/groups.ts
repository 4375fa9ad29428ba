import { readFileSync } from 'node:fs';

/** Returns the id of a group (/etc/group); null: no such group, or unreadable. */
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
