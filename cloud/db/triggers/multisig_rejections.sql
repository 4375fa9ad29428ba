CREATE OR REPLACE TRIGGER multisig_rejections_check BEFORE INSERT ON multisig_rejections FOR EACH ROW EXECUTE FUNCTION multisig_may_vote();

CREATE OR REPLACE TRIGGER multisig_rejections_count AFTER INSERT ON multisig_rejections FOR EACH ROW EXECUTE FUNCTION multisig_voted();
