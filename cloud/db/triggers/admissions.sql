CREATE OR REPLACE TRIGGER admissions_note_scanner BEFORE INSERT ON admissions FOR EACH ROW WHEN (NEW.granted AND NEW.scanner IS NULL AND NEW.gate LIKE '%/cloud') EXECUTE FUNCTION record_scanner();
