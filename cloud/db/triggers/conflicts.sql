CREATE OR REPLACE TRIGGER conflicts_told_otherwise BEFORE UPDATE ON conflicts FOR EACH ROW
  WHEN (OLD.told AND (OLD.cause, OLD.winner_gate, OLD.winner_epoch, OLD.winner_seq) IS DISTINCT FROM (NEW.cause, NEW.winner_gate, NEW.winner_epoch, NEW.winner_seq)) EXECUTE FUNCTION conflict_changed();

CREATE OR REPLACE TRIGGER conflicts_withdrawn AFTER DELETE ON conflicts FOR EACH ROW WHEN (OLD.told) EXECUTE FUNCTION conflict_changed();
