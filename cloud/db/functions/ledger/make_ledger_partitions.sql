-- Makes the partitions of this month and the next ones. For the owner, at every migrate. A month whose rows went to the default partition stays there.
CREATE OR REPLACE FUNCTION make_ledger_partitions(months integer DEFAULT 6) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  begins date;
  kept text;
  part text;
  made integer := 0;
BEGIN
  FOR i IN 0 .. least(greatest(months, 0), 24) LOOP
    begins := (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i))::date;
    FOREACH kept IN ARRAY ARRAY['ledger_lines', 'ledger_messages'] LOOP
      part := kept || '_' || to_char(begins, 'YYYYMM');
      CONTINUE WHEN to_regclass(part) IS NOT NULL;
      -- The server looks through the default partition itself: the owner sees no row there.
      BEGIN
        EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)', part, kept, begins::text || ' 00:00:00+00', (begins + interval '1 month')::date::text || ' 00:00:00+00');
      EXCEPTION WHEN check_violation THEN CONTINUE;
      END;
      EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', part);
      EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', part);
      EXECUTE format('CREATE POLICY tenant_isolation ON %I USING (tenant_id = current_tenant_id()) WITH CHECK (tenant_id = current_tenant_id())', part);
      made := made + 1;
    END LOOP;
  END LOOP;
  RETURN made;
END
$$;

REVOKE EXECUTE ON FUNCTION make_ledger_partitions(integer) FROM PUBLIC;
