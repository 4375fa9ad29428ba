/** The gate's unit against what docs/spec/LANE.md and the stop step demand (FAULTS M5): a wrong word there is otherwise noticed on a kernel alone. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const settingsOf = (unit: string): ReadonlyMap<string, readonly string[]> => {
  const found = new Map<string, string[]>();
  for (const line of readFileSync(join(import.meta.dirname, '../systemd', unit), 'utf8').split('\n')) {
    const setting = /^([A-Za-z]+)=(.*)$/.exec(line);
    if (setting !== null) found.set(setting[1] as string, [...(found.get(setting[1] as string) ?? []), setting[2] as string]);
  }
  return found;
};
const gate = settingsOf('stile-gate.service');
const cloud = settingsOf('stile-cloud.service');
const one = (name: string): string | undefined => gate.get(name)?.join(' | ');
/** What people read, which binds nothing. */
const WORDS = ['Description', 'Documentation'];
const all = (unit: ReadonlyMap<string, readonly string[]>): Record<string, string> =>
  Object.fromEntries([...unit].filter(([name]) => !WORDS.includes(name)).map(([name, values]) => [name, values.join(' | ')]));

/** What both services may not do: nothing of the system but their own folders, no new privileges, no way out of the sandbox. */
const SANDBOX = {
  LimitCORE: '0',
  LockPersonality: 'yes',
  NoNewPrivileges: 'yes',
  PrivateMounts: 'yes',
  PrivateTmp: 'yes',
  ProtectClock: 'yes',
  ProtectControlGroups: 'yes',
  ProtectHome: 'yes',
  ProtectHostname: 'yes',
  ProtectKernelLogs: 'yes',
  ProtectKernelModules: 'yes',
  ProtectProc: 'invisible',
  ProtectSystem: 'strict',
  CapabilityBoundingSet: '',
  RemoveIPC: 'yes',
  RestrictNamespaces: 'yes',
  RestrictRealtime: 'yes',
  RestrictSUIDSGID: 'yes',
  SystemCallArchitectures: 'native',
  SystemCallErrorNumber: 'EPERM',
  UMask: '0027',
  ConfigurationDirectory: 'stile',
  ConfigurationDirectoryMode: '0750',
  StateDirectoryMode: '0750',
};

test("M5: a gate's unit kills a hung process, and runs the stop step however it ended", () => {
  expect([one('WatchdogSignal'), one('WatchdogSec'), one('KillMode')]).toEqual(['SIGKILL', '3', 'mixed']);
  expect(one('ExecStop')).toBeUndefined();
  expect(one('ExecStopPost')).toBe('/run/stile-release/stile-release /run/stile/release.conf');
});

test('M5: the stop step is copied to memory before the gate starts, and may be executed there', () => {
  const [, target = ''] = /install .* (\S+)$/.exec(one('ExecStartPre') ?? '') ?? [];
  expect(one('ExecStartPre')).toMatch(/^\+\/usr\/bin\/install -D -T -m 0755 \/opt\/stile\/libexec\/stile-release /);
  expect(one('ExecStopPost')?.split(' ')[0]).toBe(target);
  expect(one('ExecPaths')?.split(' ')).toContain(target.slice(0, target.lastIndexOf('/')));
});

test('M5: a gate is never given up on, and comes back within the bound', () => {
  expect([one('Restart'), one('RestartSec'), one('StartLimitIntervalSec')]).toEqual(['always', '250ms', '0']);
});

// Closed by default: a setting that is added, taken away or changed needs its line here.
test('M5: the gate’s unit says what LANE.md demands, and nothing else', () => {
  expect(all(gate)).toEqual({
    ...SANDBOX,
    // Its files, its devices and their drivers are there before it; it waits for no network.
    After: 'local-fs.target systemd-tmpfiles-setup.service systemd-modules-load.service',
    ConditionPathExists: '/etc/stile/gate.yaml',
    WantedBy: 'multi-user.target',
    // Ready when it decides; only the gate itself may say so and feed the watchdog.
    Type: 'notify',
    NotifyAccess: 'main',
    User: 'stile-gate',
    Group: 'stile-gate',
    SupplementaryGroups: 'dialout gpio stile-operators',
    ExecStartPre: '+/usr/bin/install -D -T -m 0755 /opt/stile/libexec/stile-release /run/stile-release/stile-release',
    ExecStart: '/opt/stile/bin/stile-gate run',
    ExecStopPost: '/run/stile-release/stile-release /run/stile/release.conf',
    ExecPaths: '/run/stile-release',
    ReadWritePaths: '/run/stile',
    ReadOnlyPaths: '/proc/sys',
    StateDirectory: 'stile',
    // It comes back by itself, at once and for ever; a hung one is killed within seconds; the guest under way may pass before a stop.
    Restart: 'always',
    RestartSec: '250ms',
    StartLimitIntervalSec: '0',
    TimeoutStartSec: '60',
    TimeoutStopSec: '10',
    TimeoutAbortSec: '1',
    WatchdogSec: '3',
    WatchdogSignal: 'SIGKILL',
    KillMode: 'mixed',
    // The last to be killed for memory, and first at the processor and the disk.
    OOMScoreAdjust: '-900',
    Nice: '-5',
    IOSchedulingClass: 'best-effort',
    IOSchedulingPriority: '0',
    // Readers and the header's lines; no other device.
    DevicePolicy: 'closed',
    DeviceAllow: ['ttyACM', 'ttyUSB', 'ttyAMA', 'ttyS', 'pts', 'gpiochip'].map((device) => `char-${device} rw`).join(' | '),
    AmbientCapabilities: '',
    // The lines' owner is seen under its own number.
    PrivateUsers: 'no',
    RestrictAddressFamilies: 'AF_UNIX AF_INET AF_INET6 AF_NETLINK',
    SystemCallFilter: '@system-service | ~@privileged @resources @mount @debug @cpu-emulation @obsolete | @chown',
  });
});

test('M5: the cloud’s unit serves without the login that owns the database, and nothing else', () => {
  expect(all(cloud)).toEqual({
    ...SANDBOX,
    After: 'network-online.target postgresql.service mosquitto.service',
    Wants: 'network-online.target',
    WantedBy: 'multi-user.target',
    Type: 'notify',
    NotifyAccess: 'all',
    User: 'stile-cloud',
    Group: 'stile-cloud',
    EnvironmentFile: '/etc/stile/cloud.env',
    ExecStartPre: `/bin/sh -c '[ -z "$STILE_MIGRATE_URL" ] || exec /opt/stile-cloud/bin/stile-cloud migrate'`,
    ExecStart: '/usr/bin/env -u STILE_MIGRATE_URL /opt/stile-cloud/bin/stile-cloud all',
    StateDirectory: 'stile-cloud',
    RuntimeDirectory: 'stile-cloud',
    RuntimeDirectoryMode: '0755',
    Restart: 'always',
    RestartSec: '1s',
    StartLimitIntervalSec: '0',
    TimeoutStartSec: '300',
    TimeoutStopSec: '30',
    WatchdogSec: '30',
    LimitNOFILE: '65536',
    PrivateDevices: 'yes',
    PrivateUsers: 'yes',
    ProtectKernelTunables: 'yes',
    RestrictAddressFamilies: 'AF_UNIX AF_INET AF_INET6',
    SystemCallFilter: '@system-service | ~@privileged @mount @debug @cpu-emulation @obsolete',
  });
});

test("S3: the broker's root step reads nothing that the cloud can write, and writes into the broker’s folder alone", () => {
  expect(all(settingsOf('stile-broker.path'))).toEqual({
    ConditionPathIsDirectory: '/etc/mosquitto/stile',
    PathChanged: '/run/stile-cloud/broker-rights',
    Unit: 'stile-broker.service',
    WantedBy: 'multi-user.target',
  });
  const unit = settingsOf('stile-broker.service');
  const cloud = '/usr/bin/env -u STILE_MIGRATE_URL /opt/stile-cloud/bin/stile-cloud';
  const reload = '/bin/systemctl reload mosquitto.service';
  expect(unit.get('ExecStart')).toEqual([
    `${cloud} broker-acl --out /etc/mosquitto/stile/acl`,
    reload,
    `${cloud} crl --out /etc/mosquitto/stile/gates.crl`,
    reload,
    `${cloud} end-sessions --crl /etc/mosquitto/stile/gates.crl`,
  ]);
  for (const [name, value] of [
    ['ProtectSystem', 'strict'],
    ['ReadWritePaths', '/etc/mosquitto/stile'],
    ['NoNewPrivileges', 'yes'],
  ] as const)
    expect(unit.get(name)).toEqual([value]);
  expect([...unit.values()].flat().join('\n')).not.toContain('/run/');
});

/** Lines of a file that are no comment. */
const linesOf = (file: string): string[] =>
  readFileSync(join(import.meta.dirname, '../systemd', file), 'utf8')
    .split('\n')
    .filter((line) => line.trim() !== '' && !line.startsWith('#'));

test('M5: users, folders, drivers and the machine’s own watchdog are what the units need', () => {
  const groups = (one('SupplementaryGroups') ?? '').split(' ');
  expect(linesOf('sysusers.d/stile.conf').sort()).toEqual(
    [
      'g gpio - -',
      'g stile-operators - -',
      'u stile-gate - "Stile gate" /var/lib/stile',
      'u stile-cloud - "Stile cloud" /var/lib/stile-cloud',
      ...groups.map((group) => `m stile-gate ${group}`),
    ].sort(),
  );
  // Root alone may change the stop step; operators reach the socket and nothing of the store.
  expect(linesOf('tmpfiles.d/stile.conf')).toEqual([
    'd /run/stile 0750 stile-gate stile-operators - -',
    'd /run/stile-release 0755 root root - -',
    'd /var/lib/stile 0750 stile-gate stile-gate - -',
  ]);
  expect(linesOf('modules-load.d/stile.conf')).toEqual(['cdc_acm', 'ftdi_sio', 'cp210x', 'ch341', 'pl2303']);
  expect(linesOf('system.conf.d/50-stile.conf')).toEqual(['[Manager]', 'RuntimeWatchdogSec=15', 'RebootWatchdogSec=2min']);
});

test('S3: root renews the certificate without reading what the gate can write, and writes into its folder alone', () => {
  const unit = settingsOf('stile-renew.service');
  for (const [name, value] of [
    ['ExecStart', '/opt/stile/bin/stile-gate renew'],
    ['SuccessExitStatus', '75'],
    ['ProtectSystem', 'strict'],
    ['ReadWritePaths', '/etc/stile/tls'],
    ['NoNewPrivileges', 'yes'],
  ] as const)
    expect(unit.get(name)).toEqual([value]);
  expect(settingsOf('stile-renew.timer').get('WantedBy')).toEqual(['timers.target']);
});
