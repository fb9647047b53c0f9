-- unmark: take the asker's marker away.
-- KEYS: 1 the key's entry
-- ARGV: 1 how the asker's marker begins, claim id included
-- Returns: "unmarked" or "absent".
-- The claim id is compared here, in one step with the deletion: another claimer's marker, or a completed entry that came in
-- between, must stay.
if redis.call("GETRANGE", KEYS[1], 0, #ARGV[1] - 1) == ARGV[1] then
  redis.call("DEL", KEYS[1])
  return "unmarked"
end
return "absent"
