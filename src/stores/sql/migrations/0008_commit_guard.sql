-- Transaction routes write their record once, with the response: these take the place of the record while the handler runs.

-- A cursor WITH HOLD over this function is open then. COMMIT would have to read such a cursor to its end, so that it fails, and with
-- it all that the transaction has written. The store closes the cursor just before its own COMMIT.
CREATE FUNCTION idempotency_refuse_commit() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  RAISE invalid_transaction_termination USING
    MESSAGE = 'the handler of a transaction route must not end its transaction',
    HINT = 'Leave COMMIT and ROLLBACK to oncekey; SAVEPOINT and ROLLBACK TO are yours.';
END
$$;

-- Volatile: in READ COMMITTED its query has a snapshot of its own, so that a statement that first takes a key's lock sees here
-- what the last holder has committed. Its plan, made when the table was tiny, must be as good as any.
CREATE FUNCTION idempotency_key_exists(given_scope text, given_key text) RETURNS boolean
  LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
  RETURN EXISTS (
    SELECT FROM idempotency_keys k WHERE k.scope = given_scope COLLATE "C" AND k.key = given_key COLLATE "C");
END
$$;
