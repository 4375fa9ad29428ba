/** The options of the store, for every file that opens or rebuilds it. */
import type { PublicKey } from '../../contract/manifest.ts';
import type { Stamp } from '../store/ledger.ts';

export interface DeciderEngineOptions {
  /** Folder of the store. */
  readonly path: string;
  /** `<site>/<gate>`. */
  readonly gate: string;
  /** Pinned at enrolment. */
  readonly verifyKeys: readonly PublicKey[];
  /** Names the program that runs, exactly; null or absent: nobody knows, so what is kept is checked with every start. */
  readonly release?: string | null;
  /** Things a person should know that no call can return: damage, unusable files. Never holds a code. */
  readonly notice: (what: string, detail: string) => void;
}

/** The time that came with the latest call. */
export interface Latest {
  stamp: Stamp;
}
