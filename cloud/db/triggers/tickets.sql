CREATE OR REPLACE TRIGGER tickets_settle_what_came_before AFTER INSERT ON tickets REFERENCING NEW TABLE AS appeared FOR EACH STATEMENT EXECUTE FUNCTION late_tickets();

CREATE OR REPLACE TRIGGER tickets_log_status AFTER UPDATE ON tickets REFERENCING OLD TABLE AS before_change NEW TABLE AS after_change FOR EACH STATEMENT EXECUTE FUNCTION log_ticket_status_change();

CREATE OR REPLACE TRIGGER tickets_vip_follows AFTER UPDATE ON tickets REFERENCING NEW TABLE AS after_change FOR EACH STATEMENT EXECUTE FUNCTION vip_follows_account();

CREATE OR REPLACE TRIGGER tickets_got_holder AFTER INSERT ON tickets REFERENCING NEW TABLE AS appeared FOR EACH STATEMENT EXECUTE FUNCTION ticket_changed_hands();

CREATE OR REPLACE TRIGGER tickets_changed_hands AFTER UPDATE OF user_id ON tickets FOR EACH ROW WHEN (OLD.user_id IS DISTINCT FROM NEW.user_id) EXECUTE FUNCTION ticket_changed_hands();

-- Whoever changes rights raises row_version; reconciliation does not.
CREATE OR REPLACE TRIGGER tickets_audit AFTER UPDATE ON tickets FOR EACH ROW WHEN (OLD.row_version IS DISTINCT FROM NEW.row_version) EXECUTE FUNCTION audit_ticket();

CREATE OR REPLACE TRIGGER tickets_audit_delete AFTER DELETE ON tickets FOR EACH ROW EXECUTE FUNCTION audit_ticket();

CREATE OR REPLACE TRIGGER tickets_status_change BEFORE UPDATE OF status ON tickets FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status
  AND (NEW.status = 'checked_in' AND OLD.status IN ('sold', 'minted', 'active', 'transferred') AND OLD.status_before_entry IS NULL AND NEW.status_before_entry = OLD.status) IS NOT TRUE)
  EXECUTE FUNCTION ticket_status_change_trigger();

CREATE OR REPLACE TRIGGER tickets_note_lost_rights BEFORE INSERT OR UPDATE OF status ON tickets FOR EACH ROW
  WHEN (NEW.rights_lost_at IS NULL AND NEW.status IN ('available', 'revoked', 'refunded', 'expired', 'cancelled')) EXECUTE FUNCTION record_lost_rights();

-- What an entry is judged by, and what would have forbidden it. Tickets that were never granted anything are judged at no cost.
CREATE OR REPLACE TRIGGER tickets_judge_again AFTER UPDATE OF tier, max_scans, units, vip, status ON tickets FOR EACH ROW
  WHEN ((OLD.tier, OLD.max_scans, OLD.units, OLD.vip) IS DISTINCT FROM (NEW.tier, NEW.max_scans, NEW.units, NEW.vip)
    OR (OLD.status IN ('available', 'revoked', 'refunded', 'expired', 'cancelled')) <> (NEW.status IN ('available', 'revoked', 'refunded', 'expired', 'cancelled')))
  EXECUTE FUNCTION queue_judgement();

CREATE OR REPLACE TRIGGER tickets_settle_scans_that_wait AFTER INSERT ON tickets REFERENCING NEW TABLE AS appeared FOR EACH STATEMENT EXECUTE FUNCTION tickets_settle_pending_scans();

-- Named to run after the others that change the row.
CREATE OR REPLACE TRIGGER tickets_z_note_change BEFORE UPDATE ON tickets FOR EACH ROW
  WHEN ((OLD.ticket_ref, OLD.tier, OLD.zone, OLD.status, OLD.blocked, OLD.approved, OLD.max_scans, OLD.units, OLD.valid_from, OLD.valid_until, OLD.vip, OLD.note, OLD.user_id)
    IS DISTINCT FROM (NEW.ticket_ref, NEW.tier, NEW.zone, NEW.status, NEW.blocked, NEW.approved, NEW.max_scans, NEW.units, NEW.valid_from, NEW.valid_until, NEW.vip, NEW.note, NEW.user_id))
  EXECUTE FUNCTION note_ticket_change();
