CREATE OR REPLACE FUNCTION multisig_request_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (NEW.operation, NEW.payload, NEW.requested_by, NEW.required_approvals) IS DISTINCT FROM (OLD.operation, OLD.payload, OLD.requested_by, OLD.required_approvals) THEN PERFORM refuse(409, 'NOT_ALLOWED', 'what was asked for cannot be changed: ask anew'); END IF;
  IF NEW.status <> OLD.status THEN
    IF NOT NEW.status = ANY (CASE OLD.status WHEN 'pending' THEN '{approved,rejected,expired}' WHEN 'approved' THEN '{executed,expired}' ELSE '{}' END::text[]) THEN PERFORM refuse(409, 'NOT_ALLOWED', format('the request is %s: it cannot become %s', OLD.status, NEW.status)); END IF;
    IF NEW.status IN ('approved', 'executed') AND (SELECT count(*) FROM multisig_approvals a WHERE a.tenant_id = NEW.tenant_id AND a.request_id = NEW.request_id) < NEW.required_approvals THEN PERFORM refuse(409, 'NOT_ALLOWED', format('%s have to agree first', NEW.required_approvals)); END IF;
    IF NEW.status = 'executed' AND NEW.expires_at <= now() THEN PERFORM refuse(409, 'EXPIRED', 'the request has run out'); END IF;
    IF NEW.status = 'executed' THEN NEW.executed_at := now(); END IF;
  END IF;
  NEW.row_version := OLD.row_version + 1;
  NEW.updated_at := now();
  RETURN NEW;
END
$$;
