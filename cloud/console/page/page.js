/**
 * The operators' page: asks the HTTP interface every few seconds and shows the answers. It decides nothing and explains nothing
 * itself: the words are those that the gate or the cloud recorded. Text from outside is set as text, never as HTML.
 */
const POLL_MS = 5_000;
/** A question that takes longer counts as no answer, in milliseconds; a command may wait for its gate. */
const ANSWER_MS = 10_000;
const COMMAND_MS = 40_000;
/** Rows shown of a list; the rest is counted. */
const MAX_SHOWN = 200;
const TOKEN = 'stile-operator-token';

const $ = (id) => document.getElementById(id);
let token = sessionStorage.getItem(TOKEN);
let timer = 0;
let answeredAt = null;

class SignedOut extends Error {}

async function ask(path, { method = 'GET', body, timeoutMs = ANSWER_MS } = {}) {
  const response = await fetch(`.${path}`, {
    method,
    headers: { authorization: `Bearer ${token}`, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
    body: body === undefined ? undefined : JSON.stringify(body),
    signal: AbortSignal.timeout(timeoutMs),
    cache: 'no-store',
  });
  const answer = await response.json().catch(() => ({}));
  if (response.status === 401 || (response.status === 403 && method === 'GET')) throw new SignedOut(answer.message ?? 'this token opens nothing');
  if (!response.ok) throw new Error(answer.message ?? `the cloud answered ${response.status}`);
  return answer;
}

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter((child) => child !== null && child !== undefined).map((child) => (child instanceof Node ? child : String(child))));
  return made;
}
/** By this machine's clock, with its zone: a guest is told the venue's time. */
const SHOWN = {
  year: 'numeric',
  month: '2-digit',
  day: '2-digit',
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
  hourCycle: 'h23',
  timeZoneName: 'short',
};
const when = (at) => (at === null || at === undefined ? '' : new Date(at).toLocaleString([], SHOWN));
/** `unmeasured`: the gate's clock was not measured when it wrote this. */
const about = (at, unmeasured) => (unmeasured === true ? `about ${when(at)} (clock not measured)` : when(at));
const timeOf = (date) => date.toLocaleTimeString([], { hourCycle: 'h23', timeZoneName: 'short' });
const ticketLink = (ticketId, eventId) =>
  ticketId === null ? '' : element('button', { type: 'button', className: 'link', onclick: () => showTicket(ticketId, eventId ?? '') }, ticketId);

/** Rows are cells: text, an element, or [text, class]. */
function fill(id, rows, nothing) {
  const columns = document.querySelectorAll(`#${id} th`).length;
  const lines = rows
    .slice(0, MAX_SHOWN)
    .map((cells) =>
      element('tr', {}, ...cells.map((cell) => (Array.isArray(cell) ? element('td', { className: cell[1] }, cell[0]) : element('td', {}, cell)))),
    );
  const remark = rows.length === 0 ? nothing : rows.length > MAX_SHOWN ? `and ${rows.length - MAX_SHOWN} more` : null;
  if (remark !== null) lines.push(element('tr', {}, element('td', { colSpan: columns, className: 'empty' }, remark)));
  document.querySelector(`#${id} tbody`).replaceChildren(...lines);
}

const stateOf = ({ state, since }) =>
  state === 'online'
    ? ['online', 'good']
    : state === 'offline'
      ? [`offline since ${when(since)}`, 'bad']
      : state === 'revoked'
        ? [`revoked since ${when(since)}`, 'bad']
        : ['never seen', 'warn'];

function showLanes(gates) {
  fill(
    'lanes',
    gates.map((gate) => [
      gate.gate,
      stateOf(gate),
      [gate.mode ?? '', gate.mode === 'controlled' || gate.mode === null ? '' : gate.mode === 'emergency' ? 'bad' : 'warn'],
      [gate.alerts.join(', '), 'bad'],
      [gate.backlog ?? '', gate.backlog > 0 ? 'warn' : ''],
      gate.event_ids.join(', ') || ['no event assigned', 'warn'],
      when(gate.last_row_at),
      element('button', { type: 'button', onclick: () => openCommand(gate.gate) }, 'Command…'),
    ]),
    'There is no gate yet: stile-cloud enroll and assign make one.',
  );
}

async function showCounts(gates) {
  const events = [...new Set(gates.flatMap(({ event_ids }) => event_ids))].sort();
  const [inside, { refusals }, { conflicts }] = await Promise.all([
    Promise.all(events.map((id) => ask(`/events/${encodeURIComponent(id)}/occupancy`))),
    ask('/refusals'),
    ask('/conflicts'),
  ]);
  fill(
    'inside',
    inside.map((event) => [
      event.warnings === undefined ? event.event_id : [event.warnings.join('; '), 'warn'],
      event.uncertain === 0 ? event.inside : `${event.inside}, of these ${event.uncertain} uncertain`,
      event.entries,
      event.exits,
      event.free_passages,
      event.overrides,
    ]),
    'No gate has an event assigned.',
  );
  fill(
    'refusals',
    refusals.map((refusal) => [
      about(refusal.at, refusal.unmeasured),
      refusal.device ?? refusal.gate,
      refusal.explanation || refusal.reason,
      ticketLink(refusal.ticket_id, refusal.event_id),
    ]),
    'Nobody was refused.',
  );
  fill(
    'conflicts',
    conflicts.map((conflict) => [
      about(conflict.loser_at, conflict.unmeasured),
      conflict.loser_device ?? conflict.loser[0],
      ticketLink(conflict.ticket_id, conflict.event_id),
      conflict.overlapping ? `${conflict.cause} (the clocks cannot tell which was first)` : conflict.cause,
      conflict.winner === null ? '' : `${conflict.winner_device ?? conflict.winner[0]}, ${when(conflict.winner_at)}`,
    ]),
    'None.',
  );
}

async function showTicket(ticketId, eventId) {
  $('ticket-id').value = ticketId;
  $('ticket-event').value = eventId;
  const status = $('ticket-status');
  try {
    const query = eventId === '' ? '' : `?event_id=${encodeURIComponent(eventId)}`;
    const answer = await ask(`/tickets/${encodeURIComponent(ticketId)}/history${query}`);
    status.className = '';
    status.textContent = `${answer.ticket_id} of ${answer.event_id}: ${answer.status}`;
    fill(
      'history',
      answer.history.map((item) => [about(item.at, item.unmeasured), item.device ?? item.gate ?? '', item.text]),
      'Nothing has happened to it.',
    );
    status.scrollIntoView({ behavior: 'smooth' });
  } catch (error) {
    if (error instanceof SignedOut) return signOut(error.message);
    status.className = 'problem';
    status.textContent = error.message;
    fill('history', [], '');
  }
}

/** What stands between the cloud and its gates; null: nothing. */
async function hindrance() {
  const response = await fetch('./readyz', { signal: AbortSignal.timeout(ANSWER_MS), cache: 'no-store' });
  if (response.ok) return null;
  const { message } = await response.json().catch(() => ({}));
  return message ?? `the cloud is not ready (${response.status})`;
}

function fitCommand() {
  const name = $('command-name').value;
  for (const part of document.querySelectorAll('#command [data-for]')) part.hidden = !part.dataset.for.split(' ').includes(name);
  if (name !== 'mode' && $('command-direction').value === '') $('command-direction').value = 'in';
}
function openCommand(gate) {
  $('command-title').textContent = gate;
  $('command-answer').textContent = '';
  fitCommand();
  $('command').showModal();
}
function argumentsOf(name) {
  const direction = $('command-direction').value;
  if (name === 'open') return { direction, units: Number($('command-units').value) };
  if (name === 'mode') {
    const mode = $('command-mode').value;
    // Without this the gate refuses: nobody is kept inside.
    const closesExit = direction === 'out' && ['locked', 'out_of_service'].includes(mode);
    const confirmed = closesExit && confirm('Close the way out? It alarms while it lasts, and opens by itself after 15 minutes.');
    return { mode, ...(direction === '' ? {} : { direction }), ...(confirmed ? { confirm_exit_closed: true } : {}) };
  }
  return {};
}
async function sendCommand() {
  const gate = $('command-title').textContent;
  const name = $('command-name').value;
  const answer = $('command-answer');
  const send = $('command-send');
  send.disabled = true;
  answer.className = '';
  answer.textContent = 'Sent; waiting for the gate…';
  try {
    const body = { actor: $('command-actor').value, reason: $('command-reason').value, args: argumentsOf(name) };
    const { response } = await ask(`/gates/${gate}/requests/${name}`, { method: 'POST', body, timeoutMs: COMMAND_MS });
    const done = response.status === 'ok';
    answer.className = done ? 'good' : 'bad';
    answer.textContent = done ? 'The gate has done it.' : `The gate refused: ${response.error?.message ?? 'it gave no reason'}`;
  } catch (error) {
    if (error instanceof SignedOut) return signOut(error.message);
    answer.className = 'bad';
    answer.textContent = error.name === 'TimeoutError' ? 'No answer: look at the lane before sending it again.' : error.message;
  } finally {
    send.disabled = false;
  }
}

function signOut(problem = '') {
  clearTimeout(timer);
  token = null;
  sessionStorage.removeItem(TOKEN);
  $('work').hidden = true;
  $('sign-out').hidden = true;
  $('sign-in').hidden = false;
  $('sign-in-problem').textContent = problem;
  $('news').textContent = '';
  if ($('command').open) $('command').close();
  $('token').focus();
}

async function poll() {
  clearTimeout(timer);
  if (token === null) return;
  try {
    const [{ gates, total }, hindered] = await Promise.all([ask('/gates'), hindrance()]);
    showLanes(gates);
    await showCounts(gates);
    $('work').hidden = false;
    $('sign-out').hidden = false;
    $('sign-in').hidden = true;
    answeredAt = new Date();
    $('news').className = hindered === null ? '' : 'bad';
    const out = gates.filter(({ state }) => state !== 'online' && state !== 'revoked').length;
    $('news').textContent =
      hindered === null
        ? `${gates.length}${total > gates.length ? ` of ${total}, the worst ones` : ''} ${gates.length === 1 ? 'gate' : 'gates'}, ${out === 0 ? 'none missing' : `${out} not online`}; as of ${timeOf(answeredAt)}`
        : `What gates do now is not seen here: ${hindered}`;
  } catch (error) {
    if (error instanceof SignedOut) return signOut(error.message);
    $('news').className = 'bad';
    $('news').textContent =
      answeredAt === null ? `The cloud does not answer: ${error.message}` : `No answer; what stands here is of ${timeOf(answeredAt)} (${error.message})`;
  }
  timer = setTimeout(poll, POLL_MS);
}

$('sign-in').addEventListener('submit', (event) => {
  event.preventDefault();
  token = $('token').value.trim();
  sessionStorage.setItem(TOKEN, token);
  $('token').value = '';
  void poll();
});
$('sign-out').addEventListener('click', () => signOut());
$('ask-ticket').addEventListener('submit', (event) => {
  event.preventDefault();
  void showTicket($('ticket-id').value.trim(), $('ticket-event').value.trim());
});
$('command-name').addEventListener('change', fitCommand);
document.querySelector('#command form').addEventListener('submit', (event) => {
  if (event.submitter?.value === 'close') return;
  event.preventDefault();
  void sendCommand();
});
// Nobody looks: nobody asks.
document.addEventListener('visibilitychange', () => (document.hidden ? clearTimeout(timer) : void poll()));
if (token === null) signOut();
else void poll();
