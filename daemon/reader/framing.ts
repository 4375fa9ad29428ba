/**
 * From bytes in any fragmentation to frames: one pure step for every way in which readers end a code. Nothing here
 * can fail or grow: a frame is at most MAX_FRAME_BYTES, and what does not fit is dropped up to the next terminator.
 */
import { MAX_FRAME_BYTES } from '../../contract/limits.ts';

/**
 * The end of a reader's code. `cr` and `lf` tolerate the other one beside the terminator; `crlf` takes CR, LF or both;
 * `stx_etx` takes what stands between 0x02 and 0x03; `silence` ends a code where no byte has come for a while.
 */
export type FrameMode = 'cr' | 'lf' | 'crlf' | 'stx_etx' | 'silence';

/**
 * A code comes in one go; a beginning left alone for so long is noise of a plug or of a reset, and must not spoil the next
 * guest's code. It is dropped and counted as garbled when the next byte arrives.
 */
export const PARTIAL_TIMEOUT_MS = 2_000;

export interface FramingConfig {
  readonly mode: FrameMode;
  /** Silence mode: so long without a byte ends a frame. */
  readonly silenceMs: number;
}

/** The state between two chunks. It holds at most MAX_FRAME_BYTES. */
export interface FramingState {
  readonly held: Uint8Array;
  /** A CR or LF that is dropped if the terminator follows, and part of the code otherwise. */
  readonly companion: number | null;
  /** Too long or broken: everything is dropped until the next terminator. */
  readonly dropping: boolean;
  /** stx_etx: between the two. */
  readonly inside: boolean;
  /** stx_etx: noise outside of frames is counted once a run. */
  readonly noise: boolean;
  /** When the chunk with the code's last byte so far arrived, ms. */
  readonly codeAtMs: number;
  /** When the last byte of any kind arrived, ms. */
  readonly byteAtMs: number;
}

export type Framed =
  | { readonly kind: 'frame'; readonly bytes: Uint8Array /** When the code's last byte arrived, terminators not counted. */; readonly lastByteMs: number }
  | { readonly kind: 'garbled'; readonly why: 'too_long' | 'framing' };

export interface FramingStep {
  readonly state: FramingState;
  readonly framed: readonly Framed[];
  /** Step again with no bytes at this time unless bytes come before; null: nothing ends by time. */
  readonly deadlineMs: number | null;
}

const CR = 0x0d;
const LF = 0x0a;
const STX = 0x02;
const ETX = 0x03;
const NUL = 0x00;
const NOTHING = new Uint8Array(0);

export const initialFraming: FramingState = { held: NOTHING, companion: null, dropping: false, inside: false, noise: false, codeAtMs: 0, byteAtMs: 0 };

/** Takes a chunk (or none, when a deadline has come) that arrived at `atMs`. Time must not run backwards. */
export function stepFraming(config: FramingConfig, state: FramingState, bytes: Uint8Array, atMs: number): FramingStep {
  const work = new Work(state);
  const pauseMs = atMs - state.byteAtMs;
  if (config.mode === 'silence') {
    if (pauseMs >= config.silenceMs) work.endTrimmed();
  } else if (bytes.length > 0 && pauseMs >= PARTIAL_TIMEOUT_MS) work.forget();
  for (const byte of bytes) {
    if (config.mode === 'silence') takeUntilSilence(work, byte, atMs);
    else if (config.mode === 'stx_etx') takeBetween(work, byte, atMs);
    else takeLine(work, byte, atMs, config.mode);
  }
  const next = work.state(bytes.length > 0 ? atMs : state.byteAtMs);
  const waiting = config.mode === 'silence' && (next.held.length > 0 || next.dropping);
  return { state: next, framed: work.framed, deadlineMs: waiting ? next.byteAtMs + config.silenceMs : null };
}

function takeLine(work: Work, byte: number, atMs: number, mode: 'cr' | 'lf' | 'crlf'): void {
  const breaks = byte === CR || byte === LF;
  if (breaks && (mode === 'crlf' || byte === (mode === 'cr' ? CR : LF))) work.end();
  else if (breaks) work.hold(byte, atMs);
  else work.add(byte, atMs);
}

/** Readers that say nothing at the end may still say CR LF; it is not part of the code. */
function takeUntilSilence(work: Work, byte: number, atMs: number): void {
  if (byte === CR || byte === LF) work.addBreak(byte);
  else work.add(byte, atMs);
}

function takeBetween(work: Work, byte: number, atMs: number): void {
  if (byte === STX) {
    if (work.inside && work.begun) work.garble('framing');
    work.restart();
    work.inside = true;
  } else if (work.inside && byte === ETX) work.end();
  else if (work.inside) work.add(byte, atMs);
  else if (byte !== CR && byte !== LF && byte !== NUL && !work.noise) {
    work.noise = true;
    work.garble('framing');
  }
}

/** One step's own copy of the state; nobody else sees it change. */
class Work {
  readonly framed: Framed[] = [];
  inside: boolean;
  noise: boolean;
  private readonly buffer = new Uint8Array(MAX_FRAME_BYTES);
  private length: number;
  private companion: number | null;
  private dropping: boolean;
  private codeAtMs: number;

  constructor(state: FramingState) {
    this.buffer.set(state.held);
    this.length = state.held.length;
    this.companion = state.companion;
    this.dropping = state.dropping;
    this.inside = state.inside;
    this.noise = state.noise;
    this.codeAtMs = state.codeAtMs;
  }

  /** Something of a frame has come. */
  get begun(): boolean {
    return this.length > 0 || this.dropping;
  }

  garble(why: 'too_long' | 'framing'): void {
    this.framed.push({ kind: 'garbled', why });
  }

  restart(): void {
    this.length = 0;
    this.companion = null;
    this.dropping = false;
    this.inside = false;
    this.noise = false;
  }

  end(): void {
    if (this.length > 0 && !this.dropping) this.framed.push({ kind: 'frame', bytes: this.buffer.slice(0, this.length), lastByteMs: this.codeAtMs });
    this.restart();
  }

  /** Ends a frame without the line breaks at its end. */
  endTrimmed(): void {
    while (this.length > 0 && (this.buffer[this.length - 1] === CR || this.buffer[this.length - 1] === LF)) this.length -= 1;
    this.end();
  }

  /** Drops a beginning that was left alone. A code that was too long has been counted already. */
  forget(): void {
    // Control bytes alone are noise of a plug or of the line: no guest.
    const held = this.buffer.subarray(0, this.length);
    if (!this.dropping && held.some((byte) => byte >= 0x20 && byte !== 0x7f && byte !== 0xff)) this.garble('framing');
    this.restart();
  }

  hold(byte: number, atMs: number): void {
    if (this.dropping || this.length === 0) return;
    this.release(atMs);
    this.companion = byte;
  }

  add(byte: number, atMs: number): void {
    if (this.dropping) return;
    this.release(atMs);
    this.put(byte, atMs);
  }

  /** Adds a line break that may be the code's end: its time does not count. */
  addBreak(byte: number): void {
    if (this.length > 0 && !this.dropping) this.put(byte, this.codeAtMs);
  }

  state(byteAtMs: number): FramingState {
    const { companion, dropping, inside, noise, codeAtMs } = this;
    return { held: this.length === 0 ? NOTHING : this.buffer.slice(0, this.length), companion, dropping, inside, noise, codeAtMs, byteAtMs };
  }

  /** Gives the bytes that were held as a companion back to the code. */
  private release(atMs: number): void {
    if (this.companion === null) return;
    const byte = this.companion;
    this.companion = null;
    this.put(byte, atMs);
  }

  private put(byte: number, atMs: number): void {
    if (this.dropping) return;
    if (this.length === MAX_FRAME_BYTES) {
      this.length = 0;
      this.dropping = true;
      this.garble('too_long');
      return;
    }
    this.buffer[this.length++] = byte;
    this.codeAtMs = atMs;
  }
}
