/** Small files that are written whole: keys, certificates, the broker's ACL, enrolment, bindings of readers, the stop step's levels, a download. */
import { createHash, createPrivateKey, randomBytes, webcrypto, X509Certificate } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import 'reflect-metadata';
import * as x509 from '@peculiar/x509';
import { openAuthority, writeCertificates } from '../../cloud/devices/certificates.ts';
import { openSigner } from '../../cloud/manifest/signing-key.ts';
import { openCodeKey } from '../../cloud/tickets/codes/code-key-file.ts';
import { formatReleaseFile, writeReleaseFile } from '../../daemon/board/failsafe-file.ts';
import { enroll } from '../../daemon/cli/enroll.ts';
import { download } from '../../daemon/link/download.ts';
import { createTestCa, type TestCa } from '../../deploy/mosquitto/test-ca.ts';
import { writeSafeFile } from '../../runtime/safe-file.ts';
import type { Scenario, Trial } from './scenario.ts';

const MAKES_FOLDER = [/: mkdir /, 'it is there, or what needs it fails'] as const;

/** Makes or reads something that has an identity, twice: whoever was told one must find the same one again. */
function lastingIdentity(name: string, open: (folder: string) => string | Promise<string>): Scenario {
  return {
    name,
    async act({ folder, told }) {
      try {
        return await open(folder);
      } catch (error) {
        told((error as Error).message);
        return null;
      }
    },
    async check({ folder }, promised) {
      let again: string;
      try {
        again = await open(folder);
      } catch (error) {
        return [`it cannot be made any more: ${(error as Error).message}`];
      }
      return promised === null || promised === again ? [] : [`${promised} was promised, and ${again} is there`];
    },
    silent: [MAKES_FOLDER, [/: unlink \/.*\.new E/, 'a second name of the same file: harmless']],
    unsynced: [[/: unlink .*\.new/, 'a second name that comes back is harmless']],
  };
}

/** A file that is replaced: the old text or the new one, never a part; the new one where no error was told. */
function replaced(name: string, file: string, write: (path: string, text: string) => void, more: Partial<Scenario> = {}): Scenario {
  const [before, after] = ['old\n'.repeat(2_000), 'new\n'.repeat(3_000)];
  const path = ({ folder }: Trial) => join(folder, file);
  return {
    name,
    async prepare(trial) {
      write(path(trial), before);
    },
    async act(trial) {
      try {
        write(path(trial), after);
        return true;
      } catch (error) {
        trial.told((error as Error).message);
        return false;
      }
    },
    async check(trial, promised) {
      const problems: string[] = [];
      const found = readFileSync(path(trial), 'utf8');
      if (found !== before && found !== after) problems.push(`${found.length} characters that are neither what stood there nor what was written`);
      if (promised === true && found !== after) problems.push('it was said to be written, and is not');
      write(path(trial), after);
      if (readFileSync(path(trial), 'utf8') !== after) problems.push('it is not written once all is well');
      return problems;
    },
    ...more,
  };
}

const LEVELS = (text: string) => [
  {
    kind: 'sim' as const,
    path: text
      .slice(0, 40)
      .replaceAll('\n', '-')
      .repeat(Math.ceil(text.length / 400)),
    level: 'high' as const,
  },
];
const releaseFile: Scenario = {
  ...replaced('release file of the stop step', 'run/release.conf', (path, text) => writeReleaseFile(path, LEVELS(text))),
  async check({ folder }, promised) {
    const found = readFileSync(join(folder, 'run/release.conf'), 'utf8');
    const [before, after] = ['old\n'.repeat(2_000), 'new\n'.repeat(3_000)].map((text) => formatReleaseFile(LEVELS(text)));
    if (found !== before && found !== after) return ['the stop step would read a part of it'];
    return promised === true && found !== after ? ['it was said to be written, and is not'] : [];
  },
  silent: [MAKES_FOLDER],
  unsynced: [[/./, 'it lies in memory (/run)']],
};

const certificates = lastingIdentity("the first installation's certificates", async (folder) => {
  await writeCertificates(folder, ['localhost']);
  const { ca } = await openAuthority({ cert: join(folder, 'gates-ca.crt'), key: join(folder, 'gates-ca.key') });
  for (const name of ['broker', 'cloud'])
    if (!new X509Certificate(readFileSync(join(folder, `${name}.crt`))).checkPrivateKey(createPrivateKey(readFileSync(join(folder, `${name}.key`)))))
      throw new Error(`${name}.crt is not for ${name}.key`);
  return ca;
});

const bytes = randomBytes(300_000);
const sha256 = createHash('sha256').update(bytes).digest('hex');
const fetched: Scenario = {
  name: 'a downloaded list',
  act: async ({ folder, told }) => {
    const body = Object.assign(
      (async function* () {
        for (let at = 0; at < bytes.length; at += 65_536) yield bytes.subarray(at, at + 65_536);
      })(),
      { destroy: () => undefined },
    );
    const result = await download(
      { addressOf: () => '', get: async () => ({ status: 200, headers: {}, body }) },
      { url: '/m', path: join(folder, sha256), sizeBytes: bytes.length, sha256, accept: '', signal: new AbortController().signal, progress: () => undefined },
    );
    if (!result.ok) told(result.message);
    return result.ok;
  },
  async check(trial, promised) {
    const path = join(trial.folder, sha256);
    const whole = () => existsSync(path) && readFileSync(path).equals(bytes);
    if (promised === true && !whole()) return ['it was said to be whole, and is not'];
    await fetched.act({ ...trial, told: () => undefined });
    if (whole()) return [];
    // What was wrong was thrown away: the next attempt begins anew.
    await fetched.act({ ...trial, told: () => undefined });
    return whole() ? [] : ['two more attempts do not bring it'];
  },
  unsynced: [[/./, 'whole only when its hash is right; the store copies, hashes and syncs it']],
};

let ca: TestCa | null = null;
let office: Server | null = null;
/** A cloud that signs whatever it is asked. */
async function cloudUrl(): Promise<string> {
  const authority = (ca ??= await createTestCa());
  if (office === null) {
    const folder = process.env['STILE_FILE_FAULTS_CA'] as string;
    mkdirSync(folder, { recursive: true });
    writeSafeFile(join(folder, 'ca.crt'), authority.ca, { mode: 0o644 });
    writeSafeFile(join(folder, 'ca.key'), authority.caKey, { mode: 0o600 });
    const { sign } = await openAuthority({ cert: join(folder, 'ca.crt'), key: join(folder, 'ca.key') });
    x509.cryptoProvider.set(webcrypto as Crypto);
    const server = createServer((request, response) => {
      let text = '';
      request.on('data', (chunk) => {
        text += chunk;
      });
      request.on('end', () => {
        const { csr } = JSON.parse(text) as { csr: string };
        void sign(csr, 'arena/north').then((signed) =>
          response.end(
            JSON.stringify({
              success: true,
              gate: 'arena/north',
              certificate: signed?.certificate,
              ca: authority.ca,
              keys: [],
              token: 'stile-device-x',
              assignment: { event_ids: [] },
            }),
          ),
        );
      });
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    server.unref();
    office = server;
  }
  return `http://127.0.0.1:${(office.address() as AddressInfo).port}`;
}
const enrolled: Scenario = {
  name: 'enrolment',
  async prepare() {
    await cloudUrl();
  },
  async act({ folder, told }) {
    try {
      await enroll({
        config: join(folder, 'stile/gate.yaml'),
        token: 'stile-enrol-0123456789abcdef',
        cloud: await cloudUrl(),
        broker: 'mqtts://broker.example',
        force: true,
        json: true,
      });
      return true;
    } catch (error) {
      told((error as Error).message);
      return false;
    }
  },
  async check(trial, promised) {
    const at = (name: string) => join(trial.folder, 'stile', name);
    const problems: string[] = [];
    const look = (when: string) => {
      const [key, certificate] = ['tls/gate.key', 'tls/gate.pem'].map((name) => (existsSync(at(name)) ? readFileSync(at(name), 'utf8') : null));
      if (key == null || certificate == null || !new X509Certificate(certificate).checkPrivateKey(createPrivateKey(key)))
        problems.push(`${when}: the certificate is not there, or not for the key`);
      if (!existsSync(at('keys.json')) || JSON.parse(readFileSync(at('keys.json'), 'utf8')).keys === undefined)
        problems.push(`${when}: keys.json is not whole`);
      if (!existsSync(at('conf.d/50-enrolment.yaml')) || !readFileSync(at('conf.d/50-enrolment.yaml'), 'utf8').endsWith('keys.json\n'))
        problems.push(`${when}: the settings are not whole`);
    };
    if (promised === true) look('enrolled');
    if ((await enrolled.act({ ...trial, told: (what) => problems.push(`it cannot be enrolled any more: ${what}`) })) === true) look('enrolled again');
    return problems;
  },
  unsynced: [[/: mkdir/, 'made again by the next enrolment']],
};

const left = (folder: string): string[] =>
  readdirSync(folder, { recursive: true })
    .map(String)
    .filter((name) => name.endsWith('.new'));
const safe: Scenario = replaced('a file of a command (broker-acl, tokens, readers assign)', 'acl', (path, text) =>
  writeSafeFile(path, text, { mode: 0o644, keep: true }),
);
const acl: Scenario = {
  ...safe,
  check: async (trial, promised) => [
    ...(await safe.check(trial, promised)),
    ...(promised === true && left(trial.folder).length > 0 ? ['parts are left behind'] : []),
  ],
};

export const SMALL: readonly Scenario[] = [
  lastingIdentity('signing key', (folder) => openSigner(join(folder, 'keys/signing.pem'), { create: true }).signer.keyId),
  lastingIdentity('key of signed codes', (folder) => openCodeKey(join(folder, 'keys/codes.pem'), { create: true }).spki),
  certificates,
  acl,
  releaseFile,
  fetched,
  enrolled,
];
