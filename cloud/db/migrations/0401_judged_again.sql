-- Tickets whose rights changed are judged again by themselves; alerts that the cloud raised can be cleared, by somebody and for a reason.

-- Noted with the change, judged in a transaction of its own: whoever writes a ticket holds its row, and reconciliation takes the compact row first.
-- No key of the ticket: two who note the same must not wait for each other.
CREATE TABLE judgements_due (
  tenant_id uuid NOT NULL,
  id bigint GENERATED ALWAYS AS IDENTITY,
  event_id text NOT NULL,
  ticket_id text NOT NULL,
  PRIMARY KEY (tenant_id, id)
);
SELECT isolate_by_tenant('judgements_due');
GRANT SELECT ON judgements_due TO stile_resolver;

CREATE FUNCTION note_judgement_due() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO judgements_due (tenant_id, event_id, ticket_id) VALUES (NEW.tenant_id, NEW.event_id, NEW.ticket_id);
  RETURN NULL;
END
$$;
-- What an entry is judged by, and what would have forbidden it. Tickets that were never granted anything are judged at no cost.
CREATE TRIGGER tickets_judge_again AFTER UPDATE OF tier, max_scans, units, vip, status ON tickets FOR EACH ROW
  WHEN ((OLD.tier, OLD.max_scans, OLD.units, OLD.vip) IS DISTINCT FROM (NEW.tier, NEW.max_scans, NEW.units, NEW.vip)
    OR (OLD.status IN ('available', 'revoked', 'refunded', 'expired', 'cancelled')) <> (NEW.status IN ('available', 'revoked', 'refunded', 'expired', 'cancelled')))
  EXECUTE FUNCTION note_judgement_due();

-- Judges what is due, at most so many tickets; answers how many. Marks that another judges are left to him.
CREATE FUNCTION judge_due_tickets(at_most integer DEFAULT 1000) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  events text[];
  ticket_ids text[];
BEGIN
  WITH due AS (
    SELECT d.id FROM judgements_due d WHERE d.tenant_id = current_tenant_id() ORDER BY d.id LIMIT at_most FOR UPDATE SKIP LOCKED
  ), done AS (
    DELETE FROM judgements_due d USING due WHERE d.tenant_id = current_tenant_id() AND d.id = due.id RETURNING d.event_id, d.ticket_id
  )
  SELECT array_agg(x.event_id), array_agg(x.ticket_id) INTO events, ticket_ids FROM (SELECT DISTINCT * FROM done) AS x;
  IF events IS NULL THEN RETURN 0; END IF;
  PERFORM judge_tickets(events, ticket_ids);
  RETURN cardinality(events);
END
$$;
CREATE FUNCTION tenants_with_judgements_due(wanted integer) RETURNS TABLE (tenant_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT DISTINCT d.tenant_id FROM judgements_due d LIMIT wanted $$;
ALTER FUNCTION tenants_with_judgements_due(integer) OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION tenants_with_judgements_due(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenants_with_judgements_due(integer) TO stile_service;

-- Alerts of the cloud that somebody cleared. No foreign key: what was done outlives the gate.
CREATE TABLE cleared_alerts (
  tenant_id uuid NOT NULL,
  id bigint GENERATED ALWAYS AS IDENTITY,
  device text NOT NULL,
  alert_id text NOT NULL,
  alert jsonb NOT NULL,
  raised_at timestamptz NOT NULL,
  cleared_at timestamptz NOT NULL DEFAULT now(),
  actor text NOT NULL CHECK (actor <> ''),
  reason text NOT NULL CHECK (reason <> ''),
  PRIMARY KEY (tenant_id, id)
);
SELECT isolate_by_tenant('cleared_alerts');
REVOKE UPDATE, DELETE ON cleared_alerts FROM stile_service;

-- False: the cloud has raised no such alert (a gate's own is the gate's to clear). The next finding raises it again.
CREATE FUNCTION clear_cloud_alert(gate text, alert text, actor text, reason text) RETURNS boolean LANGUAGE sql AS $$
  WITH gone AS (
    DELETE FROM device_alerts a WHERE a.tenant_id = current_tenant_id() AND a.device = gate AND a.alert_id = clear_cloud_alert.alert AND a.by_cloud RETURNING a.*
  ), kept AS (
    INSERT INTO cleared_alerts (tenant_id, device, alert_id, alert, raised_at, actor, reason)
    SELECT g.tenant_id, g.device, g.alert_id, g.alert, g.received_at, clear_cloud_alert.actor, clear_cloud_alert.reason FROM gone g RETURNING 1
  )
  SELECT EXISTS (SELECT FROM kept)
$$;
