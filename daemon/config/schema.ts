/** Defines every setting of a gate: name, allowed values and default. */
import { GATE_NAME } from '../../contract/ids.ts';
import {
  BUTTONS,
  DEFAULT_LANE_CONFIG,
  EXITS,
  FREE_BYS,
  LAMP_SETS,
  LANE_BOUNDS,
  type LaneConfig,
  RELEASES,
  SENSOR_FAULTS,
  SENSORS,
  WHILE_OPENS,
} from '../lane/config.ts';
import { INPUT_NAMES, type InputName, OUTPUT_NAMES, type OutputName } from '../ports.ts';
import { type Field, flag, integer, list, named, oneOf, optional, plain, section, shown, text, type Value, withShort } from './fields.ts';

export const BAUD_RATES = [9_600, 19_200, 38_400, 57_600, 115_200] as const;
/** How a reader ends a code. `silence`: by saying nothing for a while. */
export const FRAMES = ['crlf', 'cr', 'lf', 'stx_etx', 'silence'] as const;
export const DRIVERS = ['gpio', 'sim'] as const;
export const LOG_LEVELS = ['debug', 'info', 'warn', 'error'] as const;
export const BIASES = ['pull-up', 'pull-down', 'none'] as const;
export const LEVELS = ['high', 'low'] as const;
/** BCM numbers of the lines that any Pi has. */
const MAX_LINE = 53;
/** Readers of one gate, as many as `info` can name. */
const MAX_READERS = 8;

const name = (what: string) => text(`${what} of 1 to 31 of a-z, 0-9 and -`, (value) => /^[a-z0-9][a-z0-9-]{0,30}$/.test(value));
const gateName = plain<string>("the gate's name as <site>/<gate>, such as arena/north-03", (value) => {
  return typeof value === 'string' && GATE_NAME.test(value) ? { value } : { what: `${shown(value)} is not a gate's name` };
});
const path = (what: string) => text(`the path of ${what}`, (value) => value.length > 0 && value.length <= 4096 && !/[\0\n]/.test(value));

const reader = section({
  name: name('a name'),
  path: path("the reader's port, such as /dev/stile-reader-in"),
  baud: optional(oneOf(BAUD_RATES), 115_200),
  frame: optional(oneOf(FRAMES), 'crlf'),
  direction: optional(oneOf(['in', 'out']), 'in'),
  /** Only with frame silence: so long without a byte ends a code. */
  silenceMs: optional(integer(5, 1_000, 'milliseconds'), 50),
  /** The interval at which the reader repeats a code that lies before it. null: the gate learns it. */
  sameCodeIntervalMs: optional(integer(50, 5_000, 'milliseconds'), null),
});

const lane = <K extends keyof typeof LANE_BOUNDS>(key: K): Field<number> =>
  optional(integer(LANE_BOUNDS[key].min, LANE_BOUNDS[key].max, 'milliseconds'), DEFAULT_LANE_CONFIG[key]);
/** The type says that no setting of the lane is missing here. */
const turnstile: Field<LaneConfig> = section({
  release: optional(oneOf(RELEASES), DEFAULT_LANE_CONFIG.release),
  freeBy: optional(oneOf(FREE_BYS), DEFAULT_LANE_CONFIG.freeBy),
  sensor: optional(oneOf(SENSORS), DEFAULT_LANE_CONFIG.sensor),
  sensorFault: optional(oneOf(SENSOR_FAULTS), DEFAULT_LANE_CONFIG.sensorFault),
  returnedInARow: optional(integer(LANE_BOUNDS.returnedInARow.min, LANE_BOUNDS.returnedInARow.max, 'grants'), DEFAULT_LANE_CONFIG.returnedInARow),
  returnedPerTicket: optional(integer(LANE_BOUNDS.returnedPerTicket.min, LANE_BOUNDS.returnedPerTicket.max, 'grants'), DEFAULT_LANE_CONFIG.returnedPerTicket),
  exit: optional(oneOf(EXITS), DEFAULT_LANE_CONFIG.exit),
  button: optional(oneOf(BUTTONS), DEFAULT_LANE_CONFIG.button),
  whileOpen: optional(oneOf(WHILE_OPENS), DEFAULT_LANE_CONFIG.whileOpen),
  lamps: optional(oneOf(LAMP_SETS), DEFAULT_LANE_CONFIG.lamps),
  pulseMs: lane('pulseMs'),
  passageTimeoutMs: lane('passageTimeoutMs'),
  passageGraceMs: lane('passageGraceMs'),
  stuckTimeoutMs: lane('stuckTimeoutMs'),
  repeatMs: lane('repeatMs'),
  passageDebounceMs: lane('passageDebounceMs'),
  passageRestMs: lane('passageRestMs'),
  fireConfirmMs: lane('fireConfirmMs'),
  inputDebounceMs: lane('inputDebounceMs'),
  waitAfterMs: lane('waitAfterMs'),
  refuseAfterMs: lane('refuseAfterMs'),
  refusedMs: lane('refusedMs'),
  alarmMs: lane('alarmMs'),
});

const line = integer(0, MAX_LINE, 'a BCM number');
const output = withShort({ line, active: optional(oneOf(LEVELS), 'high'), safe: optional(oneOf(LEVELS), null) }, 'line');

/**
 * How each input is wired where the file does not say: dry contacts to ground with a pull-up, active low; the fire loop
 * closed to 3.3 V with a pull-down, so that a cut wire is an alarm; the tamper contact opens with the lid.
 */
export const INPUT_WIRING: Readonly<Record<InputName, { active: 'high' | 'low'; bias: (typeof BIASES)[number] }>> = {
  passage_in: { active: 'low', bias: 'pull-up' },
  passage_out: { active: 'low', bias: 'pull-up' },
  beam_a: { active: 'low', bias: 'pull-up' },
  beam_b: { active: 'low', bias: 'pull-up' },
  button: { active: 'low', bias: 'pull-up' },
  fire: { active: 'low', bias: 'pull-down' },
  tamper: { active: 'high', bias: 'pull-up' },
  key_free: { active: 'low', bias: 'pull-up' },
  key_closed: { active: 'low', bias: 'pull-up' },
};
const input = (which: InputName) =>
  withShort(
    {
      line,
      active: optional(oneOf(LEVELS), INPUT_WIRING[which].active),
      bias: optional(oneOf(BIASES), INPUT_WIRING[which].bias),
      /** null: as the turnstile's settings say. */
      debounceMs: optional(integer(0, 1_000, 'milliseconds'), null),
    },
    'line',
  );

const board = section({
  driver: optional(oneOf(DRIVERS), 'gpio'),
  outputs: named<OutputName, Value<typeof output>>(OUTPUT_NAMES, () => output),
  inputs: named<InputName, Value<ReturnType<typeof input>>>(INPUT_NAMES, input),
  /** Sim only: a unix socket on which the software turnstile shows its outputs and takes its inputs. */
  simSocket: optional(path("the software turnstile's socket"), null),
  /** Sim only: draw the lamps on standard output. */
  simDraw: optional(flag(), false),
  /** Sim only: guests walk through by themselves after a release. */
  simGuest: optional(flag(), true),
  /** Sim only: how long the software guest takes. */
  simPassageMs: optional(integer(10, 60_000, 'milliseconds'), 800),
});

const url = (protocols: readonly string[], example: string) =>
  plain<string>(`an address such as ${example}`, (value) => {
    if (typeof value !== 'string' || !URL.canParse(value)) return { what: 'is not an address' };
    const parsed = new URL(value);
    if (!protocols.includes(parsed.protocol))
      return { what: `begins with ${parsed.protocol}//, which is not spoken here`, hint: `give an address such as ${example}` };
    if (parsed.username !== '' || parsed.password !== '')
      return { what: 'holds a user name or password', hint: 'take them out; give username and password_file (mqtt) or token_file (cloud) instead' };
    return { value };
  });

const mqtt = section({
  url: url(['mqtt:', 'mqtts:'], 'mqtts://broker.example:8883'),
  ca: optional(path('the CA certificate, PEM'), null),
  cert: optional(path("the gate's certificate, PEM"), null),
  key: optional(path("the gate's private key, PEM"), null),
  username: optional(text('a user name'), null),
  passwordFile: optional(path('a file that holds the password alone'), null),
  /** An unknown code is asked of the cloud, and the guest waits so long for the answer. 0: the cloud is not asked. A question lives 2 s. */
  lookupMs: optional(integer(0, 2_000, 'milliseconds'), 1_000),
});

const cloud = section({
  url: url(['http:', 'https:'], 'https://cloud.example'),
  /** null: the system's authorities. */
  ca: optional(path('the CA certificate of the cloud, PEM'), null),
  tokenFile: optional(path('a file that holds the device token alone'), null),
  /** JSON list of PublicKey (contract/manifest.ts), pinned at enrolment. */
  keys: optional(path('the file of pinned keys, JSON'), null),
});

/** The whole file, section by section. */
export const SHAPE = {
  gate: gateName,
  readers: list(reader, { min: 1, max: MAX_READERS, what: 'readers' }),
  turnstile,
  board,
  mqtt: optional(mqtt, null),
  cloud: optional(cloud, null),
  store: section({ path: optional(path('the folder for ledger and manifests'), '/var/lib/stile') }),
  log: section({ level: optional(oneOf(LOG_LEVELS), 'info') }),
  control: section({
    socket: optional(path('the control socket'), '/run/stile/gate.sock'),
    /** Who may use it besides the gate's own user. */
    group: optional(name('a group'), 'stile-operators'),
  }),
};
export const SCHEMA = section(SHAPE);

export type Settings = Value<typeof SCHEMA>;
