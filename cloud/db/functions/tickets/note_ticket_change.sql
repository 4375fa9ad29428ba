-- Whoever changes a ticket's rights by a statement of their own has the same done as by the product's doors: its row_version rises, so that a writer with an old
-- one fails, and the event's version with a mark in the outbox, so that the gates learn it; once a transaction and event. The doors raise both themselves.
CREATE OR REPLACE FUNCTION note_ticket_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  -- Of this transaction alone: set_config with true ends with it.
  raised jsonb := coalesce(nullif(current_setting('app.raised_versions', true), ''), '{}')::jsonb;
BEGIN
  -- An entry, and one that is given back, change no right: the ledgers tell of them.
  IF NEW.status <> OLD.status AND ((NEW.status = 'checked_in' AND NEW.status_before_entry = OLD.status) IS TRUE OR (OLD.status = 'checked_in' AND NEW.status = OLD.status_before_entry AND NEW.status_before_entry IS NULL) IS TRUE)
    AND to_jsonb(NEW) - '{status,status_before_entry,scan_count,first_scanned_at,last_scanned_at,status_changed_at,status_changed_by,status_reason,updated_at,rights_lost_at}'::text[] = to_jsonb(OLD) - '{status,status_before_entry,scan_count,first_scanned_at,last_scanned_at,status_changed_at,status_changed_by,status_reason,updated_at,rights_lost_at}'::text[] THEN RETURN NEW; END IF;
  IF NEW.row_version = OLD.row_version THEN
    NEW.row_version := OLD.row_version + 1;
    NEW.updated_at := now();
  END IF;
  IF NEW.changed_version = OLD.changed_version THEN
    IF raised -> NEW.event_id IS NULL THEN
      raised := raised || jsonb_build_object(NEW.event_id, raise_event_version(NEW.event_id));
      PERFORM set_config('app.raised_versions', raised::text, true);
    END IF;
    NEW.changed_version := (raised ->> NEW.event_id)::bigint;
  END IF;
  RETURN NEW;
END
$$;
