-- Scans that came over HTTP: one row for each, keyed so that a repeat is known, naming the row of the cloud's ledger that it became.
-- Written under the lock of that ledger (ledgers), so two machines never take the same scan at once.
CREATE TABLE device_scans (
  tenant_id uuid NOT NULL,
  device text NOT NULL,
  -- 'id <scan_id>', or 'at <ticket_id> <scanned_at in Unix ms> <result>' where the scanner gave none.
  scan_key text NOT NULL CHECK (length(scan_key) BETWEEN 4 AND 160),
  online boolean NOT NULL,
  gate text NOT NULL,
  epoch bigint NOT NULL,
  seq bigint NOT NULL,
  event_id text,
  ticket_id text,
  result text NOT NULL CHECK (result IN ('ALLOW', 'DENY')),
  scanned_at timestamptz NOT NULL,
  -- What the scanner had counted: kept as it said, never added to anything.
  scan_count integer CHECK (scan_count >= 0),
  -- Online: what was asked (event, direction and salted hash of the code, hashed), and the answer as it was given, JSON as text.
  asked_sha256 bytea CHECK (octet_length(asked_sha256) = 32),
  answer text,
  received_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, device, scan_key),
  FOREIGN KEY (tenant_id, device) REFERENCES devices (tenant_id, name),
  CHECK (online = (asked_sha256 IS NOT NULL AND answer IS NOT NULL))
);
CREATE INDEX device_scans_by_row ON device_scans (tenant_id, gate, epoch, seq);

SELECT isolate_by_tenant('device_scans');
REVOKE UPDATE, DELETE ON device_scans FROM stile_service;
