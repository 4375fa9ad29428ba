CREATE OR REPLACE FUNCTION record_lost_rights() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.rights_lost_at := now();
  RETURN NEW;
END
$$;
