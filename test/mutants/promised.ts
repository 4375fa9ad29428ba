/** Lost awaits and swallowed errors before something is promised (FAULTS M2). */
import { type Mutant, mutant } from './mutant.ts';

const PROMISES = 'test/tidy/promises.test.ts';
const FILES = 'test/filefaults/filefaults.real.test.ts';
const lost = (name: string, file: string, text: string, instead: string) => mutant(name, file, text, instead, 'unit', PROMISES);
const files = (name: string, file: string, text: string, instead: string) => mutant(name, file, text, instead, 'real', FILES);

export const PROMISED: readonly Mutant[] = [
  lost(
    'overlays are taken for published before the broker has them',
    'cloud/manifest/change-publisher.ts',
    "await inSlices(gates, (gate) => publishTo(gate, 'overlay', overlay));",
    "inSlices(gates, (gate) => publishTo(gate, 'overlay', overlay));",
  ),
  lost("a list's signed entry is not waited for", 'daemon/store/manifest-store.ts', 'await file.writeFile(text);', 'file.writeFile(text);'),
  lost('a list is in force before its name is', 'daemon/store/manifest-store.ts', 'await rename(part, target);', 'rename(part, target);'),
  lost("the demo's broker is cut by nobody", 'deploy/demo/script.ts', 'await actions.cutBroker();', 'actions.cutBroker();'),
  mutant(
    'the sync of the page checksums is not looked at',
    'daemon/store/page-checksums.ts',
    '    fsyncSync(file);\n  } finally {',
    '    try {\n      fsyncSync(file);\n    } catch {\n      // planted\n    }\n  } finally {',
    'unit',
    'daemon/store/page-checksums.test.ts',
  ),
  files("a list's signed entry is not synced", 'daemon/store/manifest-store.ts', '    await file.sync();\n', ''),
  files('a list is not synced', 'daemon/store/manifest-file.ts', '      await to.sync();\n', ''),
  files('a failed change to a log is not seen', 'daemon/store/sqlite.ts', '    assertLogged(path);\n', ''),
  files('a store that fails to close keeps its files', 'daemon/decider/decider.ts', '      failed.push(error);\n', '      failed.push(error);\n      break;\n'),
  files('a new key is not synced', 'runtime/durable-file.ts', '      fsyncSync(file);\n', ''),
  files("a new key's name is not synced", 'runtime/durable-file.ts', '    fsyncSync(folder);\n', ''),
  files("a command's file is not synced", 'runtime/safe-file.ts', '      fsyncSync(fd);\n', ''),
];
