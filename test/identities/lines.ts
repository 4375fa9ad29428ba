/**
 * Every HTTP route × everybody, with the expected answer. Closed by default: whoever a line does not name must be refused, nobodies with 401, devices before a
 * route for operators and operators before one for devices with 403; a valid caller of the right kind must be named. A route without a line fails.
 */
import { DEVICES, type Device, type Fixture, nameOf, type Operator, type Who } from './fixture.ts';

export interface Line {
  /** What is asked, where a route has several lines. */
  readonly what?: string;
  /** For whom the route is: decides how the unnamed are refused. `open`: for everybody, named with `everybody`. */
  readonly kind: 'device' | 'operator' | 'any' | 'open';
  readonly ask: (who: Who, fixture: Fixture) => { readonly path: string; readonly body?: unknown; readonly headers?: Readonly<Record<string, string>> };
  /** `200` or `403 OTHER_SITE`; 200 alone is success, and is asked after all refusals. */
  readonly answers: Partial<Record<Who | 'everybody', string>>;
  /** For the success of strangers over their own things: what they are told has nothing of ours. Default true. */
  readonly keepsSecrets?: boolean;
}

const by = <K extends Who>(answer: string, ...who: readonly K[]) => Object.fromEntries(who.map((one) => [one, answer])) as Partial<Record<Who, string>>;
const ALL_DEVICES = Object.keys(DEVICES) as Device[];
const OURS = ['gate', 'sibling', 'unassigned', 'scanner', 'elsewhere', 'scanner elsewhere'] as const satisfies readonly Device[];
const THEIRS = ['stranger', "strangers' scanner"] as const satisfies readonly Device[];
const OUR_OPERATORS = ['operator', 'service'] as const satisfies readonly Operator[];
const THEIR_OPERATOR = "strangers' operator";
const own = (who: Who) => encodeURIComponent(nameOf(who));
const actor = (who: Who) => (who === THEIR_OPERATOR ? 'bert' : 'anna');
const open = (path: string): Line[] => [{ kind: 'open', ask: () => ({ path }), answers: { everybody: '200' } }];
/** Each caller a number of its own, so that what one did is nobody else's. */
const nth = (who: Who): number => ['operator', 'service', THEIR_OPERATOR, ...ALL_DEVICES].indexOf(who) + 10;
const ticketOf = (who: Who, { ours, theirs }: Fixture) =>
  (who === THEIR_OPERATOR || (THEIRS as readonly Who[]).includes(who) ? theirs : ours).tickets[nth(who)];
const SQLITE = { accept: 'application/vnd.sqlite3' };

const manifest = (event: string, answers: Line['answers'], headers: Readonly<Record<string, string>> = {}, more = ''): Line => ({
  what: `${event}${headers['accept'] === undefined ? '' : ' as a file'}${more}`,
  kind: 'device',
  ask: (who) => ({ path: `/offline/manifest/${event}?device_id=${own(who)}${more}`, headers }),
  answers,
});
const EV1 = {
  ...by('200', 'gate', 'sibling', 'scanner', ...THEIRS),
  ...by('403 NOT_ASSIGNED', 'unassigned', 'elsewhere', 'scanner elsewhere'),
};
const EV2 = {
  ...by('200', 'elsewhere', 'scanner elsewhere'),
  ...by('403 NOT_ASSIGNED', 'gate', 'sibling', 'unassigned', 'scanner'),
  ...by('404 NO_SUCH_EVENT', ...THEIRS),
};
const ticketAction = (action: string): Line => ({
  what: `${action} of ours`,
  kind: 'operator',
  ask: (_who, { ours }) => ({ path: `/tickets/only-ours/${action}?x=${ours.site}`, body: { reason: 'x', event_id: 'EV2' } }),
  answers: { ...by('404 NO_SUCH_TICKET', ...OUR_OPERATORS, THEIR_OPERATOR) },
});

export const LINES: Readonly<Record<string, readonly Line[]>> = {
  'GET /healthz': open('/healthz'),
  'GET /readyz': open('/readyz'),
  'GET /openapi.json': open('/openapi.json'),
  'GET /enroll/ca': open('/enroll/ca'),
  'GET /console': open('/console'),
  'GET /console/page.css': open('/console/page.css'),
  'GET /console/page.js': open('/console/page.js'),
  // Its identity is the token in the body: a table of its own, below.
  'POST /enroll': [
    {
      kind: 'open',
      ask: () => ({ path: '/enroll', body: { token: 'stile-enrol-nobody-ever-gave-this', csr: 'x' } }),
      answers: { everybody: '401 UNAUTHENTICATED' },
    },
  ],

  // The token says which gate; the certificate and the proof must be its own.
  'POST /enroll/renew': [
    {
      kind: 'device',
      ask: () => ({ path: '/enroll/renew', body: { csr: 'x', certificate: 'x', proof: 'x' } }),
      answers: by('403 NOT_YOUR_CERTIFICATE', ...ALL_DEVICES),
    },
  ],

  'GET /offline/manifest/:eventId': [
    manifest('EV1', EV1),
    manifest('EV2', EV2),
    manifest('EV1', EV1, SQLITE),
    manifest('EV2', EV2, SQLITE),
    manifest('EV1', EV1, {}, '&since=1'),
    manifest('EV2', EV2, {}, '&since=1'),
    {
      what: "in another's name",
      kind: 'device',
      ask: (who) => ({ path: `/offline/manifest/EV1?device_id=${who === 'gate' ? 'arena%2Fsouth' : 'arena%2Fnorth'}` }),
      answers: by('403 OTHER_DEVICE', ...ALL_DEVICES),
    },
    { what: 'in no name', kind: 'device', ask: () => ({ path: '/offline/manifest/EV1' }), answers: by('400 MISSING_DEVICE_ID', ...ALL_DEVICES) },
  ],
  'POST /scan': [
    {
      what: 'EV1',
      kind: 'device',
      ask: (who, fixture) => ({
        path: '/scan',
        body: { device_id: nameOf(who), event_id: 'EV1', scan_id: `s-${nth(who)}`, code: ticketOf(who, fixture)?.code },
      }),
      answers: EV1,
    },
    {
      what: 'EV2',
      kind: 'device',
      ask: (who) => ({ path: '/scan', body: { device_id: nameOf(who), event_id: 'EV2', scan_id: `s2-${nth(who)}`, code: 'x'.repeat(24) } }),
      answers: EV2,
    },
    {
      what: "in another's name",
      kind: 'device',
      ask: (who, { ours }) => ({
        path: '/scan',
        body: { device_id: who === 'gate' ? 'arena/south' : 'arena/north', event_id: 'EV1', scan_id: 'x', code: ours.tickets[29]?.code },
      }),
      answers: by('403 OTHER_DEVICE', ...ALL_DEVICES),
    },
  ],
  'POST /offline/reconcile': [
    {
      what: 'a ticket of EV1',
      kind: 'device',
      ask: (who, fixture) => ({
        path: '/offline/reconcile',
        body: {
          device_id: nameOf(who),
          scans: [{ ticket_id: ticketOf(who, fixture)?.ticketId, event_id: 'EV1', scanned_at: new Date().toISOString(), result: 'ALLOW' }],
        },
      }),
      // A scanner of the site whose assignment was taken away still tells what happened; one of another site knows nothing of these tickets.
      answers: by('200', ...ALL_DEVICES),
    },
    {
      what: "in another's name",
      kind: 'device',
      ask: (who) => ({ path: '/offline/reconcile', body: { device_id: who === 'gate' ? 'arena/south' : 'arena/north', scans: [] } }),
      answers: by('403 OTHER_DEVICE', ...ALL_DEVICES),
    },
  ],
  'GET /sites/:site/ledger': [
    {
      what: 'arena',
      kind: 'any',
      ask: () => ({ path: '/sites/arena/ledger' }),
      answers: {
        ...by('200', 'gate', 'sibling', 'unassigned', 'scanner', ...OUR_OPERATORS, THEIR_OPERATOR),
        ...by('403 OTHER_SITE', 'elsewhere', 'scanner elsewhere', ...THEIRS),
      },
    },
    {
      what: 'stadium',
      kind: 'any',
      ask: () => ({ path: '/sites/stadium/ledger' }),
      answers: {
        ...by('200', 'elsewhere', 'scanner elsewhere', ...OUR_OPERATORS, THEIR_OPERATOR),
        ...by('403 OTHER_SITE', 'gate', 'sibling', 'unassigned', 'scanner', ...THEIRS),
      },
    },
  ],

  'POST /sites/:site/ledger/query': [
    {
      what: 'arena',
      kind: 'any',
      ask: () => ({ path: '/sites/arena/ledger/query', body: { after: {} } }),
      answers: {
        ...by('200', 'gate', 'sibling', 'unassigned', 'scanner', ...OUR_OPERATORS, THEIR_OPERATOR),
        ...by('403 OTHER_SITE', 'elsewhere', 'scanner elsewhere', ...THEIRS),
      },
    },
    {
      what: 'stadium',
      kind: 'any',
      ask: () => ({ path: '/sites/stadium/ledger/query', body: { after: {} } }),
      answers: {
        ...by('200', 'elsewhere', 'scanner elsewhere', ...OUR_OPERATORS, THEIR_OPERATOR),
        ...by('403 OTHER_SITE', 'gate', 'sibling', 'unassigned', 'scanner', ...THEIRS),
      },
    },
  ],

  'GET /gates': [{ kind: 'operator', ask: () => ({ path: '/gates' }), answers: by('200', ...OUR_OPERATORS, THEIR_OPERATOR) }],
  'GET /refusals': [{ kind: 'operator', ask: () => ({ path: '/refusals' }), answers: by('200', ...OUR_OPERATORS, THEIR_OPERATOR) }],
  'GET /conflicts': [{ kind: 'operator', ask: () => ({ path: '/conflicts' }), answers: by('200', ...OUR_OPERATORS, THEIR_OPERATOR) }],
  'GET /events/:id/occupancy': [
    { what: 'EV1', kind: 'operator', ask: () => ({ path: '/events/EV1/occupancy' }), answers: by('200', ...OUR_OPERATORS, THEIR_OPERATOR) },
    {
      what: 'EV2',
      kind: 'operator',
      ask: () => ({ path: '/events/EV2/occupancy' }),
      answers: { ...by('200', ...OUR_OPERATORS), [THEIR_OPERATOR]: '404 NO_SUCH_EVENT' },
    },
  ],
  'GET /tickets/:id/history': [
    { kind: 'operator', ask: () => ({ path: '/tickets/T-1/history?event_id=EV1' }), answers: by('200', ...OUR_OPERATORS, THEIR_OPERATOR) },
    {
      what: 'EV2',
      kind: 'operator',
      ask: () => ({ path: '/tickets/T-1/history?event_id=EV2' }),
      answers: by('404 NO_SUCH_TICKET', ...OUR_OPERATORS, THEIR_OPERATOR),
    },
  ],
  'GET /scans/pending': [{ kind: 'operator', ask: () => ({ path: '/scans/pending' }), answers: by('200', ...OUR_OPERATORS, THEIR_OPERATOR) }],
  'GET /unsettled': [{ kind: 'operator', ask: () => ({ path: '/unsettled' }), answers: by('200', ...OUR_OPERATORS, THEIR_OPERATOR) }],
  'POST /grants/:site/:gate/:epoch/:seq/settle': [
    {
      kind: 'operator',
      ask: (who) => ({ path: `/grants/arena/north/1/${who === 'service' ? 3 : 1}/settle`, body: { outcome: 'returned', actor: actor(who), reason: 'x' } }),
      answers: { ...by('200', ...OUR_OPERATORS), [THEIR_OPERATOR]: '404 NO_SUCH_GRANT' },
    },
    {
      what: "in another person's name",
      kind: 'operator',
      ask: () => ({ path: '/grants/arena/north/1/5/settle', body: { outcome: 'returned', actor: 'carl', reason: 'x' } }),
      // A service names whoever acts.
      answers: { ...by('403 OTHER_ACTOR', 'operator', THEIR_OPERATOR), service: '200' },
    },
  ],
  'PUT /gates/:site/:gate/assignment': [
    {
      kind: 'operator',
      ask: () => ({ path: '/gates/arena/south/assignment', body: { event_ids: ['EV1'] } }),
      answers: { ...by('200', ...OUR_OPERATORS), [THEIR_OPERATOR]: '409 SITE_TAKEN' },
    },
    {
      what: 'a new gate',
      kind: 'operator',
      ask: (who) => ({ path: `/gates/arena/new-${nth(who)}/assignment`, body: { event_ids: ['EV1'] } }),
      answers: { ...by('200', ...OUR_OPERATORS), [THEIR_OPERATOR]: '409 SITE_TAKEN' },
    },
    {
      what: "another site's event",
      kind: 'operator',
      ask: () => ({ path: '/gates/arena/south/assignment', body: { event_ids: ['EV2'] } }),
      answers: { ...by('409 OTHER_SITE', ...OUR_OPERATORS), [THEIR_OPERATOR]: '409 SITE_TAKEN' },
    },
    {
      what: 'a revoked gate',
      kind: 'operator',
      ask: () => ({ path: '/gates/arena/gone/assignment', body: { event_ids: ['EV1'] } }),
      answers: { ...by('409 REVOKED', ...OUR_OPERATORS), [THEIR_OPERATOR]: '409 SITE_TAKEN' },
    },
  ],
  'POST /gates/:site/:gate/alerts/:alert/clear': [
    {
      kind: 'operator',
      ask: (who) => ({ path: `/gates/arena/north/alerts/${who === 'service' ? 'ledger' : 'clone'}/clear`, body: { actor: actor(who), reason: 'x' } }),
      answers: { ...by('200', ...OUR_OPERATORS), [THEIR_OPERATOR]: '404 NOT_FOUND' },
    },
    {
      what: "in another person's name",
      kind: 'operator',
      ask: () => ({ path: '/gates/arena/north/alerts/fire/clear', body: { actor: 'carl', reason: 'x' } }),
      answers: { ...by('403 OTHER_ACTOR', 'operator', THEIR_OPERATOR), service: '404 NOT_FOUND' },
    },
  ],
  'POST /gates/:site/:gate/requests/:command': [
    {
      kind: 'operator',
      ask: (who) => ({ path: '/gates/arena/north/requests/open', body: { actor: actor(who), reason: 'x' } }),
      answers: { ...by('200', ...OUR_OPERATORS), [THEIR_OPERATOR]: '404 NOT_FOUND' },
    },
    {
      what: 'a revoked gate',
      kind: 'operator',
      ask: (who) => ({ path: '/gates/arena/gone/requests/open', body: { actor: actor(who), reason: 'x' } }),
      answers: by('404 NOT_FOUND', ...OUR_OPERATORS, THEIR_OPERATOR),
    },
    {
      what: "in another person's name",
      kind: 'operator',
      ask: () => ({ path: '/gates/arena/north/requests/open', body: { actor: 'carl', reason: 'x' } }),
      answers: { ...by('403 OTHER_ACTOR', 'operator', THEIR_OPERATOR), service: '200' },
    },
  ],
  'PUT /events/:id': [
    {
      what: 'EV2',
      kind: 'operator',
      ask: () => ({ path: '/events/EV2', body: { name: 'EV2', site: 'stadium', ends_at: '2027-01-01T00:00:00.000Z' } }),
      answers: { ...by('200', ...OUR_OPERATORS), [THEIR_OPERATOR]: '409 SITE_TAKEN' },
    },
    {
      what: 'a new one at our site',
      kind: 'operator',
      ask: (who) => ({ path: `/events/NEW-${nth(who)}`, body: { name: 'x', site: 'arena', ends_at: '2027-01-01T00:00:00.000Z' } }),
      answers: { ...by('201', ...OUR_OPERATORS), [THEIR_OPERATOR]: '409 SITE_TAKEN' },
    },
  ],
  'PUT /tickets': [
    {
      what: 'EV2',
      kind: 'operator',
      ask: (who) => ({
        path: '/tickets',
        body: { tickets: [{ ticket_id: `N-${nth(who)}`, event_id: 'EV2', tier: 'standard', code: 'n'.repeat(24) + nth(who) + 'AbCdEfGhIjKlMnOp' }] },
      }),
      answers: { ...by('200', ...OUR_OPERATORS), [THEIR_OPERATOR]: '404 NO_SUCH_EVENT' },
    },
  ],
  'POST /tickets/:id/:action': [
    {
      what: 'block',
      kind: 'operator',
      ask: (who) => ({ path: `/tickets/T-${nth(who)}/block`, body: { reason: 'x', event_id: 'EV1' } }),
      answers: by('200', ...OUR_OPERATORS, THEIR_OPERATOR),
    },
    {
      what: "in another person's name",
      kind: 'operator',
      ask: () => ({ path: '/tickets/T-25/block', body: { reason: 'x', event_id: 'EV1', actor: 'carl' } }),
      answers: { ...by('403 OTHER_ACTOR', 'operator', THEIR_OPERATOR), service: '200' },
    },
    ...['transfer', 'revoke', 'unblock', 'refund'].map(ticketAction),
  ],
  'POST /notifications/take': [
    { kind: 'operator', ask: () => ({ path: '/notifications/take', body: {} }), answers: by('200', ...OUR_OPERATORS, THEIR_OPERATOR) },
  ],
  'POST /notifications/settle': [
    { kind: 'operator', ask: () => ({ path: '/notifications/settle', body: { ids: [1] } }), answers: by('200', ...OUR_OPERATORS, THEIR_OPERATOR) },
  ],
};

/** Returns the error by which a line refuses an identity that it does not name. */
export function businessErrorOf(line: Line, who: Who): string {
  if (line.answers.everybody !== undefined) return line.answers.everybody;
  if ((OURS as readonly Who[]).includes(who) || (THEIRS as readonly Who[]).includes(who))
    return line.kind === 'operator' ? '403 FORBIDDEN' : 'name this device in lines.ts';
  if (who === 'operator' || who === 'service' || who === THEIR_OPERATOR) return line.kind === 'device' ? '403 FORBIDDEN' : 'name this operator in lines.ts';
  return '401 UNAUTHENTICATED';
}
