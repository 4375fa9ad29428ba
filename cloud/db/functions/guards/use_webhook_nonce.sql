-- True for the first who brings it; what ran out is removed on the way.
CREATE OR REPLACE FUNCTION use_webhook_nonce(source text, nonce text, keep_s integer DEFAULT 86400) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM webhook_nonces w WHERE w.tenant_id = current_tenant_id() AND (w.source, w.nonce) IN (SELECT x.source, x.nonce FROM webhook_nonces x WHERE x.tenant_id = current_tenant_id() AND x.expires_at < now() LIMIT 100 FOR UPDATE SKIP LOCKED);
  INSERT INTO webhook_nonces (tenant_id, source, nonce, expires_at) VALUES (current_tenant_id(), use_webhook_nonce.source, use_webhook_nonce.nonce, now() + make_interval(secs => keep_s)) ON CONFLICT DO NOTHING;
  RETURN FOUND;
END
$$;
