-- RFC 8785 for what the cloud writes: ASCII names, texts, whole numbers. The same bytes as contract/hash-chain.ts gives.
CREATE OR REPLACE FUNCTION canonical_json(value jsonb) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
  number numeric;
BEGIN
  CASE jsonb_typeof(value)
    WHEN 'object' THEN RETURN '{' || coalesce((SELECT string_agg(to_json(e.key)::text || ':' || canonical_json(e.value), ',' ORDER BY e.key COLLATE "C") FROM jsonb_each(value) AS e), '') || '}';
    WHEN 'array' THEN RETURN '[' || coalesce((SELECT string_agg(canonical_json(e.value), ',' ORDER BY e.place) FROM jsonb_array_elements(value) WITH ORDINALITY AS e (value, place)), '') || ']';
    WHEN 'number' THEN
      number := trim_scale((value #>> '{}')::numeric);
      IF scale(number) > 0 OR abs(number) > 9007199254740991 THEN RAISE EXCEPTION 'a row of the cloud holds whole numbers only, not %', number; END IF;
      RETURN number::text;
    ELSE RETURN value::text;
  END CASE;
END
$$;
