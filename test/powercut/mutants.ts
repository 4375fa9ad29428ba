/**
 * Faults planted into the gate's own source as it is loaded, to see that the checks find them; and constants made small, so that what
 * happens after hundreds of guests happens after a few. Preloaded: `node --import mutants.ts`, with STILE_PLANTS naming them.
 */

import { registerHooks } from 'node:module';
import { sourceOf } from './source.ts';

interface Plant {
  /** Below the checkout. */
  readonly file: string;
  readonly from: string;
  readonly to: string;
}

export const PLANTS: Readonly<Record<string, readonly Plant[]>> = {
  /** Not a fault: folds the log after a few commits, and cuts it when it is small. */
  small: [
    { file: 'daemon/store/sqlite.ts', from: 'CHECKPOINT_AFTER_COMMITS = 256', to: 'CHECKPOINT_AFTER_COMMITS = 9' },
    { file: 'daemon/store/sqlite.ts', from: 'WAL_LIMIT_BYTES = 16 * 1024 * 1024', to: 'WAL_LIMIT_BYTES = 96 * 1024' },
    { file: 'daemon/store/sqlite.ts', from: 'COMMITS_BETWEEN_LOOKS = 64', to: 'COMMITS_BETWEEN_LOOKS = 7' },
    { file: 'daemon/store/wal-preallocate.ts', from: 'LOG_ROOM_BYTES = 2 * 1024 * 1024', to: 'LOG_ROOM_BYTES = 64 * 1024' },
    { file: 'daemon/store/wal-preallocate.ts', from: 'STEP_BYTES = 128 * 1024', to: 'STEP_BYTES = 24 * 1024' },
  ],
  /** Not a fault: an eighth of the room. */
  room: [{ file: 'daemon/store/wal-preallocate.ts', from: 'LOG_ROOM_BYTES = 2 * 1024 * 1024', to: 'LOG_ROOM_BYTES = 256 * 1024' }],
  /** A commit is synced only with the next checkpoint. */
  normal: [
    { file: 'daemon/store/sqlite.ts', from: "options.synchronous === 'full' ? 'FULL' : 'NORMAL'", to: "'NORMAL'" },
    { file: 'daemon/store/sqlite.ts', from: "if (options.synchronous === 'full') assertDurable(db, path);", to: '' },
  ],
  /** A row is answered first and written with the next one. */
  early: [
    {
      file: 'daemon/store/ledger.ts',
      from: '        try {\n          insertAll(texts);\n        }',
      to: '        try {\n          const held = { lastId, texts };\n          late?.();\n          late = () => { late = null; held.texts.forEach((text, n) => insert.run(held.lastId + 1 + n, text)); };\n        }',
    },
    {
      file: 'daemon/store/ledger.ts',
      from: "        transact('write to the ledger', () => {",
      to: "        late?.();\n        transact('write to the ledger', () => {",
    },
    { file: 'daemon/store/ledger.ts', from: '  const transact = <T>', to: '  let late: (() => void) | null = null;\n  const transact = <T>' },
  ],
  /** Names are not synced. */
  names: [{ file: 'daemon/store/durable-state.ts', from: '    fsyncSync(handle);\n', to: '' }],
  /** A manifest file is switched to before its content is synced. */
  manifest: [
    { file: 'daemon/store/manifest-file.ts', from: '      await to.sync();\n', to: '' },
    { file: 'daemon/store/manifest-file.ts', from: '          await to.datasync();\n', to: '' },
  ],
  /** What was acknowledged is taken as committed as soon as it was sent. */
  sent: [
    {
      file: 'daemon/store/unacked-rows.ts',
      from: 'acked.set(epoch, upto);\n        changed.add(epoch);',
      to: 'acked.set(epoch, Math.max(upto, open().find((own) => own.epoch === epoch)?.lastSeq ?? upto));\n        changed.add(epoch);',
    },
  ],
};

/** The source with the plants in it. Throws where a place is not there exactly once: then the plant must follow the source. */
export function planted(source: string, file: string, names: readonly string[]): string {
  let text = source;
  for (const name of names) {
    for (const plant of PLANTS[name] ?? []) {
      if (plant.file !== file) continue;
      if (text.split(plant.from).length !== 2) throw new Error(`plant ${name}: its place in ${file} is there ${text.split(plant.from).length - 1} times`);
      text = text.replace(plant.from, () => plant.to);
    }
  }
  return text;
}

const names = (process.env['STILE_PLANTS'] ?? '').split(',').filter((name) => name !== '');
if (names.length > 0) {
  for (const name of names) if (PLANTS[name] === undefined) throw new Error(`no such plant: ${name}`);
  const root = new URL('../../', import.meta.url).href;
  const files = new Set(names.flatMap((name) => (PLANTS[name] ?? []).map(({ file }) => file)));
  registerHooks({
    load(url, context, next) {
      const file = url.startsWith(root) ? url.slice(root.length) : '';
      if (!files.has(file)) return next(url, context);
      return { format: 'module-typescript', shortCircuit: true, source: planted(sourceOf(file), file, names) };
    },
  });
}
