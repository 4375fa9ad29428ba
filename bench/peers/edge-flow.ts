/** The turnstile as a Node-RED flow: serial in → look up → record in one transaction → lane → MQTT out. As one would draw it. */

export interface EdgeFlow {
  readonly reader: string;
  readonly database: string;
  readonly saltHex: string;
  readonly output: string;
  readonly port: number;
  readonly topic: string;
  readonly wal: boolean;
}

const LOOK_UP = (saltHex: string) => `
const code = msg.payload.trim();
const ref = global.get('crypto').createHash('sha256').update(Buffer.from('${saltHex}', 'hex')).update(code).digest().subarray(0, 16);
msg.ref = ref.toString('hex');
msg.params = [ref];
return msg;`;
const DECIDE = `
const found = msg.payload[0];
if (!found || found.status !== 0 || found.used !== null) return null;
const at = Date.now() / 1000;
msg.row = JSON.stringify({ ticket: found.id, ref: msg.ref, at, kind: 'grant' });
msg.topic = "BEGIN IMMEDIATE; INSERT INTO ledger (entry) VALUES ('" + msg.row + "'); INSERT INTO used (ref, at) VALUES (x'" + msg.ref + "', " + at + "); COMMIT";
return msg;`;
const RELEASE = (output: string) => ({
  initialize: `context.set('lane', global.get('fs').openSync(${JSON.stringify(output)}, 'w'));`,
  func: `
global.get('fs').writeSync(context.get('lane'), '1');
msg.payload = msg.row;
delete msg.topic;
return msg;`,
});

export function edgeFlow({ reader, database, saltHex, output, port, topic, wal }: EdgeFlow): object[] {
  const z = 'tab';
  const node = (id: string, type: string, next: string | null, fields: object) => ({
    id,
    type,
    z,
    x: 0,
    y: 0,
    wires: next === null ? [] : [[next]],
    ...fields,
  });
  const code = (id: string, next: string, fields: object) =>
    node(id, 'function', next, { outputs: 1, timeout: 0, noerr: 0, initialize: '', finalize: '', libs: [], ...fields });
  return [
    { id: z, type: 'tab', label: 'turnstile' },
    {
      id: 'port',
      type: 'serial-port',
      serialport: reader,
      serialbaud: '115200',
      databits: '8',
      parity: 'none',
      stopbits: '1',
      waitfor: '',
      dtr: 'none',
      rts: 'none',
      cts: 'none',
      dsr: 'none',
      newline: '\\n',
      bin: 'false',
      out: 'char',
      addchar: '',
      responsetimeout: '10000',
    },
    { id: 'db', type: 'sqlitedb', db: database, mode: 'RWC' },
    {
      id: 'broker',
      type: 'mqtt-broker',
      broker: '127.0.0.1',
      port: String(port),
      clientid: '',
      autoConnect: true,
      usetls: false,
      protocolVersion: '4',
      keepalive: '60',
      cleansession: true,
    },
    ...(wal
      ? [
          node('begin', 'inject', 'pragma', {
            props: [{ p: 'topic', vt: 'str' }],
            topic: 'PRAGMA synchronous = FULL',
            once: true,
            onceDelay: 0.1,
            repeat: '',
            crontab: '',
          }),
          node('pragma', 'sqlite', null, { mydb: 'db', sqlquery: 'batch', sql: '' }),
        ]
      : []),
    node('serial', 'serial in', 'look up', { serial: 'port' }),
    code('look up', 'find', { func: LOOK_UP(saltHex) }),
    node('find', 'sqlite', 'decide', {
      mydb: 'db',
      sqlquery: 'prepared',
      sql: 'SELECT id, status, (SELECT at FROM used WHERE used.ref = tickets.ref) AS used FROM tickets WHERE ref = ?',
    }),
    code('decide', 'record', { func: DECIDE }),
    node('record', 'sqlite', 'release', { mydb: 'db', sqlquery: 'batch', sql: '' }),
    code('release', 'out', RELEASE(output)),
    node('out', 'mqtt out', null, { topic, qos: '1', retain: 'false', broker: 'broker' }),
  ];
}
