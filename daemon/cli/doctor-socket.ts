/** Checks for doctor whether the gate can create the control socket, and who may use it. Without it the gate does not start. */
import { accessSync, constants, type Stats, statSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Config } from '../config/load.ts';
import { groupId } from '../platform/groups.ts';
import { type Check, fail, ok, warn } from './check-result.ts';

const PART = 'control';
/** Folder that the package creates at every boot (systemd/tmpfiles.d). */
const PACKAGE_FOLDER = '/run/stile';
const OTHER_PLACE = 'or set control.socket to a place that there is';

/** Checks the socket. `occupied`: a gate listens there already. */
export function socketCheck({ control }: Pick<Config, 'control'>, occupied: boolean): Check {
  const { socket, group } = control;
  const there = statOrNull(socket);
  if (there !== null && !there.isSocket())
    return fail(PART, `${socket} is there and is no socket: the gate will not start`, `take it away, or set control.socket to another path`);
  const folder = dirname(socket);
  if (!occupied) {
    const parent = statOrNull(folder);
    if (parent === null)
      return fail(
        PART,
        `the folder ${folder} is not there: ${socket} cannot be made, and the gate will not start`,
        folder === PACKAGE_FOLDER
          ? `systemd-tmpfiles --create (the package makes it at boot), ${OTHER_PLACE}`
          : `make the folder, writable for the gate's user, ${OTHER_PLACE}`,
      );
    if (!parent.isDirectory())
      return fail(PART, `${folder} is no folder: ${socket} cannot be made, and the gate will not start`, 'set control.socket to another path');
    try {
      accessSync(folder, constants.W_OK | constants.X_OK);
    } catch {
      // This user cannot check the rights of the gate's user.
      return process.getuid?.() === parent.uid
        ? fail(PART, `${folder} takes no new files: ${socket} cannot be made, and the gate will not start`, `chmod u+wx ${folder}, ${OTHER_PLACE}`)
        : warn(PART, `this user may not make ${socket}`, "run this as the gate's user: sudo -u stile-gate stile-gate doctor");
    }
  }
  if (groupId(group) === null)
    return warn(
      PART,
      `there is no group ${group}: only the gate's own user and root may use ${socket}`,
      `make it (groupadd --system ${group}), or set control.group`,
    );
  return ok(PART, occupied ? `${socket} answers members of ${group}` : `${socket} can be made; members of ${group} will be answered`);
}

function statOrNull(path: string): Stats | null {
  try {
    return statSync(path);
  } catch {
    return null;
  }
}
