/** Chooses protocol and wait for the next connect, and explains a failed one. Pure. */
import type { Fault } from '../ports.ts';
import type { ProtocolVersion, SessionEnd } from './mqtt-session.ts';

/** First wait after a lost or refused connection, in ms; doubles to RECONNECT_MAX_MS. */
export const RECONNECT_FIRST_MS = 500;
export const RECONNECT_MAX_MS = 30_000;
/** Age of a connection, in ms, from which on its loss resets the wait. */
export const STEADY_AFTER_MS = 10_000;
/** Consecutive short connections after which the gate suspects a second device under its name; not every broker reports that. */
export const SHORT_LIVED_SUSPECT = 3;
/** Wait after a take-over, in ms, so that two devices under one name do not evict each other in a tight loop. */
export const TAKEN_OVER_WAIT_MS = 30_000;

/** Knowledge of the broker's protocol. `lacks5`: the broker refused version 5. */
export interface ProtocolKnowledge {
  readonly next: ProtocolVersion;
  readonly lacks5: boolean;
}
export const UNKNOWN_PROTOCOL: ProtocolKnowledge = { next: 5, lacks5: false };

/**
 * Tries 5 first. Keeps 3.1.1 for a broker that refuses the version. A broker that is silent before CONNACK may mean the version, so
 * the other is next; 5 comes first again after a connection that 3.1.1 got by that guess alone.
 */
export function learnProtocol(known: ProtocolKnowledge, tried: ProtocolVersion, end: SessionEnd['kind']): ProtocolKnowledge {
  if (end === 'protocol') return tried === 5 ? { next: 4, lacks5: true } : { next: 5, lacks5: false };
  if (end === 'silent') return { next: tried === 5 ? 4 : 5, lacks5: false };
  if (end === 'lost' || end === 'taken_over') return { next: known.lacks5 ? 4 : 5, lacks5: known.lacks5 };
  return { next: known.lacks5 ? 4 : known.next, lacks5: known.lacks5 };
}

const NOT_AUTHORIZED = new Set([0x04, 0x05, 0x86, 0x87]);

/** Explains why there is no connection, and how to fix it. `shortLived`: consecutive short connections. */
export function linkFault(url: string, end: SessionEnd, shortLived = 0): Fault {
  if (end.kind === 'lost' && shortLived >= SHORT_LIVED_SUSPECT) {
    return {
      operation: `connect to ${withoutSecrets(url)}`,
      cause: `${end.cause}, ${shortLived} times in a row soon after it was made`,
      hint: "Perhaps another device connects under this gate's name (a copied SD card): look for the name in the broker's log.",
      healsItself: true,
    };
  }
  return { operation: `connect to ${withoutSecrets(url)}`, cause: end.cause, hint: hintFor(end), healsItself: end.kind !== 'taken_over' };
}

function hintFor(end: SessionEnd): string {
  if (end.kind === 'taken_over') return "Another device connects under this gate's name: find the copied SD card, or revoke and enrol again.";
  if (end.kind === 'protocol') return 'The broker speaks neither MQTT 5 nor 3.1.1: use one that does.';
  if (end.kind === 'refused') {
    return end.code !== null && NOT_AUTHORIZED.has(end.code)
      ? "The broker does not accept this gate: check that its certificate is not revoked and that the broker's ACL names it (deploy/mosquitto)."
      : "See the broker's log for the reason.";
  }
  if (/not yet valid|NOT_YET_VALID/i.test(end.cause))
    return 'The certificate is not yet valid: the clock of the gate is probably behind. Check NTP, or set the time.';
  if (/expired/i.test(end.cause)) return 'A certificate has expired: renew it with stile-gate enroll, or check that the clock is not ahead.';
  if (/self.signed|unable to (verify|get)|UNABLE_TO|SELF_SIGNED/i.test(end.cause))
    return 'The certificate of the broker is not signed by the CA in mqtt.ca: check the file.';
  if (/altnames|ALTNAME/i.test(end.cause)) return 'The name in mqtt.url is not in the certificate of the broker: use a name that it carries.';
  if (/ENOTFOUND|EAI_AGAIN/i.test(end.cause)) return 'The name in mqtt.url cannot be resolved: check DNS and the spelling.';
  if (/certificate|alert|SSL|TLS/i.test(end.cause)) return 'TLS failed: check mqtt.ca, mqtt.cert and mqtt.key, and that the certificate is not revoked.';
  if (end.kind === 'silent') return 'The broker was reached but did not answer as one: check the port (TLS or plain) and the certificate.';
  return 'Check the cable, the address and port in mqtt.url, and that the broker runs. The gate retries.';
}

function withoutSecrets(url: string): string {
  try {
    const { protocol, host } = new URL(url);
    return `${protocol}//${host}`;
  } catch {
    return 'the broker';
  }
}
