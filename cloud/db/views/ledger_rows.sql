-- Rows of ledgers as they came: the narrow line, and the row's text, which is in its line or in the message that it came in. A text out of a message costs about a
-- tenth of a millisecond: whoever reads many rows of one ledger reads its messages (siteLedger in
-- cloud/reconcile/queries.ts).
CREATE OR REPLACE VIEW ledger_rows WITH (security_invoker = true) AS
SELECT l.tenant_id, l.gate, l.epoch, l.seq, l.received_at, l.kind, l.readable, l.hash,
  coalesce(l.entry, (SELECT m.entries[(l.seq - m.from_seq + 1)::integer] FROM ledger_messages m WHERE m.tenant_id = l.tenant_id AND m.gate = l.gate AND m.epoch = l.epoch AND m.from_seq = l.from_seq AND m.received_at = l.received_at LIMIT 1)) AS entry,
  l.at, l.event_id, l.ticket_id
FROM ledger_lines l;

GRANT SELECT ON ledger_rows TO stile_service, stile_resolver;
