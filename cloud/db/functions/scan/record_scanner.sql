-- The cloud appends and judges in one transaction, so its row is there, and came now.
CREATE OR REPLACE FUNCTION record_scanner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.gate LIKE '%/@%' THEN
    NEW.scanner := replace(NEW.gate, '/@', '/');
    RETURN NEW;
  END IF;
  SELECT scanner_of(r.entry) INTO NEW.scanner FROM ledger_rows r WHERE r.tenant_id = NEW.tenant_id AND r.gate = NEW.gate AND r.epoch = NEW.epoch AND r.seq = NEW.seq AND r.received_at = now();
  RETURN NEW;
END
$$;
