CREATE OR REPLACE FUNCTION latest_of(b boots, boottime_ms double precision) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE
  AS $$ SELECT CASE WHEN b.offset_ms IS NOT NULL THEN time_of_ms(b.offset_ms + boottime_ms + b.bound_ms) ELSE coalesce(b.before_at, 'infinity') END $$;
