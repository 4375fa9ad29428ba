-- Adds sums, sorted: the last locks of a transaction.
CREATE OR REPLACE FUNCTION add_counts(deltas count_delta[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO gate_counts AS c (tenant_id, gate, event_id, grants, winners, reentries, exits, excess, annulled, entered, exited, uncertain, free_passages, forced_passages, overrides, refusals)
  SELECT current_tenant_id(), d.gate, d.event_id, sum(d.grants), sum(d.winners), sum(d.reentries), sum(d.exits), sum(d.excess), sum(d.annulled), sum(d.entered), sum(d.exited), sum(d.uncertain),
    sum(d.free_passages), sum(d.forced_passages), sum(d.overrides), sum(d.refusals)
  FROM unnest(deltas) AS d GROUP BY d.gate, d.event_id
  HAVING (sum(d.grants), sum(d.winners), sum(d.reentries), sum(d.exits), sum(d.excess), sum(d.annulled), sum(d.entered), sum(d.exited), sum(d.uncertain), sum(d.free_passages), sum(d.forced_passages), sum(d.overrides), sum(d.refusals))
    <> (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
  ORDER BY d.gate, d.event_id
  ON CONFLICT (tenant_id, gate, event_id) DO UPDATE SET
    grants = c.grants + excluded.grants, winners = c.winners + excluded.winners, reentries = c.reentries + excluded.reentries, exits = c.exits + excluded.exits, excess = c.excess + excluded.excess,
    annulled = c.annulled + excluded.annulled, entered = c.entered + excluded.entered, exited = c.exited + excluded.exited, uncertain = c.uncertain + excluded.uncertain,
    free_passages = c.free_passages + excluded.free_passages, forced_passages = c.forced_passages + excluded.forced_passages, overrides = c.overrides + excluded.overrides, refusals = c.refusals + excluded.refusals;
END
$$;
