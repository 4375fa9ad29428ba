CREATE OR REPLACE FUNCTION multisig_voted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_TABLE_NAME = 'multisig_rejections' THEN
    UPDATE multisig_approval_requests x SET status = 'rejected' WHERE x.tenant_id = NEW.tenant_id AND x.request_id = NEW.request_id;
  ELSE
    UPDATE multisig_approval_requests x SET status = 'approved' WHERE x.tenant_id = NEW.tenant_id AND x.request_id = NEW.request_id
      AND (SELECT count(*) FROM multisig_approvals a WHERE a.tenant_id = x.tenant_id AND a.request_id = x.request_id) >= x.required_approvals;
  END IF;
  RETURN NULL;
END
$$;
