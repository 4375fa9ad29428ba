-- Passages that are nobody's ticket are counted by direction: out is never refused, so many of them leave (I7).
-- free_out, forced_out and overrides_out are parts of free_passages, forced_passages and overrides.
ALTER TABLE gate_counts
  ADD COLUMN free_out bigint NOT NULL DEFAULT 0,
  ADD COLUMN forced_out bigint NOT NULL DEFAULT 0,
  ADD COLUMN overrides_out bigint NOT NULL DEFAULT 0;
