/** Checks the signature of a signed code, of Stile or of pretix, and derives the ticket that it proves. */
import type { PublicKey } from '../contract/manifest.ts';
import type { PretixForm, SignedForm } from './code-forms.ts';
import type { TicketFacts } from './facts.ts';

/** Verifies Ed25519 over the bytes, with a public key as base64 of its DER SubjectPublicKeyInfo. Must return false, not throw, on any input. */
export type VerifySignature = (spki: string, signedBytes: Uint8Array, signature: Uint8Array) => boolean;

export type SignatureVerdict =
  | { readonly ok: true; readonly keyId: string }
  | { readonly ok: false; readonly why: 'unknown_key' | 'revoked_key' | 'expired_key' | 'bad_signature' };

/**
 * Checks whether one of the event's keys signed the code: for a Stile code the key that it names (use `code`), for a pretix code any (use
 * `pretix`). `nowMs` is null where the clock is not trusted: a key's end is then not checked.
 */
export function checkSignature(form: SignedForm, keys: readonly PublicKey[], verify: VerifySignature, nowMs: number | null): SignatureVerdict {
  const named = keys.filter((key) => (form.form === 'stile' ? key.use === 'code' && key.key_id === form.keyId : key.use === 'pretix'));
  if (named.length === 0) return { ok: false, why: 'unknown_key' };
  const known = named.filter((key) => key.revoked !== true);
  if (known.length === 0) return { ok: false, why: 'revoked_key' };
  const live = known.filter((key) => nowMs === null || key.not_after === null || nowMs <= Date.parse(key.not_after));
  if (live.length === 0) return { ok: false, why: 'expired_key' };
  const signer = live.find((key) => verify(key.spki, form.signedBytes, form.signature));
  return signer === undefined ? { ok: false, why: 'bad_signature' } : { ok: true, keyId: signer.key_id };
}

/**
 * Returns the right that a verified signature proves by itself, for a ticket that no manifest holds yet: one guest, entries by the policy. A pretix
 * code has no ticket id: its ticket_ref replaces it, and its tier is `item` or `item:variation`.
 */
export function ticketFromSignature(form: SignedForm, eventId: string, ticketRef: string): TicketFacts {
  const rest = {
    eventId,
    ticketRef,
    status: 'valid',
    maxScans: null,
    units: 1,
    validFromMs: form.validFromMs,
    validUntilMs: form.validUntilMs,
    vip: false,
    note: null,
    source: 'signature',
  } as const;
  if (form.form === 'stile') return { ...rest, ticketId: form.ticketId, tier: form.tier, zone: form.zone };
  return { ...rest, ticketId: ticketRef, tier: pretixTier(form), zone: null, subevent: form.subevent };
}

/** Returns pretix's product and variation as a tier: `12` or `12:34`. */
export const pretixTier = (form: Pick<PretixForm, 'item' | 'variation'>): string =>
  form.variation === null ? `${form.item}` : `${form.item}:${form.variation}`;
