CREATE OR REPLACE FUNCTION cause_message(cause text, last_entry_at timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT CASE cause WHEN 'already_redeemed' THEN 'already used' WHEN 'already_inside' THEN 'already inside' WHEN 'max_entries' THEN 'no entries left' WHEN 'gap' THEN 'scanned again too soon' WHEN 'passback' THEN 'already inside' ELSE cause END
    || coalesce(', last entry ' || to_char(last_entry_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), '')
$$;
