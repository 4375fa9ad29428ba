CREATE OR REPLACE FUNCTION unpublished_cloud_rows(at_most integer) RETURNS TABLE (gate text, epoch bigint, entries jsonb) LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY SELECT e.gate, e.epoch, r.entries FROM ledgers l JOIN ledger_epochs e ON e.tenant_id = l.tenant_id AND e.gate = l.gate
  CROSS JOIN LATERAL (SELECT jsonb_agg(jsonb_build_object('entry', x.entry, 'hash', encode(x.hash, 'hex')) ORDER BY x.seq) AS entries FROM (
    SELECT y.* FROM ledger_rows y WHERE y.tenant_id = e.tenant_id AND y.gate = e.gate AND y.epoch = e.epoch AND y.seq > e.published_seq AND y.seq <= e.upto_seq ORDER BY y.seq LIMIT at_most) AS x) AS r
  WHERE l.tenant_id = current_tenant_id() AND (l.gate = l.site_id || '/cloud' OR l.gate LIKE '%/@%') AND e.published_seq < e.upto_seq AND r.entries IS NOT NULL
  ORDER BY e.gate, e.epoch;
END
$$;
