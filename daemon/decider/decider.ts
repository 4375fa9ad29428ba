/**
 * Decides: resolves the facts, applies the rules, commits the row. Runs in the decider's worker; every call is answered in order.
 *
 * Time comes with each call. A database that turns out damaged is quarantined within the call that met it: that call fails with its
 * fault, the next one finds a new epoch.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { EntryKey, LedgerEnvelope } from '../../contract/ledger.ts';
import { MAX_PAYLOAD_BYTES } from '../../contract/limits.ts';
import { parsePayload } from '../../contract/parse.ts';
import { admit } from '../../rules/admission.ts';
import { showTime } from '../../rules/venue-time.ts';
import { createKeyring, type Keyring } from '../../signing/keyring.ts';
import type { Presentation } from '../ports.ts';
import type { StoredConflict } from '../store/conflicts.ts';
import { fireLatched, setFireLatch } from '../store/durable-state.ts';
import { type AppendedRow, parseEntry, type RowBody, type Stamp, type StoredEntry } from '../store/ledger.ts';
import { quarantineFile } from '../store/quarantine-file.ts';
import { lockStore, type StoreError, storeError } from '../store/sqlite.ts';
import { MAX_DIRTY_GRANTS } from '../store/usage-store.ts';
import { describeConflict } from './describe-conflict.ts';
import type { DeciderEngine } from './engine.ts';
import { type CloudReply, createJudgement } from './judgement.ts';
import { createLateAnswerCache } from './late-answer-cache.ts';
import { decisionEntry, freeBytes, markUnknownOutcomes, noteRow, returnedBodies } from './ledger-entries.ts';
import { createMaintenance } from './maintenance.ts';
import { COUNT_AT_OPEN_TICKETS, COUNT_STEP_TICKETS, createOccupancy } from './occupancy.ts';
import { openStore, type Parts, rebuildStore } from './open-store.ts';
import type { Resolved } from './resolve-ticket.ts';
import { unknownHere } from './retry-here.ts';
import type { DeciderEngineOptions, Latest } from './store-options.ts';
import { createTrustedTime } from './trusted-floor.ts';
import { asksForUsage, isAnswered } from './usage-lost.ts';
import { createWentBack } from './went-back.ts';

/** Decisions whose grant can still be abandoned; an older one has long been shown to its guest. */
const MAX_ABANDONABLE = 64;
/** Conflicts that a status tells of. */
const MAX_CONFLICTS_SHOWN = 20;
/** Damaged files quarantined while the store opens: one of each kind, and one more. */
const MAX_RECOVERIES_AT_OPEN = 4;
/** Rows read by people at once. */
const MAX_ROWS_READ = 500;

const NO_BYTES = new Uint8Array(0);
/** Returns a code of no ticket: a ticket is found by a hash of 128 bits. */
const rehearsedCode = (): Uint8Array => Buffer.from(`rehearsal-${Math.random()}`);

/** Opens everything; a damaged ledger is quarantined first. Throws StoreError where a person must fix something. */
export async function openDeciderEngine(options: DeciderEngineOptions, stamp: Stamp): Promise<DeciderEngine> {
  try {
    mkdirSync(options.path, { recursive: true, mode: 0o750 });
  } catch (error) {
    throw storeError(`make ${options.path}`, error);
  }
  const keyring = createKeyring(options.verifyKeys);
  const latest: Latest = { stamp };
  const lock = lockStore(join(options.path, 'lock.sqlite'));
  try {
    return await deciderEngine(options, keyring, await openStore(options, keyring, latest), latest, () => lock.close());
  } catch (error) {
    lock.close();
    throw error;
  }
}

/** Every step is tried, whatever the others meet: one that was left out would hold its file, and the store could not be opened anew. Throws the first error. */
function closeAll(steps: readonly (() => void)[]): void {
  const failed: unknown[] = [];
  for (const step of steps) {
    try {
      step();
    } catch (error) {
      failed.push(error);
    }
  }
  if (failed.length > 0) throw failed[0];
}

async function deciderEngine(options: DeciderEngineOptions, keyring: Keyring, opened: Parts, latest: Latest, unlock: () => void): Promise<DeciderEngine> {
  let parts = opened;
  let lost = parts.ledger.meta('usage_lost') === '1';
  const maintenance = createMaintenance();
  /** Grants by the id of their decision, for `abandon`. */
  const grants = new Map<number, AppendedRow>();
  const lateAnswers = createLateAnswerCache();
  const judgement = createJudgement({ gate: options.gate, keyring, lateAnswers });
  const judge = (presentation: Omit<Presentation, 'bytes'>, bytes: Uint8Array, stamp: Stamp, answer: CloudReply) =>
    judgement.judge({ ...parts, inside: occupancy.inside, usageComplete: !lost && !parts.usage.gaps() }, { presentation, bytes, stamp, answer });
  /** What the last grant was decided by: for a rehearsal, no code is in it. */
  let granted: Resolved | null = null;
  /** Grants whose guest was told no: returned before the next decision. */
  const abandonedGrants: AppendedRow[] = [];

  /** Counts the people inside from the current store. */
  const countPeople = () => {
    const made = createOccupancy({ gate: options.gate, ...parts });
    for (let left = COUNT_AT_OPEN_TICKETS; left > 0 && made.step(COUNT_STEP_TICKETS); ) left -= COUNT_STEP_TICKETS;
    return made;
  };
  let occupancy = createOccupancy({ gate: options.gate, ...parts });
  let trustedTime = createTrustedTime(parts.ledger);

  const write = (bodies: readonly RowBody[], stamp: Stamp, also?: () => void): readonly AppendedRow[] => {
    const rows = parts.ledger.append(bodies, stamp, also);
    trustedTime.wrote(rows, stamp);
    for (const { position, entry } of rows) occupancy.taking(options.gate, position[0], [entry], () => parts.usage.applyOwn(position[0], entry));
    try {
      parts.ledger.maybeCheckpoint('busy');
      if (parts.usage.dirty() >= MAX_DIRTY_GRANTS) parts.usage.flush();
    } catch (error) {
      // The row is committed and the guest may go: what could not be tidied now is tried again when idle, and its fault dealt with there.
      options.notice('disk', storeError('tidy up', error).message);
    }
    return rows;
  };
  const setLost = (value: boolean): void => {
    if (lost === value) return;
    parts.ledger.setMeta('usage_lost', value ? '1' : '0');
    lost = value;
  };

  const wentBack = createWentBack({ parts: () => parts, write, setLost, notice: options.notice });

  const described = (conflict: StoredConflict, stamp: Stamp) =>
    describeConflict(conflict, {
      gate: options.gate,
      states: conflict.ticketRef === null ? [] : parts.usage.ofTicket(conflict.ticketRef),
      timeZone: (conflict.eventId === null ? null : parts.manifests.find(conflict.eventId))?.file.head.time_zone ?? 'UTC',
      nowMs: stamp.wallMs,
    });

  /** Returns this lane's own grant whose passage a restart lost, flagged. Returns whether there was one. */
  const returnUnknown = (facts: Resolved['facts'], stamp: Stamp, nowMs: number): boolean => {
    if (facts.kind !== 'ticket') return false;
    const found = unknownHere(options.gate, facts, parts.usage.ofTicket(facts.ticket.ticketRef), nowMs);
    if (found === null) return false;
    const bodies = found.units.map((unit) => ({
      ...noteRow(parts.ledger, { kind: 'passage', of: found.of, direction: 'in', unit, outcome: 'returned' }),
      flags: ['unverified'],
    }));
    write(bodies, stamp);
    return true;
  };

  const recordAbandoned = (stamp: Stamp): void => {
    while (abandonedGrants[0] !== undefined) {
      write(returnedBodies(parts.ledger.name, abandonedGrants[0]), stamp);
      abandonedGrants.shift();
    }
  };

  /** Closes the parts; one that is damaged may not even close, and is left as it is. */
  const closeParts = (): void => {
    for (const close of [() => parts.usage.close(), () => parts.manifests.close(), () => parts.ledger.close()]) {
      try {
        close();
      } catch {
        // What was in memory is read again from the ledger, or fetched.
      }
    }
  };

  const core: DeciderEngine = {
    status(stamp) {
      latest.stamp = stamp;
      const { ledger, outbox, standing, usage, manifests } = parts;
      const resentRows = outbox.owedRows(stamp.boottimeMs);
      return {
        resentRows,
        ...wentBack.status(stamp),
        epoch: ledger.epoch(),
        lastSeq: ledger.lastSeq(),
        backlog: outbox.backlog(),
        backlogOldestMs: outbox.oldestMs(),
        usageComplete: !lost && !usage.gaps(),
        manifests: manifests.current().map(({ eventId, file, overlayVersion }) => ({
          eventId,
          version: file.head.version,
          overlayVersion,
          generatedAtMs: file.generatedAtMs,
          expiresAtMs: file.expiresAtMs,
          tickets: file.head.ticket_count,
        })),
        modes: standing.modes(stamp.wallMs),
        fireLatched: fireLatched(options.path),
        totals: { ...usage.totals() },
        conflicts: { standing: usage.conflicts.standing(), newest: usage.conflicts.newest(MAX_CONFLICTS_SHOWN).map((one) => described(one, stamp)) },
        diskFreeBytes: freeBytes(options.path),
        lastRowMs: trustedTime.lastRowMs(),
      };
    },
    decide(id, presentation, stamp, elapsedUs, answer) {
      const startUs = elapsedUs();
      recordAbandoned(stamp);
      const judged = judge(presentation, presentation.bytes, stamp, answer);
      const { nowMs, policy, place } = judged;
      let { gathered } = judged;
      let { facts } = gathered;
      const foundUs = elapsedUs();
      if (answer === 'may_ask' && facts.kind === 'unknown' && policy.unknown === 'ask' && gathered.refs.length > 0) return { ask: gathered.refs };
      if (answer === 'may_ask' && asksForUsage(facts, policy, place)) return { ask: [{ event_id: facts.ticket.eventId, ticket_ref: facts.ticket.ticketRef }] };
      // The cloud's answer holds the ticket's whole usage.
      const complete = facts.kind === 'ticket' && isAnswered(answer, facts.ticket.ticketRef) ? { ...place, usageComplete: true } : place;
      let verdict = admit(facts, policy, complete);
      if (verdict.kind === 'refusal' && policy.unknown_passage === 'retry_here' && presentation.direction === 'in' && returnUnknown(facts, stamp, nowMs)) {
        const anew = judge(presentation, presentation.bytes, stamp, answer);
        gathered = anew.gathered;
        facts = gathered.facts;
        verdict = admit(facts, policy, complete);
        if (verdict.kind === 'grant') verdict = { ...verdict, flags: [...verdict.flags, 'unverified'] };
      }
      const decidedUs = elapsedUs();
      const seen = parts.usage.seenSince();
      const latencyUs = Math.max(0, Math.round((stamp.boottimeMs - presentation.lastByteMs) * 1000 + decidedUs));
      const [row] = write([decisionEntry(verdict, gathered, presentation, latencyUs, seen.changed)], stamp) as [AppendedRow];
      if (verdict.kind === 'grant') {
        seen.confirm();
        granted = gathered;
        grants.set(id, row);
        if (grants.size > MAX_ABANDONABLE) grants.delete(grants.keys().next().value as number);
      }
      const ticket = facts.kind === 'ticket' ? facts.ticket : null;
      return {
        verdict,
        row: row.position,
        eventId: ticket?.eventId ?? null,
        ticketId: ticket?.ticketId ?? null,
        ticketRef: ticket?.ticketRef ?? null,
        medium: facts.kind === 'ticket' ? facts.medium : 'opaque',
        ...(facts.kind !== 'ticket' || verdict.kind !== 'grant' || verdict.lastEntryMs === null
          ? {}
          : { lastEntry: showTime(verdict.lastEntryMs, nowMs, facts.event.timeZone) }),
        stages: { lookup_us: Math.round(foundUs - startUs), decision_us: Math.round(decidedUs - foundUs), commit_us: Math.round(elapsedUs() - decidedUs) },
      };
    },
    prepare(stamp) {
      const { ticket } = granted?.facts.kind === 'ticket' ? granted.facts : { ticket: null };
      const presentation = { direction: 'in', reader: '', mode: 'controlled', atMs: stamp.boottimeMs, lastByteMs: stamp.boottimeMs, online: false } as const;
      try {
        const { gathered, policy, place } = judge(presentation, rehearsedCode(), stamp, undefined);
        // As the last grant was, because most codes are good ones.
        if (ticket !== null) {
          parts.manifests.find(ticket.eventId)?.file.find(Buffer.from(ticket.ticketRef, 'hex'));
          parts.usage.ofTicket(ticket.ticketRef);
        }
        const known = granted ?? gathered;
        const verdict = admit(known.facts, policy, place);
        parts.ledger.rehearse(decisionEntry(verdict, known, { ...presentation, bytes: NO_BYTES }, 0, parts.usage.seenSince().changed), stamp);
      } catch {
        // A disk or a database that fails now fails the decision too, and is dealt with there.
      }
    },
    abandon(id, stamp) {
      const row = grants.get(id);
      if (row === undefined) return;
      grants.delete(id);
      abandonedGrants.push(row);
      recordAbandoned(stamp);
    },
    remember(answers, stamp) {
      lateAnswers.keep(answers, stamp.boottimeMs);
    },
    record(note, stamp) {
      const body = noteRow(parts.ledger, note);
      const also =
        note.kind === 'mode'
          ? () => parts.standing.keepMode(note.direction, note.to, note.until === undefined ? null : Date.parse(note.until), note.from)
          : undefined;
      return (write([body], stamp, also)[0] as AppendedRow).position;
    },
    setFireLatch(latched) {
      setFireLatch(options.path, latched);
    },
    rememberTransaction: (transaction, expiresAtMs, stamp) => parts.standing.remember(transaction, expiresAtMs, stamp.trusted ? stamp.wallMs : null),
    nextBatch: (after) => parts.outbox.nextBatch(after),
    question: () => parts.outbox.question(),
    rows(after, limit) {
      const found: { epoch: number; entry: StoredEntry; conflict?: string }[] = [];
      const most = Math.min(limit, MAX_ROWS_READ);
      for (const own of parts.ledger.epochs()) {
        if (found.length >= most) break;
        if (after !== null && own.epoch < after[0]) continue;
        const from = after !== null && own.epoch === after[0] ? Math.max(own.firstSeq, after[1] + 1) : own.firstSeq;
        for (const row of parts.ledger.read(own.epoch, from, most - found.length)) {
          const entry = parseEntry(parts.ledger, own.epoch, row);
          const conflict = entry.kind === 'grant' ? parts.usage.conflicts.on([own.epoch, entry.seq]) : null;
          found.push({ epoch: own.epoch, entry, ...(conflict === null ? {} : { conflict: described(conflict, latest.stamp).words }) });
        }
      }
      return found;
    },
    acknowledge: (ack, stamp) => wentBack.acknowledge(ack, stamp),
    resend: (from) => parts.outbox.resend(from),
    applyPeer({ ledger, payload }) {
      // As the cloud takes it: each row that has a readable key, whatever it says, and whatever stands beside it.
      const parsed = parsePayload(LedgerEnvelope, payload, MAX_PAYLOAD_BYTES, 'entries');
      if (!parsed.ok) {
        options.notice('peer', `a ledger message cannot be read: ${parsed.message}`);
        return { applied: 0, gap: false };
      }
      const { gate, epoch } = parsed.value;
      if (gate !== ledger) {
        options.notice('peer', `${ledger}: a ledger message says that it is of ${gate}; it is not believed`);
        return { applied: 0, gap: false };
      }
      const entries = parsed.value.entries.flatMap((entry) => EntryKey.safeParse(entry).data ?? []);
      if (entries.length < parsed.value.entries.length)
        options.notice('peer', `${gate}: ${parsed.value.entries.length - entries.length} rows of epoch ${epoch} have no readable seq, kind and hash`);
      if (entries.length === 0) return { applied: 0, gap: false };
      const [site] = options.gate.split('/');
      if (!gate.startsWith(`${site}/`)) return { applied: 0, gap: false };
      if (gate === options.gate) {
        wentBack.fetched(epoch, Math.max(...entries.map((entry) => entry.seq)));
        if (epoch >= parts.ledger.epoch()) return { applied: 0, gap: false };
      }
      return occupancy.taking(gate, epoch, entries, () => parts.usage.applyPeer(gate, epoch, entries));
    },
    vector() {
      const vector = parts.usage.vector();
      if (!lost) return vector;
      // Own rows that were lost lie behind the newest epoch: the fetch must begin before them.
      const { [options.gate]: _newest, ...others } = vector;
      const readTo = wentBack.readTo();
      const former = readTo === undefined ? parts.usage.newestBefore(options.gate, parts.ledger.epoch()) : readTo;
      return former === null ? others : { ...others, [options.gate]: [...former] };
    },
    caughtUp() {
      parts.usage.excuse();
      parts.usage.flush();
      // What came with it must be on the disk before the ledger says that it is: rows of this gate's own former epochs have no place of their
      // own from which a power cut could be told.
      if (lost || parts.ledger.meta('caught_up') !== '1') parts.usage.settle();
      parts.ledger.setMeta('caught_up', '1');
      wentBack.caughtUp();
      setLost(false);
    },
    async installManifest(file, wanted, stamp) {
      latest.stamp = stamp;
      const result = await parts.manifests.install(file, wanted);
      judgement.forgetPolicies();
      // What was answered before may not be true any more: the cloud is asked again.
      lateAnswers.clear();
      if (parts.ledger.meta('usage_lost') === '1') lost = true;
      return result;
    },
    applyOverlay(payload, stamp) {
      latest.stamp = stamp;
      lateAnswers.clear();
      return parts.manifests.applyOverlay(payload);
    },
    want(payload, stamp) {
      latest.stamp = stamp;
      return parts.manifests.want(payload);
    },
    idle: (stamp, quiet) => maintenance.step({ ...parts, occupancy, trustedTime }, stamp, quiet, write),
    preallocateWal: () => parts.ledger.preallocateWal(),
    async recover(error, stamp) {
      latest.stamp = stamp;
      if (error.file === 'manifest') {
        if (error.path !== null) parts.manifests.quarantine(error.path, stamp.wallMs);
        judgement.forgetPolicies();
        return;
      }
      // First, so that a power cut cannot leave usage empty and nobody told.
      if (error.file === 'usage') parts.ledger.setMeta('usage_lost', '1');
      closeParts();
      if (error.file === 'usage') {
        const quarantined = quarantineFile(join(options.path, 'usage.sqlite'), stamp.wallMs);
        options.notice('ledger', `${error.fault.cause}; usage was set aside as ${quarantined.slice(quarantined.lastIndexOf('/') + 1)} and is fetched again`);
        parts = await openStore(options, keyring, latest);
      } else {
        parts = await rebuildStore(options, keyring, latest, error);
      }
      lost = parts.ledger.meta('usage_lost') === '1';
      occupancy = countPeople();
      trustedTime = createTrustedTime(parts.ledger);
      judgement.forgetPolicies();
      grants.clear();
    },
    close() {
      const { outbox, usage, manifests, ledger } = parts;
      const maybeCheckpoint = [
        () => outbox.flush(),
        () => void parts.rowCopy.step(),
        () => trustedTime.keep(true),
        () => usage.close(),
        () => manifests.rememberHeads(),
        () => ledger.maybeCheckpoint('idle'),
      ];
      closeAll([...maybeCheckpoint, () => manifests.close(), () => ledger.close(), unlock]);
    },
  };
  // Some damage shows only when what is there is looked through: it is quarantined like any other, each file once.
  for (let left = MAX_RECOVERIES_AT_OPEN, damage: StoreError | null = null; ; left--) {
    try {
      if (damage !== null) await core.recover(damage, latest.stamp);
      occupancy = countPeople();
      markUnknownOutcomes(parts.ledger, write, latest.stamp);
      return core;
    } catch (error) {
      const known = storeError('open the store', error);
      if (!known.damaged || left === 0) {
        closeParts();
        throw error;
      }
      damage = known;
    }
  }
}
