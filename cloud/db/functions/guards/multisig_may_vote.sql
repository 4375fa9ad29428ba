CREATE OR REPLACE FUNCTION multisig_may_vote() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  r multisig_approval_requests;
BEGIN
  SELECT * INTO r FROM multisig_approval_requests x WHERE x.tenant_id = NEW.tenant_id AND x.request_id = NEW.request_id FOR UPDATE;
  IF r.request_id IS NULL THEN PERFORM refuse(404, 'NO_SUCH_REQUEST', 'there is no such request'); END IF;
  IF r.status <> 'pending' THEN PERFORM refuse(409, 'NOT_ALLOWED', format('the request is %s', r.status)); END IF;
  IF r.expires_at <= now() THEN PERFORM refuse(409, 'EXPIRED', 'the request has run out'); END IF;
  IF TG_TABLE_NAME = 'multisig_approvals' AND NEW.approver = r.requested_by THEN PERFORM refuse(403, 'FORBIDDEN', 'nobody agrees to their own request'); END IF;
  RETURN NEW;
END
$$;
