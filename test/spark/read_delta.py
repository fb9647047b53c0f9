"""Prints the rows of a Delta table as JSON lines, by delta-rs, which shares no code with Spark."""

import json
import sys

from deltalake import DeltaTable, QueryBuilder

query = QueryBuilder().register("t", DeltaTable(sys.argv[1]))
text = "SELECT id, version, COALESCE(merchant, '') AS merchant, CAST(amount AS VARCHAR) AS amount FROM t ORDER BY id"
batches = query.execute(text).read_all()
names = ["id", "version", "merchant", "amount"]
lists = [batches.column(name).to_pylist() for name in names]
for row in zip(*lists):
    print(json.dumps("|".join(str(value) for value in row), ensure_ascii=False))
