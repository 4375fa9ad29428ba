CREATE OR REPLACE TRIGGER refunds_change BEFORE INSERT OR UPDATE ON refunds FOR EACH ROW EXECUTE FUNCTION refund_change();

CREATE OR REPLACE TRIGGER refunds_to_tickets AFTER UPDATE OF status ON refunds FOR EACH ROW WHEN (NEW.status = 'completed' AND OLD.status <> 'completed') EXECUTE FUNCTION refund_completed();
