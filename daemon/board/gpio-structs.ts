/**
 * The kernel's structures for GPIO lines on the character device, uAPI v2 (include/uapi/linux/gpio.h): to bytes and back.
 * Pure. Both of our architectures are little-endian, and the structures have the same layout on both.
 */
import { endianness } from 'node:os';
import type { Bias, Level } from './pin-map.ts';

/** Requests: _IOR/_IOWR(0xB4, number, size). */
export const GET_CHIPINFO = 0x8044b401;
export const GET_LINEINFO = 0xc100b405;
export const GET_LINE = 0xc250b407;
export const GET_VALUES = 0xc010b40e;
export const SET_VALUES = 0xc010b40f;

/** GPIO_V2_LINE_FLAG_… */
const FLAG_USED = 1;
const FLAG_INPUT = 4;
const FLAG_OUTPUT = 8;
const FLAG_BOTH_EDGES = 16 | 32;
const BIAS_FLAGS: Readonly<Record<Bias, number>> = { 'pull-up': 256, 'pull-down': 512, none: 1024 };
/** GPIO_V2_LINE_ATTR_ID_… */
const ATTR_FLAGS = 1;
const ATTR_OUTPUT_VALUES = 2;

const CHIPINFO_BYTES = 68;
const LINEINFO_BYTES = 256;
const NAME_BYTES = 32;
const REQUEST_BYTES = 592;
const REQUEST_CONFIG = 288;
const CONFIG_ATTRS = 32;
const CONFIG_ATTR_BYTES = 24;
const REQUEST_NUM_LINES = 560;
const REQUEST_EVENT_BUFFER = 564;
const REQUEST_FD = 588;
export const VALUES_BYTES = 16;
export const EVENT_BYTES = 48;
const EVENT_RISING = 1;
/** GPIO_V2_LINES_MAX: of one request. */
const MAX_LINES = 64;
/** Edges that the kernel keeps for us; when more come between two reads it drops the oldest, and the levels tell. */
export const EVENT_BUFFER = 512;

const CONSUMER = 'stile-gate';

export interface ChipInfo {
  readonly label: string;
  readonly lines: number;
}
export interface OutputRequest {
  readonly line: number;
  /** The level from the first moment. */
  readonly level: Level;
}
export interface InputRequest {
  readonly line: number;
  readonly bias: Bias;
}
/** An edge on the wire, whatever "active" means. */
export interface Edge {
  readonly line: number;
  readonly level: Level;
  /** CLOCK_MONOTONIC, ns, taken by the kernel in its interrupt. */
  readonly atNs: bigint;
}

function text(bytes: Buffer, from: number): string {
  const end = bytes.indexOf(0, from);
  return bytes.toString('utf8', from, end === -1 ? from + NAME_BYTES : Math.min(end, from + NAME_BYTES));
}

export const emptyChipInfo = (): Buffer => Buffer.alloc(CHIPINFO_BYTES);
export const decodeChipInfo = (bytes: Buffer): ChipInfo => ({ label: text(bytes, NAME_BYTES), lines: bytes.readUInt32LE(2 * NAME_BYTES) });

export function encodeLineInfo(line: number): Buffer {
  const bytes = Buffer.alloc(LINEINFO_BYTES);
  bytes.writeUInt32LE(line, 2 * NAME_BYTES);
  return bytes;
}
/** Returns the name of the line's holder; null when the line is free. A kernel driver may give no name. */
export function decodeHolder(bytes: Buffer): string | null {
  const used = (Number(bytes.readBigUInt64LE(2 * NAME_BYTES + 8)) & FLAG_USED) !== 0;
  return used ? text(bytes, NAME_BYTES) || 'the kernel' : null;
}

/** Encodes every output of a lane in one request, each driven to its level in the moment in which it becomes an output. */
export function encodeOutputs(outputs: readonly OutputRequest[]): Buffer {
  const bytes = request(
    outputs.map(({ line }) => line),
    FLAG_OUTPUT,
  );
  bytes.writeUInt32LE(1, REQUEST_CONFIG + 8);
  attribute(
    bytes,
    0,
    ATTR_OUTPUT_VALUES,
    bits(outputs, ({ level }) => level === 'high'),
    bits(outputs, () => true),
  );
  return bytes;
}

/** Encodes every input of a lane in one request: both edges, and each with its bias. */
export function encodeInputs(inputs: readonly InputRequest[]): Buffer {
  const flags = FLAG_INPUT | FLAG_BOTH_EDGES;
  const bytes = request(
    inputs.map(({ line }) => line),
    flags,
  );
  const biases = [...new Set(inputs.map(({ bias }) => bias))];
  bytes.writeUInt32LE(biases.length, REQUEST_CONFIG + 8);
  biases.forEach((wanted, index) => {
    attribute(
      bytes,
      index,
      ATTR_FLAGS,
      BigInt(flags | BIAS_FLAGS[wanted]),
      bits(inputs, ({ bias }) => bias === wanted),
    );
  });
  bytes.writeUInt32LE(EVENT_BUFFER, REQUEST_EVENT_BUFFER);
  return bytes;
}

/** Returns the descriptor of the lines, in a request that the kernel has answered. */
export const decodeLineFd = (bytes: Buffer): number => bytes.readInt32LE(REQUEST_FD);

/** Encodes the value of one line; `index` is its place in the request. */
export function encodeValue(index: number, level: Level): Buffer {
  const bytes = Buffer.alloc(VALUES_BYTES);
  bytes.writeBigUInt64LE(level === 'high' ? 1n << BigInt(index) : 0n, 0);
  bytes.writeBigUInt64LE(1n << BigInt(index), 8);
  return bytes;
}
export function encodeValuesOf(count: number): Buffer {
  const bytes = Buffer.alloc(VALUES_BYTES);
  bytes.writeBigUInt64LE((1n << BigInt(count)) - 1n, 8);
  return bytes;
}
export const decodeValue = (bytes: Buffer, index: number): Level => ((bytes.readBigUInt64LE(0) >> BigInt(index)) & 1n ? 'high' : 'low');

/** Decodes as many events as were read; a part of one is no event. */
export function decodeEdges(bytes: Buffer): Edge[] {
  const edges: Edge[] = [];
  for (let at = 0; at + EVENT_BYTES <= bytes.length; at += EVENT_BYTES)
    edges.push({
      atNs: bytes.readBigUInt64LE(at),
      level: bytes.readUInt32LE(at + 8) === EVENT_RISING ? 'high' : 'low',
      line: bytes.readUInt32LE(at + 12),
    });
  return edges;
}

function request(lines: readonly number[], flags: number): Buffer {
  if (lines.length === 0 || lines.length > MAX_LINES) throw new Error(`a request for ${lines.length} lines: 1 to ${MAX_LINES} can be had at once`);
  if (endianness() !== 'LE') throw new Error('the character device is spoken to in little-endian; this machine is not');
  const bytes = Buffer.alloc(REQUEST_BYTES);
  for (const [index, line] of lines.entries()) bytes.writeUInt32LE(line, 4 * index);
  bytes.write(CONSUMER, 4 * MAX_LINES);
  bytes.writeBigUInt64LE(BigInt(flags), REQUEST_CONFIG);
  bytes.writeUInt32LE(lines.length, REQUEST_NUM_LINES);
  return bytes;
}

function attribute(bytes: Buffer, index: number, id: number, value: bigint, mask: bigint): void {
  const at = REQUEST_CONFIG + CONFIG_ATTRS + index * CONFIG_ATTR_BYTES;
  bytes.writeUInt32LE(id, at);
  bytes.writeBigUInt64LE(value, at + 8);
  bytes.writeBigUInt64LE(mask, at + 16);
}

function bits<T>(items: readonly T[], wanted: (item: T) => boolean): bigint {
  return items.reduce((sum, item, index) => (wanted(item) ? sum | (1n << BigInt(index)) : sum), 0n);
}
