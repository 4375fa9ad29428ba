-- The states that each state may change to. Beside these, checked_in goes back to what it was before the entry, once that is given back.
CREATE OR REPLACE FUNCTION next_ticket_statuses(status ticket_status) RETURNS ticket_status[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE status
    WHEN 'available' THEN '{reserved,sold,minted,revoked,expired,cancelled}'
    WHEN 'reserved' THEN '{available,sold,minted,revoked,refunded,expired,cancelled}'
    WHEN 'sold' THEN '{minted,active,transferred,checked_in,used,revoked,refunded,expired,cancelled}'
    WHEN 'minted' THEN '{active,transferred,checked_in,used,revoked,refunded,expired,cancelled}'
    WHEN 'active' THEN '{minted,transferred,checked_in,used,revoked,refunded,expired,cancelled}'
    WHEN 'transferred' THEN '{minted,active,checked_in,used,revoked,refunded,expired,cancelled}'
    WHEN 'checked_in' THEN '{used,revoked,refunded,expired,cancelled}'
    WHEN 'used' THEN '{revoked,refunded,cancelled}'
    WHEN 'revoked' THEN '{refunded}'
    WHEN 'expired' THEN '{refunded}'
    WHEN 'cancelled' THEN '{refunded}'
    ELSE '{}' END::ticket_status[]
$$;
