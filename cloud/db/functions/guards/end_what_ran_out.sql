-- Ends what has run out, at most so many of each kind: transactions, multi-signature requests, offers of the waitlist, transfers, tickets past their event.
-- Answers how many: called until nothing does, so that no state waits for the next caller.
CREATE OR REPLACE FUNCTION end_what_ran_out(at_most integer DEFAULT 1000) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  tenant uuid := current_tenant_id();
  total integer := expire_transactions(NULL, at_most);
  gone integer;
  freed record;
BEGIN
  UPDATE multisig_approval_requests r SET status = 'expired' WHERE r.tenant_id = tenant AND r.request_id IN (
    SELECT x.request_id FROM multisig_approval_requests x WHERE x.tenant_id = tenant AND x.status IN ('pending', 'approved') AND x.expires_at <= now() ORDER BY x.expires_at LIMIT at_most FOR UPDATE SKIP LOCKED);
  GET DIAGNOSTICS gone = ROW_COUNT;
  total := total + gone;
  UPDATE ticket_transfers y SET status = 'expired' WHERE y.tenant_id = tenant AND y.transfer_id IN (
    SELECT x.transfer_id FROM ticket_transfers x WHERE x.tenant_id = tenant AND x.status IN ('pending', 'accepted') AND x.expires_at <= now() ORDER BY x.expires_at LIMIT at_most FOR UPDATE SKIP LOCKED);
  GET DIAGNOSTICS gone = ROW_COUNT;
  total := total + gone;
  -- An offer lasts a day; then whoever waits next is asked.
  FOR freed IN WITH over AS (
      UPDATE waitlist w SET status = 'expired' WHERE w.tenant_id = tenant AND w.waitlist_id IN (
        SELECT x.waitlist_id FROM waitlist x WHERE x.tenant_id = tenant AND x.status = 'offered' AND x.offered_at <= now() - interval '1 day' ORDER BY x.offered_at LIMIT at_most FOR UPDATE SKIP LOCKED)
      RETURNING w.event_id, w.tier)
    SELECT o.event_id, o.tier, count(*)::integer AS n FROM over o GROUP BY o.event_id, o.tier ORDER BY o.event_id, o.tier LOOP
    total := total + freed.n;
    PERFORM offer_to_waitlist(freed.event_id, freed.tier);
  END LOOP;
  RETURN total + expire_tickets(at_most);
END
$$;
