-- Selling: what there is of each ticket type, who reserves it, what is held back, prices, bundles, discounts, the waiting list, refunds.
--
-- users, venues and orders belong to other services: here they are in the smallest form that stands alone, and nothing refers to them by a foreign key.
-- Availability is one row a ticket type, changed under its lock by triggers: quantity = available + reserved + sold + held, never below nothing.

CREATE TABLE users (
  tenant_id uuid NOT NULL REFERENCES tenants,
  user_id text NOT NULL CHECK (user_id <> ''),
  -- As last counted by the functions below; user_ticket_stats counts at once.
  tickets_owned integer NOT NULL DEFAULT 0,
  tickets_bought integer NOT NULL DEFAULT 0,
  spent_cents bigint NOT NULL DEFAULT 0,
  events_attended integer NOT NULL DEFAULT 0,
  counted_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, user_id)
);
CREATE TABLE venues (
  tenant_id uuid NOT NULL REFERENCES tenants,
  venue_id text NOT NULL CHECK (venue_id <> ''),
  site_id text,
  name text NOT NULL,
  owner_user_id text,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, venue_id),
  FOREIGN KEY (tenant_id, site_id) REFERENCES sites (tenant_id, site_id)
);
CREATE TABLE orders (
  tenant_id uuid NOT NULL REFERENCES tenants,
  order_id text NOT NULL CHECK (order_id <> ''),
  user_id text,
  status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'paid', 'cancelled', 'refunded')),
  total_cents bigint NOT NULL DEFAULT 0 CHECK (total_cents >= 0),
  currency text CHECK (currency ~ '^[A-Z]{3}$'),
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, order_id)
);
CREATE INDEX orders_by_user ON orders (tenant_id, user_id);

-- quantity NULL: as many as there are.
ALTER TABLE ticket_types
  ADD COLUMN description text NOT NULL DEFAULT '',
  ADD COLUMN currency text CHECK (currency ~ '^[A-Z]{3}$'),
  ADD COLUMN price_cents bigint CHECK (price_cents >= 0),
  ADD COLUMN max_resale_price_cents bigint CHECK (max_resale_price_cents >= 0),
  ADD COLUMN quantity integer CHECK (quantity >= 0),
  ADD COLUMN reserved_quantity integer NOT NULL DEFAULT 0 CHECK (reserved_quantity >= 0),
  ADD COLUMN sold_quantity integer NOT NULL DEFAULT 0 CHECK (sold_quantity >= 0),
  ADD COLUMN held_quantity integer NOT NULL DEFAULT 0 CHECK (held_quantity >= 0),
  ADD COLUMN available_quantity integer GENERATED ALWAYS AS (quantity - reserved_quantity - sold_quantity - held_quantity) STORED CHECK (available_quantity >= 0),
  ADD COLUMN max_per_order integer CHECK (max_per_order > 0),
  ADD COLUMN sale_starts_at timestamptz,
  ADD COLUMN sale_ends_at timestamptz,
  ADD COLUMN row_version bigint NOT NULL DEFAULT 1,
  ADD COLUMN updated_at timestamptz NOT NULL DEFAULT now(),
  ADD CONSTRAINT ticket_types_sale_in_order CHECK (sale_starts_at IS NULL OR sale_ends_at IS NULL OR sale_starts_at <= sale_ends_at),
  ADD CONSTRAINT ticket_types_resale_above_price CHECK (max_resale_price_cents IS NULL OR price_cents IS NULL OR max_resale_price_cents >= price_cents);
CREATE TRIGGER ticket_types_version BEFORE UPDATE ON ticket_types FOR EACH ROW EXECUTE FUNCTION raise_row_version();

CREATE TABLE ticket_price_history (
  tenant_id uuid NOT NULL,
  id bigint GENERATED ALWAYS AS IDENTITY,
  event_id text NOT NULL,
  tier text NOT NULL,
  old_price_cents bigint,
  new_price_cents bigint,
  currency text,
  changed_by text,
  reason text,
  changed_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, id),
  FOREIGN KEY (tenant_id, event_id, tier) REFERENCES ticket_types (tenant_id, event_id, tier)
);
CREATE INDEX ticket_price_history_by_type ON ticket_price_history (tenant_id, event_id, tier, id);
CREATE FUNCTION log_price_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO ticket_price_history (tenant_id, event_id, tier, old_price_cents, new_price_cents, currency, changed_by, reason)
  VALUES (NEW.tenant_id, NEW.event_id, NEW.tier, OLD.price_cents, NEW.price_cents, NEW.currency, context_of('current_user_id'), context_of('status_change_reason'));
  RETURN NULL;
END
$$;
CREATE TRIGGER ticket_types_price AFTER UPDATE OF price_cents ON ticket_types FOR EACH ROW WHEN (OLD.price_cents IS DISTINCT FROM NEW.price_cents) EXECUTE FUNCTION log_price_change();

CREATE TABLE reservations (
  tenant_id uuid NOT NULL,
  reservation_id uuid NOT NULL DEFAULT gen_random_uuid(),
  event_id text NOT NULL,
  tier text NOT NULL,
  user_id text,
  order_id text,
  quantity integer NOT NULL CHECK (quantity BETWEEN 1 AND 1000),
  status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'confirmed', 'expired', 'cancelled')),
  expires_at timestamptz NOT NULL DEFAULT now() + interval '15 minutes',
  row_version bigint NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, reservation_id),
  FOREIGN KEY (tenant_id, event_id, tier) REFERENCES ticket_types (tenant_id, event_id, tier)
);
CREATE INDEX reservations_due ON reservations (tenant_id, event_id, tier, expires_at) WHERE status = 'active';
CREATE INDEX reservations_by_user ON reservations (tenant_id, user_id) WHERE user_id IS NOT NULL;
CREATE TABLE reservation_history (
  tenant_id uuid NOT NULL REFERENCES tenants,
  id bigint GENERATED ALWAYS AS IDENTITY,
  reservation_id uuid NOT NULL,
  previous_status text,
  new_status text NOT NULL,
  changed_by text,
  reason text,
  changed_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, reservation_id, id)
);

-- Takes what is reserved, or refuses: SOLD_OUT. What is overdue is given back first, so availability is right whenever it is asked for.
CREATE FUNCTION update_ticket_availability_on_reservation() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  kind ticket_types;
BEGIN
  IF NEW.status <> 'active' THEN PERFORM refuse(409, 'NOT_ALLOWED', 'a reservation begins active'); END IF;
  PERFORM 1 FROM ticket_types x WHERE x.tenant_id = NEW.tenant_id AND x.event_id = NEW.event_id AND x.tier = NEW.tier FOR UPDATE;
  IF NOT FOUND THEN PERFORM refuse(404, 'NO_SUCH_TICKET_TYPE', format('event %s has no tickets of type %s', NEW.event_id, NEW.tier)); END IF;
  PERFORM expire_reservations(NEW.event_id, NEW.tier);
  SELECT * INTO kind FROM ticket_types x WHERE x.tenant_id = NEW.tenant_id AND x.event_id = NEW.event_id AND x.tier = NEW.tier;
  IF kind.sale_starts_at > now() OR kind.sale_ends_at < now() THEN PERFORM refuse(409, 'NOT_ON_SALE', format('tickets of type %s are not on sale now', NEW.tier)); END IF;
  IF NEW.quantity > kind.max_per_order THEN PERFORM refuse(409, 'TOO_MANY', format('at most %s tickets of type %s at once', kind.max_per_order, NEW.tier)); END IF;
  IF NEW.quantity > kind.available_quantity THEN PERFORM refuse(409, 'SOLD_OUT', format('%s of %s wanted tickets of type %s are left', kind.available_quantity, NEW.quantity, NEW.tier)); END IF;
  UPDATE ticket_types x SET reserved_quantity = x.reserved_quantity + NEW.quantity WHERE x.tenant_id = NEW.tenant_id AND x.event_id = NEW.event_id AND x.tier = NEW.tier;
  RETURN NEW;
END
$$;
CREATE TRIGGER reservations_take BEFORE INSERT ON reservations FOR EACH ROW EXECUTE FUNCTION update_ticket_availability_on_reservation();

-- Confirmed: what was reserved is sold. Expired or cancelled: it is given back, and whoever waits is told. Nothing comes back from those.
CREATE FUNCTION release_ticket_availability() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.quantity <> OLD.quantity OR NEW.event_id <> OLD.event_id OR NEW.tier <> OLD.tier THEN PERFORM refuse(409, 'NOT_ALLOWED', 'what is reserved cannot be changed: cancel it and reserve anew'); END IF;
  NEW.row_version := OLD.row_version + 1;
  NEW.updated_at := now();
  IF NEW.status = OLD.status THEN RETURN NEW; END IF;
  IF NOT (OLD.status = 'active' OR (OLD.status = 'confirmed' AND NEW.status = 'cancelled')) THEN PERFORM refuse(409, 'NOT_ALLOWED', format('the reservation is %s: it cannot become %s', OLD.status, NEW.status)); END IF;
  IF NEW.status = 'confirmed' AND OLD.expires_at <= now() THEN PERFORM refuse(409, 'EXPIRED', 'the reservation has run out'); END IF;
  UPDATE ticket_types x SET reserved_quantity = x.reserved_quantity - CASE OLD.status WHEN 'active' THEN OLD.quantity ELSE 0 END,
    sold_quantity = x.sold_quantity + CASE WHEN NEW.status = 'confirmed' THEN OLD.quantity WHEN OLD.status = 'confirmed' THEN -OLD.quantity ELSE 0 END
  WHERE x.tenant_id = NEW.tenant_id AND x.event_id = NEW.event_id AND x.tier = NEW.tier;
  IF NEW.status <> 'confirmed' THEN PERFORM offer_to_waitlist(NEW.event_id, NEW.tier); END IF;
  RETURN NEW;
END
$$;
CREATE TRIGGER reservations_release BEFORE UPDATE ON reservations FOR EACH ROW EXECUTE FUNCTION release_ticket_availability();

CREATE FUNCTION log_reservation_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    INSERT INTO reservation_history (tenant_id, reservation_id, new_status, changed_by, reason) VALUES (NEW.tenant_id, NEW.reservation_id, NEW.status, coalesce(context_of('current_user_id'), NEW.user_id), context_of('status_change_reason'));
  ELSIF NEW.status <> OLD.status THEN
    INSERT INTO reservation_history (tenant_id, reservation_id, previous_status, new_status, changed_by, reason) VALUES (NEW.tenant_id, NEW.reservation_id, OLD.status, NEW.status, context_of('current_user_id'), context_of('status_change_reason'));
  END IF;
  RETURN NULL;
END
$$;
CREATE TRIGGER reservations_log AFTER INSERT OR UPDATE ON reservations FOR EACH ROW EXECUTE FUNCTION log_reservation_change();

-- Gives back what is overdue, of one ticket type or of all; answers how many reservations.
CREATE FUNCTION expire_reservations(event text DEFAULT NULL, tier text DEFAULT NULL, at_most integer DEFAULT 1000) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  gone integer;
BEGIN
  PERFORM 1 FROM ticket_types x WHERE x.tenant_id = current_tenant_id() AND (event IS NULL OR x.event_id = event) AND (expire_reservations.tier IS NULL OR x.tier = expire_reservations.tier)
    AND EXISTS (SELECT FROM reservations r WHERE r.tenant_id = x.tenant_id AND r.event_id = x.event_id AND r.tier = x.tier AND r.status = 'active' AND r.expires_at <= now()) ORDER BY x.event_id, x.tier FOR UPDATE;
  UPDATE reservations r SET status = 'expired' WHERE r.tenant_id = current_tenant_id() AND r.status = 'active' AND r.reservation_id IN (
    SELECT o.reservation_id FROM reservations o WHERE o.tenant_id = current_tenant_id() AND o.status = 'active' AND o.expires_at <= now() AND (event IS NULL OR o.event_id = event) AND (expire_reservations.tier IS NULL OR o.tier = expire_reservations.tier)
    ORDER BY o.event_id, o.tier, o.expires_at LIMIT at_most FOR UPDATE SKIP LOCKED);
  GET DIAGNOSTICS gone = ROW_COUNT;
  RETURN gone;
END
$$;

-- Held back from sale: for sponsors, for the house, for a seat that is broken.
CREATE TABLE ticket_holds (
  tenant_id uuid NOT NULL,
  hold_id uuid NOT NULL DEFAULT gen_random_uuid(),
  event_id text NOT NULL,
  tier text NOT NULL,
  quantity integer NOT NULL CHECK (quantity > 0),
  reason text NOT NULL,
  held_by text,
  released_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, hold_id),
  FOREIGN KEY (tenant_id, event_id, tier) REFERENCES ticket_types (tenant_id, event_id, tier)
);
CREATE INDEX ticket_holds_open ON ticket_holds (tenant_id, event_id, tier) WHERE released_at IS NULL;
CREATE FUNCTION count_ticket_hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    UPDATE ticket_types x SET held_quantity = x.held_quantity + NEW.quantity WHERE x.tenant_id = NEW.tenant_id AND x.event_id = NEW.event_id AND x.tier = NEW.tier AND (x.available_quantity IS NULL OR x.available_quantity >= NEW.quantity);
    IF NOT FOUND THEN PERFORM refuse(409, 'SOLD_OUT', format('fewer than %s tickets of type %s are left to hold', NEW.quantity, NEW.tier)); END IF;
  ELSIF OLD.released_at IS NOT NULL OR NEW.quantity <> OLD.quantity OR NEW.event_id <> OLD.event_id OR NEW.tier <> OLD.tier THEN
    PERFORM refuse(409, 'NOT_ALLOWED', 'a hold can only be released, once');
  ELSIF NEW.released_at IS NOT NULL THEN
    UPDATE ticket_types x SET held_quantity = x.held_quantity - NEW.quantity WHERE x.tenant_id = NEW.tenant_id AND x.event_id = NEW.event_id AND x.tier = NEW.tier;
    PERFORM offer_to_waitlist(NEW.event_id, NEW.tier);
  END IF;
  RETURN NEW;
END
$$;
CREATE TRIGGER ticket_holds_count BEFORE INSERT OR UPDATE ON ticket_holds FOR EACH ROW EXECUTE FUNCTION count_ticket_hold();

-- To be told to people, by whoever can reach them: ids only, no addresses.
CREATE TABLE ticket_notifications (
  tenant_id uuid NOT NULL REFERENCES tenants,
  id bigint GENERATED ALWAYS AS IDENTITY,
  kind text NOT NULL CHECK (kind <> ''),
  user_id text,
  event_id text,
  ticket_id text,
  detail jsonb NOT NULL DEFAULT '{}',
  due_at timestamptz NOT NULL DEFAULT now(),
  attempts integer NOT NULL DEFAULT 0,
  last_error text,
  sent_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, id)
);
CREATE INDEX ticket_notifications_due ON ticket_notifications (tenant_id, due_at) WHERE sent_at IS NULL;
-- Takes notifications for a while: nobody else gets them until the lease runs out.
CREATE FUNCTION take_ticket_notifications(at_most integer DEFAULT 100, lease_s integer DEFAULT 60) RETURNS SETOF ticket_notifications LANGUAGE sql AS $$
  UPDATE ticket_notifications n SET due_at = now() + make_interval(secs => lease_s), attempts = n.attempts + 1 WHERE n.tenant_id = current_tenant_id() AND n.id IN (
    SELECT x.id FROM ticket_notifications x WHERE x.tenant_id = current_tenant_id() AND x.sent_at IS NULL AND x.due_at <= now() ORDER BY x.due_at, x.id LIMIT least(at_most, 1000) FOR UPDATE SKIP LOCKED) RETURNING n.*
$$;

CREATE TABLE waitlist (
  tenant_id uuid NOT NULL,
  waitlist_id bigint GENERATED ALWAYS AS IDENTITY,
  event_id text NOT NULL,
  tier text NOT NULL,
  user_id text NOT NULL,
  quantity integer NOT NULL DEFAULT 1 CHECK (quantity > 0),
  status text NOT NULL DEFAULT 'waiting' CHECK (status IN ('waiting', 'offered', 'accepted', 'expired', 'cancelled')),
  offered_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, waitlist_id),
  FOREIGN KEY (tenant_id, event_id, tier) REFERENCES ticket_types (tenant_id, event_id, tier)
);
CREATE UNIQUE INDEX waitlist_once ON waitlist (tenant_id, event_id, tier, user_id) WHERE status IN ('waiting', 'offered');
-- Tells whoever waits longest and can be served, in order, as far as it reaches. An offer holds nothing: first come, first served.
CREATE FUNCTION offer_to_waitlist(event text, tier text) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  -- What is left, NULL: as many as there are.
  remaining integer := (SELECT x.available_quantity FROM ticket_types x WHERE x.tenant_id = current_tenant_id() AND x.event_id = event AND x.tier = offer_to_waitlist.tier);
  w waitlist;
  offered integer := 0;
BEGIN
  FOR w IN SELECT * FROM waitlist x WHERE x.tenant_id = current_tenant_id() AND x.event_id = event AND x.tier = offer_to_waitlist.tier AND x.status = 'waiting' ORDER BY x.waitlist_id LIMIT 100 FOR UPDATE SKIP LOCKED LOOP
    EXIT WHEN w.quantity > remaining;
    UPDATE waitlist x SET status = 'offered', offered_at = now() WHERE x.tenant_id = w.tenant_id AND x.waitlist_id = w.waitlist_id;
    INSERT INTO ticket_notifications (tenant_id, kind, user_id, event_id, detail) VALUES (w.tenant_id, 'waitlist_offer', w.user_id, event, jsonb_build_object('tier', w.tier, 'quantity', w.quantity));
    remaining := remaining - w.quantity;
    offered := offered + 1;
  END LOOP;
  RETURN offered;
END
$$;

CREATE TABLE ticket_bundles (
  tenant_id uuid NOT NULL,
  bundle_id uuid NOT NULL DEFAULT gen_random_uuid(),
  event_id text NOT NULL,
  name text NOT NULL CHECK (name <> ''),
  price_cents bigint NOT NULL CHECK (price_cents >= 0),
  currency text CHECK (currency ~ '^[A-Z]{3}$'),
  active boolean NOT NULL DEFAULT true,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, bundle_id),
  UNIQUE (tenant_id, event_id, bundle_id),
  FOREIGN KEY (tenant_id, event_id) REFERENCES events (tenant_id, event_id)
);
CREATE TABLE ticket_bundle_items (
  tenant_id uuid NOT NULL,
  event_id text NOT NULL,
  bundle_id uuid NOT NULL,
  tier text NOT NULL,
  quantity integer NOT NULL CHECK (quantity > 0),
  PRIMARY KEY (tenant_id, event_id, bundle_id, tier),
  FOREIGN KEY (tenant_id, event_id, bundle_id) REFERENCES ticket_bundles (tenant_id, event_id, bundle_id) ON DELETE CASCADE,
  FOREIGN KEY (tenant_id, event_id, tier) REFERENCES ticket_types (tenant_id, event_id, tier)
);

CREATE TABLE discounts (
  tenant_id uuid NOT NULL REFERENCES tenants,
  discount_id uuid NOT NULL DEFAULT gen_random_uuid(),
  code text NOT NULL CHECK (code <> '' AND code = upper(code)),
  event_id text,
  percent numeric(5, 2) CHECK (percent > 0 AND percent <= 100),
  amount_cents bigint CHECK (amount_cents > 0),
  min_order_cents bigint NOT NULL DEFAULT 0 CHECK (min_order_cents >= 0),
  max_uses integer CHECK (max_uses > 0),
  uses integer NOT NULL DEFAULT 0 CHECK (uses >= 0 AND (max_uses IS NULL OR uses <= max_uses)),
  valid_from timestamptz,
  valid_until timestamptz,
  active boolean NOT NULL DEFAULT true,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, discount_id),
  UNIQUE (tenant_id, code),
  CHECK ((percent IS NULL) <> (amount_cents IS NULL)),
  CHECK (valid_from IS NULL OR valid_until IS NULL OR valid_from <= valid_until)
);
CREATE TABLE order_discounts (
  tenant_id uuid NOT NULL,
  order_id text NOT NULL,
  discount_id uuid NOT NULL,
  -- Worked out when it is written.
  amount_cents bigint NOT NULL DEFAULT 0 CHECK (amount_cents >= 0),
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, order_id, discount_id),
  FOREIGN KEY (tenant_id, order_id) REFERENCES orders (tenant_id, order_id),
  FOREIGN KEY (tenant_id, discount_id) REFERENCES discounts (tenant_id, discount_id)
);
-- Uses a discount once for an order, or refuses. The order's total stays what it was: before discounts.
CREATE FUNCTION use_discount() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  d discounts;
  total bigint := (SELECT o.total_cents FROM orders o WHERE o.tenant_id = NEW.tenant_id AND o.order_id = NEW.order_id);
BEGIN
  SELECT * INTO d FROM discounts x WHERE x.tenant_id = NEW.tenant_id AND x.discount_id = NEW.discount_id FOR UPDATE;
  IF d IS NULL OR total IS NULL THEN RETURN NEW; END IF;
  IF NOT d.active OR d.valid_from > now() OR d.valid_until < now() THEN PERFORM refuse(409, 'NOT_ALLOWED', format('discount %s does not hold now', d.code)); END IF;
  IF d.uses >= d.max_uses THEN PERFORM refuse(409, 'USED_UP', format('discount %s was used %s times: no more', d.code, d.max_uses)); END IF;
  IF total < d.min_order_cents THEN PERFORM refuse(409, 'NOT_ALLOWED', format('discount %s needs an order of %s at least', d.code, d.min_order_cents / 100.0)); END IF;
  NEW.amount_cents := least(total, coalesce(d.amount_cents, round(total * d.percent / 100)));
  UPDATE discounts x SET uses = x.uses + 1 WHERE x.tenant_id = d.tenant_id AND x.discount_id = d.discount_id;
  RETURN NEW;
END
$$;
CREATE TRIGGER order_discounts_use BEFORE INSERT ON order_discounts FOR EACH ROW EXECUTE FUNCTION use_discount();

SELECT isolate_by_tenant(tab) FROM unnest(ARRAY['users', 'venues', 'orders', 'ticket_price_history', 'reservations', 'reservation_history', 'ticket_holds', 'ticket_notifications', 'waitlist', 'ticket_bundles', 'ticket_bundle_items', 'discounts', 'order_discounts']::regclass[]) AS tab;
REVOKE UPDATE, DELETE ON ticket_price_history, reservation_history, order_discounts FROM stile_service;
REVOKE DELETE ON reservations, ticket_holds FROM stile_service;

-- What each user has, counted when it is asked for: nothing to keep up while people walk in.
CREATE VIEW user_ticket_stats WITH (security_invoker = true) AS
  SELECT t.tenant_id, t.user_id, count(*) FILTER (WHERE t.status IN ('sold', 'minted', 'active', 'transferred', 'checked_in', 'used')) AS tickets_owned, count(DISTINCT t.event_id) FILTER (WHERE t.scan_count > 0) AS events_attended
  FROM tickets t WHERE t.user_id IS NOT NULL AND t.deleted_at IS NULL GROUP BY t.tenant_id, t.user_id;
GRANT SELECT ON user_ticket_stats TO stile_service;

-- Counts a user's tickets anew, and keeps that with the user, who is made where there is none. From what is, not by adding: any number of times.
CREATE FUNCTION update_user_ticket_stats(wanted text) RETURNS users LANGUAGE plpgsql AS $$
DECLARE
  u users;
BEGIN
  INSERT INTO users (tenant_id, user_id) VALUES (current_tenant_id(), wanted) ON CONFLICT DO NOTHING;
  PERFORM 1 FROM users x WHERE x.tenant_id = current_tenant_id() AND x.user_id = wanted FOR UPDATE;
  UPDATE users x SET counted_at = now(), tickets_owned = coalesce((SELECT s.tickets_owned FROM user_ticket_stats s WHERE s.tenant_id = x.tenant_id AND s.user_id = wanted), 0),
    tickets_bought = (SELECT count(*) FROM tickets t JOIN orders o ON o.tenant_id = t.tenant_id AND o.order_id = t.order_id WHERE o.tenant_id = x.tenant_id AND o.user_id = wanted AND o.status = 'paid'),
    spent_cents = (SELECT coalesce(sum(o.total_cents), 0) FROM orders o WHERE o.tenant_id = x.tenant_id AND o.user_id = wanted AND o.status = 'paid')
  WHERE x.tenant_id = current_tenant_id() AND x.user_id = wanted RETURNING * INTO u;
  RETURN u;
END
$$;
CREATE FUNCTION update_user_events_attended(wanted text) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  attended integer;
BEGIN
  INSERT INTO users (tenant_id, user_id) VALUES (current_tenant_id(), wanted) ON CONFLICT DO NOTHING;
  PERFORM 1 FROM users x WHERE x.tenant_id = current_tenant_id() AND x.user_id = wanted FOR UPDATE;
  UPDATE users x SET counted_at = now(), events_attended = coalesce((SELECT s.events_attended FROM user_ticket_stats s WHERE s.tenant_id = x.tenant_id AND s.user_id = wanted), 0)
  WHERE x.tenant_id = current_tenant_id() AND x.user_id = wanted RETURNING x.events_attended INTO attended;
  RETURN attended;
END
$$;

-- A ticket that changes hands changes both people's counts. Entries don't come by here: see user_ticket_stats.
CREATE FUNCTION ticket_changed_hands() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  whose text;
BEGIN
  IF TG_OP = 'INSERT' THEN
    FOR whose IN SELECT DISTINCT n.user_id FROM appeared n WHERE n.user_id IS NOT NULL ORDER BY 1 LOOP PERFORM update_user_ticket_stats(whose); END LOOP;
    RETURN NULL;
  END IF;
  FOR whose IN SELECT DISTINCT w FROM unnest(ARRAY[OLD.user_id, NEW.user_id]) AS w WHERE w IS NOT NULL ORDER BY 1 LOOP PERFORM update_user_ticket_stats(whose); END LOOP;
  RETURN NULL;
END
$$;
CREATE TRIGGER tickets_got_holder AFTER INSERT ON tickets REFERENCING NEW TABLE AS appeared FOR EACH STATEMENT EXECUTE FUNCTION ticket_changed_hands();
CREATE TRIGGER tickets_changed_hands AFTER UPDATE OF user_id ON tickets FOR EACH ROW WHEN (OLD.user_id IS DISTINCT FROM NEW.user_id) EXECUTE FUNCTION ticket_changed_hands();
