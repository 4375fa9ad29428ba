-- Takes a month's rows of the ledgers out of use, ledger_lines_<month> (which it answers) and ledger_messages_<month>: for the owner, to be archived (pg_dump -t) and dropped. What they amount to stays: admissions, counts, and
-- which rows are stored, so that one that comes again is known. Gates don't miss them: their lists say up to where they count.
CREATE OR REPLACE FUNCTION detach_ledger_rows(month date) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  begins date := date_trunc('month', month)::date;
  part text := 'ledger_lines_' || to_char(begins, 'YYYYMM');
  texts text := 'ledger_messages_' || to_char(begins, 'YYYYMM');
  waiting bigint;
BEGIN
  IF to_regclass(part) IS NULL OR NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = 'ledger_lines'::regclass AND i.inhrelid = to_regclass(part)) THEN
    RAISE EXCEPTION 'there are no rows of % of their own', to_char(begins, 'YYYY-MM') USING HINT = 'months that no partition was made for are in ledger_lines_default';
  END IF;
  -- A chain is gone on with from its last row, gates fetch what they missed: the last two months stay.
  IF begins > date_trunc('month', now() AT TIME ZONE 'UTC') - interval '2 months' THEN
    RAISE EXCEPTION '% is too young: two whole months stay', to_char(begins, 'YYYY-MM');
  END IF;
  waiting := unpublished_ledger_rows(begins);
  IF waiting > 0 THEN RAISE EXCEPTION '% rows of the cloud''s ledgers in it were not told to the gates yet', waiting USING HINT = 'let stile-cloud ingest run, and try again'; END IF;
  EXECUTE format('ALTER TABLE ledger_lines DETACH PARTITION %I', part);
  -- The owner's alone from here on, and to be read by pg_dump, which stops at rows that are hidden from it.
  EXECUTE format('ALTER TABLE %I NO FORCE ROW LEVEL SECURITY', part);
  IF to_regclass(texts) IS NOT NULL AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = 'ledger_messages'::regclass AND i.inhrelid = to_regclass(texts)) THEN
    EXECUTE format('ALTER TABLE ledger_messages DETACH PARTITION %I', texts);
    EXECUTE format('ALTER TABLE %I NO FORCE ROW LEVEL SECURITY', texts);
  END IF;
  RETURN part;
END
$$;

REVOKE EXECUTE ON FUNCTION detach_ledger_rows(date) FROM PUBLIC;
