-- A device's word for a refusal, where it is one of the contract's.
CREATE OR REPLACE FUNCTION known_reason(word text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
  AS $$ SELECT CASE WHEN word IN ('invalid', 'unreadable', 'unpaid', 'blocked', 'invalid_time', 'canceled', 'already_redeemed', 'already_inside', 'product', 'zone', 'rules', 'ambiguous', 'revoked', 'unapproved', 'gap', 'max_entries', 'passback', 'capacity', 'gate_locked', 'see_staff', 'busy', 'manifest_stale', 'usage_lost', 'clock_untrusted') THEN word ELSE 'error' END $$;
