/** Does what can wait while the lane is idle, in bounded steps: writes what memory holds, checks the files, prunes, checkpoints, copies rows. */
import type { AppendedRow, RowBody, Stamp } from '../store/ledger.ts';
import { wholeCovered } from '../store/usage-store.ts';
import { COUNT_STEP_TICKETS, type Occupancy } from './occupancy.ts';
import type { Parts } from './open-store.ts';
import type { TrustedTime } from './trusted-floor.ts';

/** Rows of the chain checked in one step. */
const VERIFY_STEP_ROWS = 200;
/** Pages of usage checked in one step. */
const VERIFY_STEP_PAGES = 64;

export interface MaintainedParts extends Parts {
  readonly occupancy: Occupancy;
  readonly trustedTime: TrustedTime;
}

/** Appends rows to the ledger and counts them, with what else must stand or fall with them. */
export type Write = (bodies: readonly RowBody[], stamp: Stamp, also: () => void) => readonly AppendedRow[];

export interface Maintenance {
  /** Runs one step; false: nothing is left to do. `quiet`: nobody is at the lane, so that a step may sync. Throws StoreError. */
  step(parts: MaintainedParts, stamp: Stamp, quiet: boolean, write: Write): boolean;
}

export function createMaintenance(): Maintenance {
  /** The files whose usage was last forgotten, by their versions. */
  let forgotten = '';
  return {
    step(parts, stamp, quiet, write) {
      const { ledger, outbox, resubmission, usage, manifests, rowCopy, occupancy, trustedTime } = parts;
      // Between a guest and the passage nothing is written that the ledger could tell again: the two are one write, when nobody is at the lane.
      if (usage.dirty() > 0 && (quiet || usage.holdsOthers())) {
        usage.flush();
        return true;
      }
      // Also while guests come: until it is done, neither the cloud nor the peers count what this gate admitted.
      if (resubmission.step(stamp, write)) {
        usage.doubtOwn(resubmission.left() > 0);
        return true;
      }
      if (occupancy.step(COUNT_STEP_TICKETS)) return true;
      if (ledger.verifyNext(VERIFY_STEP_ROWS) || usage.verifyNext(VERIFY_STEP_PAGES) || manifests.checkSome()) return true;
      if (!quiet) return false;
      outbox.flush();
      trustedTime.keep(false);
      const keeps = manifests.keeps();
      if (
        outbox.prune(
          stamp.trusted ? stamp.wallMs : null,
          keeps.map((keep) => keep.upto),
        )
      )
        return true;
      const versions = manifests
        .current()
        .map(({ file }) => `${file.path}`)
        .join(' ');
      if (versions !== forgotten) {
        const more = usage.forget(
          (state) =>
            keeps.some((keep) => keep.eventId === state.eventId) &&
            keeps.every((keep) => keep.eventId !== state.eventId || wholeCovered(usage.proven(keep.upto), state)),
        );
        if (!more) forgotten = versions;
        return true;
      }
      manifests.rememberHeads();
      ledger.maybeCheckpoint('idle');
      usage.maybeCheckpoint('idle');
      usage.settle();
      return rowCopy.step();
    },
  };
}
