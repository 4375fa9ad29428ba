-- Names are plain, and in canonical JSON a quote within a text is escaped: what stands so is the row's own field.
CREATE OR REPLACE FUNCTION scanner_of(entry text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT substring(entry FROM '[{,]"device":"([a-z0-9-]+/[a-z0-9-]+)"')
$$;
