CREATE OR REPLACE FUNCTION middle_of(b boots, boottime_ms double precision, ts timestamptz) RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
  AS $$ SELECT CASE WHEN b.offset_ms IS NOT NULL THEN time_of_ms(b.offset_ms + boottime_ms)
    WHEN b.after_at IS NOT NULL AND b.before_at IS NOT NULL THEN b.after_at + (b.before_at - b.after_at) / 2
    ELSE greatest(least(CASE WHEN ts >= '2000-01-01Z' OR b.before_at IS NULL THEN ts END, b.before_at), b.after_at) END $$;
