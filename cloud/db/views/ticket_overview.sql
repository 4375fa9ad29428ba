-- Tickets under the names that the forerunners' reports use.
CREATE OR REPLACE VIEW ticket_overview WITH (security_invoker = true) AS
  SELECT t.tenant_id, t.event_id, t.ticket_id AS id, t.tier AS ticket_type_id, t.user_id, t.ticket_number, t.order_id, t.payment_id, t.currency, t.price_cents, t.price_cents / 100.0 AS price, t.face_value_cents / 100.0 AS face_value,
    t.section, t.seat_row AS "row", t.seat, t.status, t.scan_count > 0 OR t.validated_at IS NOT NULL AS is_validated, coalesce(t.first_scanned_at, t.validated_at) AS validated_at, t.is_transferable, t.is_nft, t.token_mint,
    t.status_reason, t.status_changed_by, t.status_changed_at, t.purchased_at, t.valid_from, t.valid_until AS expires_at, t.scan_count, t.first_scanned_at, t.last_scanned_at, t.created_at, t.updated_at, t.deleted_at
  FROM tickets t;

GRANT SELECT ON ticket_overview TO stile_service;
