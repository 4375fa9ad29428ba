/** Collects what the rules need for one code: the ticket's facts, the policy in force and the place. */
import { chooseEvent } from '../../rules/choose.ts';
import { readCode, recogniseReadings } from '../../rules/code.ts';
import type { PlaceFacts } from '../../rules/facts.ts';
import { DEFAULT_POLICY, effectivePolicy, type Policy } from '../../rules/policy.ts';
import type { Keyring } from '../../signing/keyring.ts';
import type { Presentation } from '../ports.ts';
import type { Stamp } from '../store/ledger.ts';
import type { EventManifest, Manifests } from '../store/manifest-store.ts';
import type { UsageStore } from '../store/usage-store.ts';
import type { LateAnswers } from './late-answer-cache.ts';
import { type Occupancy, policiesOf } from './occupancy.ts';
import { type CloudTicket, type Resolved, resolveTicket } from './resolve-ticket.ts';

/** Effective policies kept, one a tier and event. At the bound: all are dropped and computed again. */
const MAX_CACHED_POLICIES = 1_000;

/** undefined: never ask the cloud; `may_ask`: it may be asked first; else its answer (empty: it did not know, or did not answer). */
export type CloudReply = undefined | 'may_ask' | readonly CloudTicket[];

/** The facts and rules that a decision uses, as they are now. */
export interface JudgedBy {
  readonly manifests: Manifests;
  readonly usage: UsageStore;
  readonly inside: Occupancy['inside'];
  readonly usageComplete: boolean;
}

export interface Judged {
  readonly nowMs: number;
  readonly gathered: Resolved;
  readonly policy: Policy;
  readonly place: PlaceFacts;
}

export interface Judgement {
  /** Resolves a code to its facts, policy and place; the caller decides by them. */
  judge(
    by: JudgedBy,
    shown: { readonly presentation: Omit<Presentation, 'bytes'>; readonly bytes: Uint8Array; readonly stamp: Stamp; readonly answer: CloudReply },
  ): Judged;
  /** Drops the cached policies, because manifests changed. */
  forgetPolicies(): void;
}

export function createJudgement({
  gate,
  keyring,
  lateAnswers,
}: {
  readonly gate: string;
  readonly keyring: Keyring;
  readonly lateAnswers: LateAnswers;
}): Judgement {
  const policies = new Map<string, Policy>();
  const policyOf = (event: EventManifest | null, tier: string | null): Policy => {
    if (event === null) return DEFAULT_POLICY;
    const key = `${event.eventId} ${event.file.head.version} ${tier ?? ''}`;
    const known = policies.get(key);
    if (known !== undefined) return known;
    const policy = effectivePolicy(policiesOf(event.file) ?? {}, tier, gate);
    if (policies.size >= MAX_CACHED_POLICIES) policies.clear();
    policies.set(key, policy);
    return policy;
  };

  return {
    judge({ manifests, usage, inside, usageComplete }, { presentation, bytes, stamp, answer }) {
      const nowMs = stamp.offset === null ? stamp.wallMs : stamp.boottimeMs + stamp.offset.offsetMs;
      const place: PlaceFacts = {
        gate,
        direction: presentation.direction,
        mode: presentation.mode,
        nowMs,
        clockTrusted: stamp.trusted,
        online: presentation.online,
        usageComplete,
      };
      const code = readCode(bytes);
      const gathered = resolveTicket(
        code.kind === 'code' ? recogniseReadings(code.text) : null,
        {
          manifests,
          usage,
          verify: keyring.verifyBytes,
          keyNowMs: stamp.trusted ? nowMs : null,
          // Only where the policy asks at all: what may not be asked may not be remembered either.
          late: (event, ref) => (policyOf(event, null).unknown === 'ask' ? lateAnswers.find(event.eventId, ref, stamp.boottimeMs) : null),
          inside,
          choose: (tickets) =>
            chooseEvent(
              tickets.map((facts) => ({ facts, policy: policyOf(manifests.find(facts.event.eventId), facts.ticket.tier) })),
              place,
            ),
        },
        typeof answer === 'object' ? answer : null,
      );
      const { facts, event } = gathered;
      const policy = policyOf(event, facts.kind === 'ticket' ? facts.ticket.tier : null);
      return { nowMs, gathered, policy, place };
    },
    forgetPolicies: () => policies.clear(),
  };
}
