CREATE OR REPLACE TRIGGER multisig_approvals_check BEFORE INSERT ON multisig_approvals FOR EACH ROW EXECUTE FUNCTION multisig_may_vote();

CREATE OR REPLACE TRIGGER multisig_approvals_count AFTER INSERT ON multisig_approvals FOR EACH ROW EXECUTE FUNCTION multisig_voted();
