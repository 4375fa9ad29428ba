CREATE OR REPLACE TRIGGER vip_reservations_change BEFORE UPDATE ON vip_reservations FOR EACH ROW EXECUTE FUNCTION vip_reservation_change();

CREATE OR REPLACE TRIGGER vip_reservations_to_passes AFTER UPDATE OF status ON vip_reservations FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION vip_passes_follow_reservation();
