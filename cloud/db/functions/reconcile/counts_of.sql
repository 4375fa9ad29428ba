CREATE OR REPLACE FUNCTION counts_of(gate text, event_id text, sign integer, verdict text, direction text, used integer, uncertain integer) RETURNS count_delta
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  AS $$ SELECT ROW(gate, event_id, sign, sign * (verdict = 'winner')::integer, sign * (verdict = 'reentry')::integer, sign * (verdict = 'exit')::integer,
    sign * (verdict = 'excess')::integer, sign * (verdict = 'annulled')::integer,
    sign * used * (direction = 'in')::integer, sign * used * (direction = 'out')::integer, sign * uncertain, 0, 0, 0, 0)::count_delta $$;
