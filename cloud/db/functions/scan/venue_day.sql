-- The day of the venue; UTC where its time zone is none.
CREATE OR REPLACE FUNCTION venue_day(at timestamptz, time_zone text) RETURNS date LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN (at AT TIME ZONE time_zone)::date;
EXCEPTION WHEN OTHERS THEN
  RETURN (at AT TIME ZONE 'UTC')::date;
END
$$;
