CREATE OR REPLACE TRIGGER pending_transactions_change BEFORE UPDATE ON pending_transactions FOR EACH ROW EXECUTE FUNCTION pending_transaction_change();
