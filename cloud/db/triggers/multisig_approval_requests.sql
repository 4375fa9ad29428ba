CREATE OR REPLACE TRIGGER multisig_requests_change BEFORE UPDATE ON multisig_approval_requests FOR EACH ROW EXECUTE FUNCTION multisig_request_change();
