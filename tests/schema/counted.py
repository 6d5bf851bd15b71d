"""counted.py COUNTS...: what was asked, by operation. Fails where an operation was never answered well."""

import collections
import json
import sys

# Operations that refuse whatever is asked; those of /admin at a node where nobody signs in (tests/oidc has one where
# people do).
REFUSALS = (
    "/v1/moderations",
    "/api/pull",
    "/api/push",
    "/api/create",
    "/api/copy",
    "/api/delete",
    "/api/blobs",
    "/cancel",
    "/admin/login",
    "/admin/callback",
    "/admin/logout",
    "/admin/signed-out",
)


def main() -> int:
    counts = collections.defaultdict(collections.Counter)
    for name in sys.argv[1:]:
        with open(name, encoding="utf-8") as file:
            for operation, by in json.load(file).items():
                counts[operation].update(by)
    others = counts.pop("other methods", collections.Counter())
    unanswered = []
    for operation, by in sorted(counts.items()):
        good = sum(times for status, times in by.items() if status.startswith("2"))
        told = ", ".join(f"{times} x {status}" for status, times in sorted(by.items()))
        print(f"{operation}: {by.total()} ({told})")
        if good == 0 and not any(part in operation for part in REFUSALS):
            unanswered.append(operation)
    print(f"other methods: {others.total()}")
    asked = sum(by.total() for by in counts.values())
    good = sum(times for by in counts.values() for status, times in by.items() if status.startswith("2"))
    print(f"{asked} cases over {len(counts)} operations, {good} answered well")
    for operation in unanswered:
        print(f"never answered well: {operation}")
    return 1 if unanswered else 0


sys.exit(main())
