CREATE OR REPLACE TRIGGER ticket_transfers_change BEFORE UPDATE ON ticket_transfers FOR EACH ROW EXECUTE FUNCTION ticket_transfer_change();
