-- tx-unguard: let COMMIT pass again, or fail where this is not the transaction that was guarded.
-- Parameters: none.
-- Rows: none. Error 34000 (invalid_cursor_name) when the transaction was ended behind our back: what is behind this statement in
--   the same write is skipped then, COMMIT too.
CLOSE oncekey_uncommitted
