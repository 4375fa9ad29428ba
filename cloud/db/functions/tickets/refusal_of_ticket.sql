-- What a ticket's state says against an entry; NULL: nothing. The same order as rightOf in cloud/manifest/ticket-rights.ts.
CREATE OR REPLACE FUNCTION refusal_of_ticket(t tickets, at timestamptz, OUT reason text, OUT message text) LANGUAGE plpgsql STABLE AS $$
BEGIN
  CASE
    WHEN t.status = 'available' THEN reason := 'invalid'; message := 'nobody holds this ticket';
    WHEN t.status = 'revoked' THEN reason := 'revoked'; message := 'the ticket was revoked';
    WHEN t.status IN ('refunded', 'cancelled') THEN reason := 'canceled'; message := format('the ticket is %s', t.status);
    WHEN t.status = 'expired' THEN reason := 'invalid_time'; message := 'the ticket has expired';
    WHEN t.blocked THEN reason := 'blocked'; message := 'the ticket is blocked' || coalesce(': ' || t.note, '');
    WHEN t.status = 'reserved' THEN reason := 'unpaid'; message := 'the ticket is not paid';
    WHEN NOT t.approved THEN reason := 'unapproved'; message := 'the ticket is not approved yet';
    WHEN t.valid_from > at THEN reason := 'invalid_time'; message := format('valid from %s', to_char(t.valid_from AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI"Z"'));
    WHEN t.valid_until < at THEN reason := 'invalid_time'; message := format('was valid until %s', to_char(t.valid_until AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI"Z"'));
    ELSE NULL;
  END CASE;
END
$$;
