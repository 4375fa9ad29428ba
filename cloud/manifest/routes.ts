/** Serves `GET /offline/manifest/:eventId` in its three forms (JSON, delta, ready-made file), and `PUT /events/:id`. */
import { Readable } from 'node:stream';
import { z } from 'zod';
import { EventWrite } from '../../contract/http.ts';
import { EventId } from '../../contract/ids.ts';
import { DEFAULT_LENGTH_H } from '../../rules/validity.ts';
import type { Database } from '../db/database.ts';
import { type App, deviceOf, HttpProblem, type HttpReply, LIST_BYTES, operatorOf } from '../http/server.ts';
import { type EventRow, type ManifestRow, manifestRow, PIECE_BYTES, readEvent } from './build.ts';
import { putEvent } from './events.ts';
import { deltaManifest, type OfflineOptions, offlineEtag, wholeManifest } from './json-manifest.ts';

const SQLITE_TYPE = 'application/vnd.sqlite3';
/** Largest lead of a gate's version over the clock, in seconds; a larger one is refused. */
const MAX_AHEAD_S = 86_400;
/**
 * Whole manifests in JSON made at once (each holds the process for some time), and callers that wait for their turn; further ones are answered with
 * 429.
 */
const MAX_WHOLE_WAITING = 16;

export interface ManifestRouteOptions extends OfflineOptions {
  readonly database: Database;
}

const ManifestQuery = z.object({
  device_id: z.string().max(63).optional(),
  since: z.coerce.number().pipe(z.int().min(1)).optional(),
  /** For the ready-made file: exactly this version, as `manifest/want` named it. */
  version: z.coerce.number().pipe(z.int().min(1)).optional(),
});

export function registerManifestRoutes(app: App, options: ManifestRouteOptions): void {
  const { database } = options;
  const inTurn = createTurns(MAX_WHOLE_WAITING);

  app.get(
    '/offline/manifest/:eventId',
    {
      config: { who: 'device' },
      schema: {
        tags: ['gates'],
        summary: 'What a gate must know of an event; a delta with since; the ready-made file with Accept: application/vnd.sqlite3',
        params: z.object({ eventId: EventId }),
        querystring: ManifestQuery,
      },
    },
    async (request, reply) => {
      const { tenantId, device } = deviceOf(request);
      const { device_id, since, version } = request.query;
      const { eventId } = request.params;
      if (device_id === undefined || device_id === '') throw new HttpProblem(400, 'MISSING_DEVICE_ID', 'say which device asks: ?device_id=<site>/<gate>');
      if (device_id !== device) throw new HttpProblem(403, 'OTHER_DEVICE', `this token is ${device}'s, not ${device_id}'s`);
      const event = await database.withTenant(tenantId, (client) => assignedEvent(client, device, eventId));
      if ((request.headers.accept ?? '').includes(SQLITE_TYPE))
        return sendFile(reply, tenantId, eventId, version, request.headers['if-none-match'], request.headers.range);
      return since === undefined
        ? sendWhole(reply, tenantId, event, request.headers['if-none-match'])
        : sendDelta(reply, tenantId, event, since, request.headers['if-none-match']);
    },
  );

  app.put(
    '/events/:id',
    {
      bodyLimit: LIST_BYTES,
      config: { who: 'operator' },
      schema: { tags: ['operators'], summary: 'Makes or changes an event and its policies', params: z.object({ id: EventId }), body: EventWrite },
    },
    async (request, reply) => {
      const { tenantId } = operatorOf(request);
      const result = await database.withTenant(tenantId, (client) => putEvent(client, tenantId, request.params.id, request.body));
      if (!result.ok)
        throw new HttpProblem(
          result.code === 'BAD_REQUEST' || result.code === 'ENDS_AT_NEEDED' ? 400 : 409,
          result.code,
          result.code === 'OTHER_SITE' ? `${result.message} To move it, send "move": true` : result.message,
        );
      return reply.code(result.created ? 201 : 200).send({
        success: true,
        event_id: request.params.id,
        version: result.version,
        created: result.created,
        changed: result.changed,
        starts_at: result.startsAt,
        ends_at: result.endsAt,
        ...(result.endsAtDefault
          ? { ends_at_default: true, message: `ends_at was not given: the event ends ${result.endsAt}, ${DEFAULT_LENGTH_H} h after its beginning` }
          : {}),
        ...(result.warnings.length > 0 ? { warnings: result.warnings } : {}),
      });
    },
  );

  async function assignedEvent(client: Parameters<typeof readEvent>[0], device: string, eventId: string): Promise<EventRow> {
    const event = await readEvent(client, eventId);
    if (event === null) throw new HttpProblem(404, 'NO_SUCH_EVENT', `there is no event ${eventId}`);
    if ((await client.query('SELECT 1 FROM gate_assignments WHERE gate = $1 AND event_id = $2', [device, eventId])).rowCount === 0)
      throw new HttpProblem(403, 'NOT_ASSIGNED', `${device} is not assigned to ${eventId}: stile-cloud assign ${device} ${eventId}`);
    return event;
  }

  async function sendWhole(reply: HttpReply, tenantId: string, event: EventRow, known: string | undefined) {
    const nowMs = Date.now();
    const answer = await inTurn(() =>
      database.readSnapshot(tenantId, async (client) => {
        // Read again: tickets and version belong to one moment.
        const now = (await readEvent(client, event.event_id)) ?? event;
        const { upto } = await options.readUsage(client, event.event_id);
        const etag = offlineEtag(now, null, upto, options.ttlHours, nowMs);
        return matches(known, etag) ? { etag, manifest: undefined } : { etag, manifest: await wholeManifest(client, options, now, nowMs) };
      }),
    );
    if (answer.manifest === null) throw new HttpProblem(413, 'TOO_MANY_TICKETS', `too many tickets for JSON: ask with Accept: ${SQLITE_TYPE}`);
    return sendJson(reply, answer.etag, answer.manifest);
  }

  async function sendDelta(reply: HttpReply, tenantId: string, event: EventRow, since: number, known: string | undefined) {
    if (since > event.version) {
      // The database is older than this gate: it was restored from a backup. The version is raised past every published one.
      if (since < Date.now() / 1000 + MAX_AHEAD_S) await markBuild(tenantId, event.event_id);
      throw new HttpProblem(409, 'VERSION_AHEAD', `version ${since} is ahead of ${event.version}: a new manifest is being built, see manifest/want`);
    }
    const nowMs = Date.now();
    const answer = await database.readSnapshot(tenantId, async (client) => {
      const now = (await readEvent(client, event.event_id)) ?? event;
      const etag = offlineEtag(now, since, {}, options.ttlHours, nowMs);
      return matches(known, etag) ? { etag, manifest: undefined } : { etag, manifest: await deltaManifest(client, options, now, since, nowMs) };
    });
    if (answer.manifest === null) {
      await markBuild(tenantId, event.event_id);
      throw new HttpProblem(409, 'DELTA_TOO_LARGE', `too much has changed since version ${since}: a new manifest is being built, see manifest/want`);
    }
    return sendJson(reply, answer.etag, answer.manifest);
  }

  /** Builds once for concurrent requests. */
  async function markBuild(tenantId: string, eventId: string): Promise<void> {
    await database.withTenant(tenantId, (client) =>
      client.query(
        "INSERT INTO outbox (tenant_id, kind, key, build) SELECT $1, 'event', $2, true WHERE NOT EXISTS (SELECT FROM outbox WHERE kind = 'event' AND key = $2 AND build)",
        [tenantId, eventId],
      ),
    );
  }

  async function sendFile(
    reply: HttpReply,
    tenantId: string,
    eventId: string,
    version: number | undefined,
    known: string | undefined,
    range: string | undefined,
  ) {
    const file = await database.withTenant(tenantId, (client) => manifestRow(client, eventId, version));
    if (file === null) {
      if (version !== undefined)
        throw new HttpProblem(404, 'NO_SUCH_VERSION', `version ${version} of ${eventId} is not kept any more: manifest/want names the newest`);
      await markBuild(tenantId, eventId);
      throw new HttpProblem(503, 'NOT_BUILT', `the manifest of ${eventId} is being built: try again`, { 'retry-after': '2' });
    }
    const etag = `"${file.sha256.toString('hex')}"`;
    reply
      .header('etag', etag)
      .header('accept-ranges', 'bytes')
      .header('cache-control', 'private, no-cache')
      .header('stile-manifest-version', String(file.version));
    if (matches(known, etag)) return reply.code(304).send();
    const wanted = rangeOf(range, file.size_bytes);
    if (wanted === 'unsatisfiable')
      return reply
        .header('content-range', `bytes */${file.size_bytes}`)
        .code(416)
        .send({ success: false, error: 'BAD_RANGE', message: `the file has ${file.size_bytes} bytes` });
    if (wanted !== null) reply.code(206).header('content-range', `bytes ${wanted.from}-${wanted.to}/${file.size_bytes}`);
    const { from, to } = wanted ?? { from: 0, to: file.size_bytes - 1 };
    return reply
      .type(SQLITE_TYPE)
      .header('content-length', String(to - from + 1))
      .send(Readable.from(pieces(tenantId, eventId, file, from, to)));
  }

  /** Reads a piece at a time, each in a transaction of its own: a slow gate holds no connection. */
  async function* pieces(tenantId: string, eventId: string, file: ManifestRow, from: number, to: number): AsyncGenerator<Buffer> {
    for (let piece = Math.floor(from / PIECE_BYTES); piece * PIECE_BYTES <= to; piece++) {
      const { rows } = await database.withTenant(tenantId, (client) =>
        client.query<{ bytes: Buffer }>('SELECT bytes FROM manifest_pieces WHERE event_id = $1 AND version = $2 AND piece = $3', [
          eventId,
          file.version,
          piece,
        ]),
      );
      const bytes = rows[0]?.bytes;
      if (bytes === undefined) throw new Error(`version ${file.version} of ${eventId} was replaced while it was sent`);
      const start = piece * PIECE_BYTES;
      yield bytes.subarray(Math.max(from - start, 0), Math.min(to - start + 1, bytes.length));
    }
  }
}

/** Runs one after the other. */
function createTurns(maxWaiting: number): <T>(work: () => Promise<T>) => Promise<T> {
  let last: Promise<unknown> = Promise.resolve();
  let waiting = 0;
  return async (work) => {
    if (waiting >= maxWaiting)
      throw new HttpProblem(503, 'TRY_AGAIN', `${maxWaiting} whole manifests are waited for: try again, or ask with Accept: ${SQLITE_TYPE}`, {
        'retry-after': '5',
      });
    waiting += 1;
    const mine = last.then(work, work);
    // A failure rejects its own caller, not the next in turn.
    last = mine.catch(() => {});
    try {
      return await mine;
    } finally {
      waiting -= 1;
    }
  };
}

/** Serialised here: a large answer is not checked field by field once more. `undefined`: not modified. */
function sendJson(reply: HttpReply, etag: string, manifest: object | undefined) {
  reply.header('etag', etag).header('cache-control', 'private, no-cache').header('vary', 'accept');
  return manifest === undefined ? reply.code(304).send() : reply.type('application/json; charset=utf-8').send(JSON.stringify({ success: true, manifest }));
}

function matches(known: string | undefined, etag: string): boolean {
  return known !== undefined && (known.trim() === '*' || known.split(',').some((tag) => tag.trim().replace(/^W\//, '') === etag));
}

/** Parses one range of bytes; null: the whole. Several ranges are answered with the whole, as HTTP allows. */
function rangeOf(header: string | undefined, size: number): { readonly from: number; readonly to: number } | 'unsatisfiable' | null {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header?.trim() ?? '');
  if (match === null || (match[1] === '' && match[2] === '')) return null;
  const [, first, last] = match as unknown as [string, string, string];
  const from = first === '' ? Math.max(size - Number(last), 0) : Number(first);
  const to = first === '' || last === '' ? size - 1 : Math.min(Number(last), size - 1);
  return from > to || from >= size ? 'unsatisfiable' : { from, to };
}
