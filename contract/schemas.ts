/** Lists every schema by its public name, and the payload of each topic: the source of examples, JSON Schema and the AsyncAPI document. */
import type { z } from 'zod';
import * as http from './http.ts';
import * as ledger from './ledger.ts';
import * as manifest from './manifest.ts';
import * as messages from './messages.ts';
import { COMMANDS, ResponseMessage, requestSchema } from './requests.ts';
import type { Topic } from './topics.ts';

/** Payloads of the topics, by kind. Requests are one schema a command: `request-<command>`. */
export const TOPIC_SCHEMAS = {
  state: messages.StateMessage,
  info: messages.InfoMessage,
  health: messages.HealthMessage,
  stats: messages.StatsMessage,
  ledger: ledger.LedgerMessage,
  event: messages.EventMessage,
  alert: messages.AlertMessage,
  response: ResponseMessage,
  handback: ledger.HandbackMessage,
  ack: ledger.AckMessage,
  want: manifest.WantMessage,
  overlay: manifest.OverlayMessage,
  lookup: manifest.LookupQuestion,
  lookup_answer: manifest.LookupAnswer,
  time: messages.TimeQuestion,
  time_answer: messages.TimeAnswer,
  cloud_state: messages.CloudStateMessage,
} as const satisfies Record<Exclude<Topic['kind'], 'request' | 'site_request'>, z.ZodType>;

export const REQUEST_SCHEMAS: Readonly<Record<string, z.ZodType>> = Object.fromEntries(
  COMMANDS.map((command) => [`request-${command}`, requestSchema(command)]),
);

type Dashed<S extends string> = S extends `${infer A}_${infer B}` ? `${A}-${Dashed<B>}` : S;
/** A row of the ledger, by kind. */
export const ENTRY_SCHEMAS: Readonly<Record<`entry-${Dashed<ledger.LedgerEntryKind>}`, z.ZodType>> = {
  'entry-grant': ledger.GrantEntry,
  'entry-claim': ledger.ClaimEntry,
  'entry-refusal': ledger.RefusalEntry,
  'entry-passage': ledger.PassageEntry,
  'entry-exit-unmatched': ledger.ExitUnmatchedEntry,
  'entry-settlement': ledger.SettlementEntry,
  'entry-conflict': ledger.ConflictEntry,
  'entry-override': ledger.OverrideEntry,
  'entry-mode': ledger.ModeEntry,
  'entry-fault': ledger.FaultEntry,
  'entry-alarm': ledger.AlarmEntry,
  'entry-clock': ledger.ClockEntry,
};

/** Bodies of the HTTP interface, and the head of a manifest file. */
export const BODY_SCHEMAS = {
  'http-error': http.HttpError,
  'offline-manifest-response': manifest.OfflineManifestResponse,
  'reconcile-request': http.ReconcileRequest,
  'reconcile-scan': http.OfflineScan,
  'reconcile-response': http.ReconcileResponse,
  'scan-request': http.ScanRequest,
  'scan-response': http.ScanResponse,
  'site-ledger-query': http.SiteLedgerQuery,
  'site-ledger-response': http.SiteLedgerResponse,
  'tickets-write': http.TicketsWrite,
  'ticket-action-request': http.TicketActionRequest,
  'event-write': http.EventWrite,
  'assignment-write': http.AssignmentWrite,
  'gates-response': http.GatesResponse,
  'refusals-response': http.RefusalsResponse,
  'gate-request-body': http.GateRequestBody,
  'clear-alert-body': http.ClearAlertBody,
  'settle-request': http.SettleRequest,
  'pending-scans-response': http.PendingScansResponse,
  'unsettled-response': http.UnsettledResponse,
  'history-response': http.HistoryResponse,
  'occupancy-response': http.OccupancyResponse,
  'conflicts-response': http.ConflictsResponse,
  'enroll-request': http.EnrollRequest,
  'enroll-response': http.EnrollResponse,
  'manifest-head': manifest.ManifestHead,
  'manifest-ticket': manifest.ManifestTicket,
  tombstone: manifest.Tombstone,
  'usage-entry': manifest.UsageEntry,
} as const satisfies Record<string, z.ZodType>;

/** Returns the file name's form of a topic's kind. */
export const schemaName = (kind: string): string => kind.replaceAll('_', '-');

/** All schemas, by name: `contract/examples/<name>/` and `contract/generated/<name>.schema.json`. */
export const SCHEMAS: Readonly<Record<string, z.ZodType>> = {
  ...Object.fromEntries(Object.entries(TOPIC_SCHEMAS).map(([kind, schema]) => [schemaName(kind), schema])),
  ...REQUEST_SCHEMAS,
  ...ENTRY_SCHEMAS,
  ...BODY_SCHEMAS,
};
