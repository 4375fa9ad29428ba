/**
 * Serves the cloud's HTTP interface: identities, error bodies, limits, OpenAPI. Features register their routes on the App; this file knows none of
 * them. The only file that imports fastify and its plugins.
 *
 * A route names its permitted callers in `config.who`; the server refuses to start with a route that does not, so nothing is open by accident.
 */
import { createHash } from 'node:crypto';
import type { Socket } from 'node:net';
import fastifySwagger from '@fastify/swagger';
import Fastify, {
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  type RawReplyDefaultExpression,
  type RawRequestDefaultExpression,
  type RawServerDefault,
} from 'fastify';
import {
  hasZodFastifySchemaValidationErrors,
  isResponseSerializationError,
  jsonSchemaTransform,
  serializerCompiler,
  validatorCompiler,
  type ZodTypeProvider,
} from 'fastify-type-provider-zod';
import type { z } from 'zod';
import { MAX_DEPTH, tooDeep, unstorable } from '../../contract/parse.ts';
import { describeIssue } from '../../contract/schema-errors.ts';
import { cutText } from '../../contract/text.ts';
import { businessErrorOf, isTransient } from '../db/database.ts';
import type { Log } from '../log.ts';
import type { Metrics } from '../metrics.ts';
import { type Addresses, createAddresses } from './addresses.ts';
import { createAuthThrottle } from './auth-throttle.ts';
import { coalesce } from './coalesce.ts';

/** Largest body, in bytes, where the route sets none; a larger one is answered with 413 before it is read. */
const MAX_BODY_BYTES = 16 * 1024;
/** `bodyLimit`, in bytes, of the few routes that take more: lists of one object, and whole uploads (10,000 scans, 1,000 tickets). */
export const LIST_BYTES = 256 * 1024;
export const UPLOAD_BYTES = 4 * 1024 * 1024;
/** Time for a caller to send its request, in milliseconds; a slower one is dropped. */
const REQUEST_TIMEOUT_MS = 30_000;
/** Idle time of a connection, in milliseconds; afterwards it is dropped, as for a caller that never reads its answer. */
const IDLE_TIMEOUT_MS = 120_000;
/** Connections at once; further ones are dropped. Far below the process's limit of open files: the database needs some too. */
const MAX_CONNECTIONS = 10_000;
/** Time, in milliseconds, for which the open paths repeat their last answer: anybody may ask them without a limit. */
const OPEN_ANSWER_KEPT_MS = 250;
/** Problems that one answer names; further ones are left out. */
const MAX_NAMED_PROBLEMS = 10;

/** The callers that a route accepts: anyone, a device, an operator, or either of the two. */
export type Who = 'open' | 'device' | 'operator' | 'any';
export interface DeviceIdentity {
  readonly kind: 'device';
  readonly tenantId: string;
  readonly device: string;
}
/** `actor` null: a service that names the acting person itself. */
export interface OperatorIdentity {
  readonly kind: 'operator';
  readonly tenantId: string;
  readonly name: string;
  readonly actor: string | null;
}
export type Identity = DeviceIdentity | OperatorIdentity;
/** The caller's credentials: a bearer token, or its certificate's name as a trusted proxy passes it on. */
export interface Credentials {
  readonly token: string | null;
  readonly deviceName: string | null;
}

declare module 'fastify' {
  interface FastifyRequest {
    identity: Identity | null;
    /** The key of its counters: the true address, IPv6 by its /64. */
    address: string;
  }
  interface FastifyContextConfig {
    who?: Who;
    /** An open route without cost (pages, health): outside every limit. */
    unlimited?: true;
    /** Returns whether this bearer token opens an open route. Called where its address is blocked, so that a good token is still admitted. */
    opensWith?: (token: string) => Promise<boolean>;
    /** Fields of the body whose texts are not checked: the handler checks their parts one by one, or stores none. */
    unjudged?: readonly string[];
  }
}

export type App = FastifyInstance<RawServerDefault, RawRequestDefaultExpression, RawReplyDefaultExpression, FastifyBaseLogger, ZodTypeProvider>;
export type HttpRequest = FastifyRequest;
export type HttpReply = FastifyReply;

/** Thrown by a route to answer with an error: a stable code in capitals, and a message that says what to do. */
export class HttpProblem extends Error {
  override name = 'HttpProblem';
  readonly status: number;
  readonly code: string;
  readonly headers: Readonly<Record<string, string>>;
  constructor(status: number, code: string, message: string, headers: Readonly<Record<string, string>> = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.headers = headers;
  }
}

export interface HttpOptions {
  readonly log: Log;
  readonly metrics: Metrics;
  readonly version: string;
  /** null: the credentials are not valid. */
  readonly identify: (credentials: Credentials) => Promise<Identity | null>;
  /** Returns the faults that prevent work, by part; null: ready. */
  readonly readiness: () => Promise<Readonly<Record<string, string | null>>>;
  /** The header is trusted from trusted proxies alone. */
  readonly deviceNameHeader: string | null;
  /** Addresses and networks whose X-Forwarded-For is trusted. */
  readonly trustedProxies: readonly string[];
  readonly ratePerMinute: number;
}

/** Creates the app with the open paths; nothing listens before `app.listen`. */
export async function createHttp(options: HttpOptions): Promise<App> {
  const server = Fastify({
    bodyLimit: MAX_BODY_BYTES,
    requestTimeout: REQUEST_TIMEOUT_MS,
    connectionTimeout: IDLE_TIMEOUT_MS,
    forceCloseConnections: 'idle',
    routerOptions: { maxParamLength: 200 },
    logger: false,
    // An error before a route is found is answered in the shape of every other error.
    frameworkErrors: (_error, _request, reply: FastifyReply) =>
      reply
        .code(400)
        .type(JSON_TYPE)
        .send(errorBody('BAD_REQUEST', 'the path cannot be read: write it percent-encoded, in UTF-8, and at most 200 characters an id')),
    clientErrorHandler: refuseUnread,
  });
  server.server.maxConnections = MAX_CONNECTIONS;
  server.setValidatorCompiler(validatorCompiler);
  server.setSerializerCompiler(serializerCompiler);
  const app = server.withTypeProvider<ZodTypeProvider>() as unknown as App;
  // Accepts a request without a body whose content type is JSON.
  app.addContentTypeParser('application/json', { parseAs: 'string' }, (_request, body, done) => {
    if (body === '') {
      done(null, {});
      return;
    }
    if (tooDeep(body as string)) {
      done(new HttpProblem(400, 'BAD_REQUEST', `the body is nested deeper than ${MAX_DEPTH}`));
      return;
    }
    try {
      done(null, JSON.parse(body as string));
    } catch {
      done(new HttpProblem(400, 'NOT_JSON', 'the body is not JSON'));
    }
  });
  app.decorateRequest('identity', null);
  app.decorateRequest('address', '');
  app.addHook('onRoute', (route) => {
    if (route.config?.who === undefined && route.method !== 'HEAD') throw new Error(`${String(route.method)} ${route.url} does not say who may call it`);
  });
  addErrors(app, options);
  await app.register(fastifySwagger, {
    openapi: {
      openapi: '3.1.0',
      info: { title: 'Stile', description: 'Tickets, gates and what happened at them', version: options.version },
      components: {
        securitySchemes: {
          device: { type: 'http', scheme: 'bearer', description: "a device's token" },
          operator: { type: 'http', scheme: 'bearer', description: "an operator's token" },
        },
      },
    },
    transform: jsonSchemaTransform,
  });
  identifyCallers(app, options);
  addTexts(app);
  addMetrics(app, options.metrics);
  addOpenPaths(app, options);
  return app;
}

/** Identifies the caller before the body is read: limits first, then the lookup of the credentials. */
function identifyCallers(app: App, options: HttpOptions): void {
  const { ratePerMinute } = options;
  const throttle = createAuthThrottle(ratePerMinute);
  const addresses = createAddresses(options.trustedProxies);
  const wrong = options.metrics.counter('stile_http_failures_total', 'Wrong credentials, and requests of strangers that were no good');
  const failed = (address: string, credentials: string | null) => {
    wrong.add(1);
    if (throttle.recordFailure(address, credentials, Date.now()))
      options.log.warn(
        { address, failures: ratePerMinute },
        'an address fails too often: until the minute is over, what it shows is looked up a little at a time',
      );
  };
  app.addHook('onRequest', async (request) => {
    const { who, unlimited, opensWith } = request.routeOptions.config ?? {};
    if (unlimited === true) return;
    request.address = addresses.of(request.socket.remoteAddress, forwardedFor(request));
    const shown = credentialsOf(request, addresses, options.deviceNameHeader);
    const closed = throttle.isBlocked(request.address, Date.now());
    if (who === undefined || who === 'open') {
      const { token } = shown;
      if (closed && (token === null || opensWith === undefined || (await throttle.runInTurn(request.address, () => opensWith(token))) !== true))
        throw isBlocked(ratePerMinute);
      return;
    }
    const caller = createHash('sha256')
      .update(`${shown.token ?? ''} ${shown.deviceName ?? ''}`)
      .digest('base64url');
    const known = throttle.identityOf(caller);
    refuseBeyond(known === null ? null : throttle.retryAfterS(known, Date.now()), ratePerMinute);
    const asked = closed && known === null ? throttle.runInTurn(request.address, () => options.identify(shown)) : options.identify(shown);
    if (asked === null) throw isBlocked(ratePerMinute);
    const identity = await asked;
    if (identity === null) {
      failed(request.address, caller);
      throw closed ? isBlocked(ratePerMinute) : unauthenticated(shown.token);
    }
    const name = identity.kind === 'device' ? `device ${identity.device}` : `operator ${identity.tenantId} ${identity.name}`;
    throttle.recordSuccess(caller, name);
    refuseBeyond(throttle.countRequest(name, Date.now()), ratePerMinute);
    if (who !== 'any' && identity.kind !== who)
      throw new HttpProblem(403, 'FORBIDDEN', who === 'device' ? 'this call is for devices' : 'this call is for operators');
    request.identity = identity;
  });
  // Failed requests of strangers, to open routes and to unknown ones, are counted by their answer, so that an enrolment of a hundred gates does not
  // count.
  app.addHook('onResponse', async (request, { statusCode }) => {
    const { who, unlimited } = request.routeOptions.config ?? {};
    if (unlimited !== true && (who === undefined || who === 'open') && statusCode >= 400 && statusCode < 500 && statusCode !== 429)
      failed(request.address, null);
  });
}

const forwardedFor = (request: FastifyRequest): string | undefined => {
  const value = request.headers['x-forwarded-for'];
  return Array.isArray(value) ? value.join(',') : value;
};

/** Accepts the name in a certificate from a trusted proxy alone: anybody can write a header. */
function credentialsOf(request: FastifyRequest, addresses: Addresses, deviceNameHeader: string | null): Credentials {
  const token = /^Bearer +(\S{8,512})$/i.exec(request.headers.authorization ?? '')?.[1] ?? null;
  const named = deviceNameHeader === null || !addresses.trusted(request.socket.remoteAddress) ? undefined : request.headers[deviceNameHeader];
  return { token, deviceName: typeof named === 'string' ? named : null };
}

const isBlocked = (ratePerMinute: number) =>
  new HttpProblem(429, 'TOO_MANY_REQUESTS', `at most ${ratePerMinute} wrong tokens or failed requests a minute from one address: try again in 1 minute`, {
    'retry-after': '60',
  });
const unauthenticated = (token: string | null) =>
  new HttpProblem(
    401,
    'UNAUTHENTICATED',
    token === null ? 'say who is calling: Authorization: Bearer <token>' : 'this token opens nothing: it was never given, has been replaced, or is revoked',
    { 'www-authenticate': 'Bearer' },
  );

function refuseBeyond(waitS: number | null, ratePerMinute: number): void {
  if (waitS !== null)
    throw new HttpProblem(429, 'TOO_MANY_REQUESTS', `at most ${ratePerMinute} requests a minute: try again in ${waitS} s`, { 'retry-after': String(waitS) });
}

/** Refuses texts that no database can hold, with their field's name, whatever the route's schema accepts. */
function addTexts(app: App): void {
  app.addHook('preValidation', async (request) => {
    const { unjudged = [] } = request.routeOptions.config ?? {};
    const whole = request.body;
    const body =
      unjudged.length > 0 && typeof whole === 'object' && whole !== null
        ? Object.fromEntries(Object.entries(whole).filter(([name]) => !unjudged.includes(name)))
        : whole;
    for (const part of [request.params, request.query, body]) {
      const found = unstorable(part);
      if (found !== null) throw new HttpProblem(400, 'BAD_REQUEST', `${found.field || '(body)'}: ${found.why}: leave it out`);
    }
  });
}

/** Returns the caller of a route whose `who` is `device`. */
export function deviceOf(request: { identity: Identity | null }): DeviceIdentity {
  if (request.identity?.kind !== 'device') throw new HttpProblem(403, 'FORBIDDEN', 'this call is for devices');
  return request.identity;
}
/** Returns the caller of a route whose `who` is `operator`. */
export function operatorOf(request: { identity: Identity | null }): OperatorIdentity {
  if (request.identity?.kind !== 'operator') throw new HttpProblem(403, 'FORBIDDEN', 'this call is for operators');
  return request.identity;
}
/** Returns the acting person: the token's own; a service names its user. A personal token acts for nobody else. */
export function actorOf(operator: OperatorIdentity, named: string | undefined): string {
  if (operator.actor === null) return named ?? operator.name;
  if (named !== undefined && named !== operator.actor) throw new HttpProblem(403, 'OTHER_ACTOR', `this token acts for ${operator.actor}, not for ${named}`);
  return operator.actor;
}

/** Answers malformed HTTP, or a head that is too large, on the bare connection and ends it: it never becomes a request. */
function refuseUnread(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const [status, code, message] =
    error.code === 'HPE_HEADER_OVERFLOW'
      ? ['431 Request Header Fields Too Large', 'TOO_LARGE', 'address and headers are too long']
      : error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
        ? ['408 Request Timeout', 'TOO_SLOW', `the request did not arrive within ${REQUEST_TIMEOUT_MS} ms`]
        : ['400 Bad Request', 'BAD_REQUEST', 'this is no HTTP/1.1 request'];
  const body = errorBody(code as string, message as string);
  socket.end(`HTTP/1.1 ${status}\r\nContent-Type: ${JSON_TYPE}\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`);
}

const JSON_TYPE = 'application/json; charset=utf-8';
const errorBody = (error: string, message: string): string => JSON.stringify({ success: false, error, message });

function addErrors(app: App, { log }: HttpOptions): void {
  const answer = (reply: FastifyReply, status: number, error: string, message: string) => reply.code(status).type(JSON_TYPE).send(errorBody(error, message));
  app.setNotFoundHandler((request, reply) =>
    answer(reply, 404, 'NO_SUCH_PATH', `there is nothing at ${request.method} ${cutText(request.url.split('?')[0] ?? '', 200)}; see /openapi.json`),
  );
  app.setErrorHandler((error: Error & { statusCode?: number; code?: string }, request, reply) => {
    if (error instanceof HttpProblem) return answer(reply.headers(error.headers), error.status, error.code, error.message);
    if (hasZodFastifySchemaValidationErrors(error)) {
      const where = error.validationContext ?? 'body';
      const problems = error.validation
        .slice(0, MAX_NAMED_PROBLEMS)
        .map(
          ({ instancePath, keyword, message, params }) =>
            `${instancePath.slice(1).replaceAll('/', '.') || `(${where})`}: ${describeIssue({ ...params, code: keyword, path: [], message: message ?? '' } as unknown as z.core.$ZodIssue)}`,
        );
      return answer(reply, 400, 'BAD_REQUEST', problems.join('; '));
    }
    if (error.code === 'FST_ERR_CTP_BODY_TOO_LARGE')
      return answer(reply, 413, 'TOO_LARGE', `the body has more than ${request.routeOptions.bodyLimit ?? MAX_BODY_BYTES} bytes: send less at once`);
    if (error.code === 'FST_ERR_CTP_INVALID_MEDIA_TYPE') return answer(reply, 415, 'NOT_JSON', 'send the body as application/json');
    if (typeof error.statusCode === 'number' && error.statusCode < 500) return answer(reply, error.statusCode, 'BAD_REQUEST', error.message);
    const refused = businessErrorOf(error);
    if (refused !== null) return answer(reply, refused.status, refused.code, refused.message);
    if (isTransient(error)) {
      log.warn({ method: request.method, path: request.routeOptions.url, error: error.message }, 'request failed: the database is not reachable');
      return answer(reply.header('retry-after', '2'), 503, 'TRY_AGAIN', 'the database cannot answer at the moment: try again');
    }
    const detail = isResponseSerializationError(error) ? { issues: error.cause.issues.slice(0, 5) } : {};
    log.error({ method: request.method, path: request.routeOptions.url, error: error.message, stack: error.stack, ...detail }, 'request failed');
    return answer(reply, 500, 'INTERNAL', 'something went wrong here; it has been logged');
  });
}

function addMetrics(app: App, metrics: Metrics): void {
  const seconds = metrics.duration('stile_http_request_seconds', 'Time from request to answer', ['method', 'path', 'status']);
  app.addHook('onResponse', async (request, reply) => {
    seconds.observe(reply.elapsedTime / 1000, { method: request.method, path: request.routeOptions.url ?? '(none)', status: String(reply.statusCode) });
  });
}

function addOpenPaths(app: App, options: HttpOptions): void {
  const readiness = coalesce(options.readiness, OPEN_ANSWER_KEPT_MS);
  const open = { who: 'open', unlimited: true } as const;
  let description: string | null = null;
  app.get('/healthz', { config: open, schema: { tags: ['health'], summary: 'The process runs' } }, async () => ({
    success: true,
    version: options.version,
  }));
  app.get('/readyz', { config: open, schema: { tags: ['health'], summary: 'Database and broker can be reached' } }, async (_request, reply) => {
    const parts = await readiness();
    const wrong = Object.entries(parts).filter(([, problem]) => problem !== null);
    if (wrong.length === 0) return { success: true, parts: Object.keys(parts) };
    // Anybody may ask: the causes (addresses, names of roles) are in the log.
    return reply.code(503).send({ success: false, error: 'NOT_READY', message: `${wrong.map(([part]) => part).join(' and ')} cannot be reached` });
  });
  app.get('/openapi.json', { config: open, schema: { tags: ['health'], summary: 'This description' } }, async (_request, reply) => {
    // All routes are registered before the first request.
    description ??= JSON.stringify(app.swagger());
    return reply.type(JSON_TYPE).send(description);
  });
}
