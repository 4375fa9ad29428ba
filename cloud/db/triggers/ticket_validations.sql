CREATE OR REPLACE TRIGGER ticket_validations_mark BEFORE INSERT ON ticket_validations FOR EACH ROW EXECUTE FUNCTION ticket_validated();
