/** Faults to plant in the gate's own code, each of which the forgeries must find: a text of a file, and what stands there instead. */
import { readFileSync } from 'node:fs';
import { registerHooks } from 'node:module';
import { fileURLToPath } from 'node:url';

interface Plant {
  readonly file: string;
  readonly text: string;
  readonly instead: string;
}

export const PLANTS: Readonly<Record<string, Plant>> = {
  'any signature is right': { file: 'signing/verify.ts', text: 'return key !== null && verify(null, signedBytes, key, signature);', instead: 'return true;' },
  'the list of revoked codes is not read': { file: 'daemon/decider/resolve-ticket.ts', text: 'file.revoked(ref)', instead: 'false' },
  'revoked keys are believed': { file: 'rules/signature-check.ts', text: 'key.revoked !== true', instead: 'true' },
  'keys never end': { file: 'rules/signature-check.ts', text: 'nowMs <= Date.parse(key.not_after)', instead: 'true' },
  'a key is good for every use': { file: 'rules/signature-check.ts', text: "key.use === 'code' && key.key_id", instead: 'key.key_id' },
  'the event is not looked at': { file: 'daemon/decider/resolve-ticket.ts', text: 'form.eventId !== eventId', instead: 'false' },
  'validity is not looked at': { file: 'rules/validity.ts', text: 'if (place.nowMs > closedMs)', instead: 'if (false)' },
  'base45 wraps round': { file: 'rules/base45.ts', text: 'if (value > 0xffff) return null;', instead: '' },
  'base64 has many spellings': { file: 'rules/pretix.ts', text: 'btoa(raw) === text', instead: 'true' },
  'a ticket id is a code': { file: 'daemon/decider/resolve-ticket.ts', text: 'form.lookupText === ticket.ticketId', instead: 'false' },
  'what was used counts for nothing': {
    file: 'daemon/decider/resolve-ticket.ts',
    text: 'entries: countEntries(head.upto, counted, states),',
    instead: 'entries: [],',
  },
  'everybody is refused': {
    file: 'daemon/decider/decider.ts',
    text: 'const verdict = admit(facts, policy, place);',
    instead: "const verdict = admit({ kind: 'unreadable' }, policy, place);",
  },
};

/** Call before anything of the gate is imported. Throws where the text is not there any more: then this file must follow. */
export function plant(name: string): void {
  const fault = PLANTS[name];
  if (fault === undefined) throw new Error(`no such fault; there are: ${Object.keys(PLANTS).join('; ')}`);
  const url = new URL(`../../${fault.file}`, import.meta.url).href;
  const source = readFileSync(fileURLToPath(url), 'utf8');
  if (!source.includes(fault.text)) throw new Error(`${fault.file} does not say "${fault.text}"`);
  registerHooks({
    load(loaded, context, next) {
      return loaded === url ? { format: 'module-typescript', source: source.replaceAll(fault.text, fault.instead), shortCircuit: true } : next(loaded, context);
    },
  });
}
