-- look: answer a completed entry, or mark the key as running for the asker.
-- KEYS: 1 the key's entry
-- ARGV: 1 how a completed entry of this epoch begins  2 claim id  3 fingerprint  4 life of a marker in ms
-- Returns: { entry, its milliseconds left }, or "running", or "absent".
-- A marker proves nothing but that an equal request was seen a moment ago, so it is answered only to another claimer with the
-- same fingerprint. Whatever else is there (a marker of another request, a tombstone, an entry of another epoch) is left as
-- it is, and the store decides.
local entry = redis.call("GET", KEYS[1])
if not entry then
  redis.call("SET", KEYS[1], "v1 running " .. ARGV[2] .. " " .. ARGV[3], "PX", ARGV[4])
  return "absent"
end
if string.sub(entry, 1, #ARGV[1]) == ARGV[1] then
  return { entry, redis.call("PTTL", KEYS[1]) }
end
local claim_id, fingerprint = string.match(entry, "^v1 running (%S+) (.*)$")
if claim_id and claim_id ~= ARGV[2] and fingerprint == ARGV[3] then
  return "running"
end
return "absent"
