-- Where a row lies in time: by its boot's offset; else between the boot's neighbours; else by its wall clock where that was ever set, kept within the neighbour that is known.
-- Three functions of one expression each, so that they are inlined.
CREATE OR REPLACE FUNCTION earliest_of(b boots, boottime_ms double precision) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE
  AS $$ SELECT CASE WHEN b.offset_ms IS NOT NULL THEN time_of_ms(b.offset_ms + boottime_ms - b.bound_ms) ELSE coalesce(b.after_at, '-infinity') END $$;
