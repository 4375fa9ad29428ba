CREATE OR REPLACE TRIGGER ticket_types_version BEFORE UPDATE ON ticket_types FOR EACH ROW EXECUTE FUNCTION raise_row_version();

CREATE OR REPLACE TRIGGER ticket_types_price AFTER UPDATE OF price_cents ON ticket_types FOR EACH ROW WHEN (OLD.price_cents IS DISTINCT FROM NEW.price_cents) EXECUTE FUNCTION log_price_change();
