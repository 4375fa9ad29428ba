-- Counts stored rows anew, after forget_columns: their grants and words. Takes what reconcile_columns takes.
CREATE OR REPLACE FUNCTION recount_columns(
  gates text[], epochs bigint[], seqs bigint[], hashes bytea[], kinds text[], readables boolean[], entries text[],
  times timestamptz[], boot_ids text[], boottimes double precision[], offsets double precision[], bounds double precision[],
  event_ids text[], ticket_ids text[], ticket_refs bytea[], directions text[], units integer[], manifest_versions bigint[],
  of_gates text[], of_epochs bigint[], of_seqs bigint[], of_units integer[], outcomes text[],
  again_gates text[], again_epochs bigint[], again_seqs bigint[], again_hashes bytea[], of_hashes bytea[], chained boolean[]
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  place_gates text[] := ARRAY(SELECT coalesce(again_gates[i], gates[i]) FROM generate_series(1, cardinality(gates)) AS i);
  deltas count_delta[];
BEGIN
  SELECT judge_columns(gates, epochs, seqs, hashes, kinds, readables, times, boot_ids, boottimes, event_ids, ticket_ids, ticket_refs, directions, units, manifest_versions, of_gates, of_epochs, of_seqs, of_units, outcomes,
    again_gates, again_epochs, again_seqs, again_hashes, of_hashes, place_gates, array_agg(r.gate), array_agg(r.epoch), array_agg(r.low), array_agg(r.high), array_agg(r.first), ARRAY(SELECT DISTINCT g FROM unnest(place_gates) AS g), '{}', true)
  INTO deltas FROM consecutive_runs(gates, epochs, seqs) AS r;
  IF cardinality(deltas) > 0 THEN PERFORM add_counts(deltas); END IF;
END
$$;
