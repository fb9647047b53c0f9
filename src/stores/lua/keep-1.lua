-- keep: store a completed entry, in place of any marker, and tell who waits for the key.
-- KEYS: 1 the key's entry
-- ARGV: 1 the entry  2 its life in ms: what is left of the replay window  3 the key's channel, or "" to tell nobody
-- Returns: "kept" or "refused".
-- Refused over a tombstone: this write may have been under way while the key was forgotten.
-- Told here, so that whoever is woken finds the entry. pcall: a user who may not publish must still be able to keep.
if redis.call("GETRANGE", KEYS[1], 0, 11) == "v1 forgotten" then
  return "refused"
end
redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[2])
if ARGV[3] ~= "" then
  redis.pcall("PUBLISH", ARGV[3], "")
end
return "kept"
