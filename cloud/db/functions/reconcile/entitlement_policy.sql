-- What of an event's policies a grant is judged by, for a tier at a gate: event, then tier (vip before vip:balcony), then gate, key by key.
-- The same as effectivePolicy in rules/policy.ts, for the rules of entitlement. Policies that cannot be read count as absent.
CREATE OR REPLACE FUNCTION entitlement_policy(policies jsonb, tier text, gate text,
    OUT total integer, OUT per_day integer, OUT per_gate integer, OUT days integer,
    OUT rule text, OUT min_gap_s double precision, OUT max_reentries integer, OUT until timestamptz, OUT counts_as_entry boolean,
    OUT passback text, OUT forget_after_s double precision, OUT duplicate_window_s double precision, OUT vip_always boolean)
  LANGUAGE plpgsql STABLE AS $$
DECLARE
  layer jsonb;
  merged jsonb;
BEGIN
  FOR attempt IN 1 .. 2 LOOP
    BEGIN
      merged := '{"duplicate_window_s": 10, "vip_reentry": "always", "entries": {}, "reentry": {"rule": "none", "min_gap_s": 0, "counts_as_entry": true}, "passback": {"mode": "off"}}';
      IF attempt = 1 THEN
        FOR layer IN
          SELECT policies -> 'event'
          UNION ALL (SELECT policies -> 'tiers' -> array_to_string((string_to_array(tier, ':'))[1:n], ':') FROM generate_series(1, coalesce(array_length(string_to_array(tier, ':'), 1), 0)) AS n ORDER BY n)
          UNION ALL SELECT policies -> 'gates' -> gate
        LOOP
          CONTINUE WHEN layer IS NULL OR jsonb_typeof(layer) <> 'object';
          merged := merged || (layer - 'entries' - 'reentry' - 'passback') || jsonb_build_object(
            'entries', (merged -> 'entries') || coalesce(layer -> 'entries', '{}'), 'reentry', (merged -> 'reentry') || coalesce(layer -> 'reentry', '{}'), 'passback', (merged -> 'passback') || coalesce(layer -> 'passback', '{}'));
        END LOOP;
      END IF;
      total := merged -> 'entries' ->> 'total';
      per_day := merged -> 'entries' ->> 'per_day';
      per_gate := merged -> 'entries' ->> 'per_gate';
      days := merged -> 'entries' ->> 'days';
      rule := merged -> 'reentry' ->> 'rule';
      min_gap_s := merged -> 'reentry' ->> 'min_gap_s';
      max_reentries := merged -> 'reentry' ->> 'max';
      until := merged -> 'reentry' ->> 'until';
      counts_as_entry := merged -> 'reentry' ->> 'counts_as_entry';
      passback := merged -> 'passback' ->> 'mode';
      forget_after_s := merged -> 'passback' ->> 'forget_after_s';
      duplicate_window_s := merged ->> 'duplicate_window_s';
      vip_always := merged ->> 'vip_reentry' = 'always';
      RETURN;
    EXCEPTION WHEN OTHERS THEN
      -- Never raises because of what was written into a policy; the second attempt takes the defaults.
    END;
  END LOOP;
END
$$;
