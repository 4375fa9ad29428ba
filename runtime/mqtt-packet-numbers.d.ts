/** The part of mqtt-packet that makes its length buffers; the package has no types of it. */
declare module 'mqtt-packet/numbers.js' {
  const numbers: { genBufVariableByteInt: (length: number) => Buffer };
  export default numbers;
}
