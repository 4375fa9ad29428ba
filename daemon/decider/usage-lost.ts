/** Decides when the gate asks the cloud for a ticket's usage, because it has lost its own. */
import type { PlaceFacts, Recognised, RecognisedTicket } from '../../rules/facts.ts';
import type { Policy } from '../../rules/policy.ts';
import type { CloudReply } from './judgement.ts';

/** Returns whether the cloud is asked: usage is incomplete, the policy says `ask`, and the ticket's entries count. */
export function asksForUsage(facts: Recognised, policy: Policy, place: PlaceFacts): facts is RecognisedTicket {
  return !place.usageComplete && policy.usage_lost === 'ask' && facts.kind === 'ticket' && !(facts.ticket.vip && policy.vip_reentry === 'always');
}

/** Returns whether the cloud has answered on this ticket: its answer holds the whole usage. */
export const isAnswered = (answer: CloudReply, ticketRef: string): boolean => Array.isArray(answer) && answer.some((one) => one.ticketRef === ticketRef);
