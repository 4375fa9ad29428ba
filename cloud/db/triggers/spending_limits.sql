CREATE OR REPLACE TRIGGER spending_limits_version BEFORE UPDATE ON spending_limits FOR EACH ROW EXECUTE FUNCTION raise_row_version();
