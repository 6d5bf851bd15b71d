"""operations.py DOCUMENT PATTERN SHARD SHARDS: the ids of a share of the operations whose paths match.

Those about responses that are kept go together: what one of them makes, the others ask for.
"""

import json
import re
import sys

METHODS = ("get", "head", "post", "put", "patch", "delete", "options", "trace")


def main() -> None:
    document, pattern, shard, shards = sys.argv[1:]
    with open(document, encoding="utf-8") as file:
        paths = json.load(file)["paths"]
    kept, others = [], []
    for path, item in paths.items():
        ids = [item[method]["operationId"] for method in METHODS if method in item]
        if re.match(pattern, path):
            (kept if path.startswith("/v1/responses") else others).extend(ids)
    share = others[int(shard) - 1 :: int(shards)]
    print("\n".join(share + (kept if shard == "1" else [])))


main()
