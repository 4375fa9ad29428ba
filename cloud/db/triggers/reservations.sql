CREATE OR REPLACE TRIGGER reservations_take BEFORE INSERT ON reservations FOR EACH ROW EXECUTE FUNCTION update_ticket_availability_on_reservation();

CREATE OR REPLACE TRIGGER reservations_release BEFORE UPDATE ON reservations FOR EACH ROW EXECUTE FUNCTION release_ticket_availability();

CREATE OR REPLACE TRIGGER reservations_log AFTER INSERT OR UPDATE ON reservations FOR EACH ROW EXECUTE FUNCTION log_reservation_change();
