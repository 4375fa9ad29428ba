CREATE OR REPLACE TRIGGER events_remember_policies AFTER INSERT OR UPDATE ON events FOR EACH ROW EXECUTE FUNCTION remember_event_policies();
