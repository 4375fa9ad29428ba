CREATE OR REPLACE FUNCTION unpublished_ledger_rows(month date) RETURNS bigint
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$
    SELECT count(*) FROM ledger_lines r JOIN ledger_epochs e ON e.tenant_id = r.tenant_id AND e.gate = r.gate AND e.epoch = r.epoch
    WHERE r.received_at >= month::timestamp AT TIME ZONE 'UTC' AND r.received_at < (month + interval '1 month') AT TIME ZONE 'UTC' AND (r.gate LIKE '%/cloud' OR r.gate LIKE '%/@%') AND r.seq > e.published_seq;
  $$;

ALTER FUNCTION unpublished_ledger_rows(date) OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION unpublished_ledger_rows(date) FROM PUBLIC;
