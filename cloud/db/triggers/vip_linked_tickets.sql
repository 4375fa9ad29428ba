CREATE OR REPLACE TRIGGER vip_linked_tickets_remember BEFORE INSERT ON vip_linked_tickets FOR EACH ROW EXECUTE FUNCTION vip_ticket_remember();

CREATE OR REPLACE TRIGGER vip_linked_tickets_tell AFTER INSERT OR DELETE ON vip_linked_tickets FOR EACH ROW EXECUTE FUNCTION vip_ticket_linked();
