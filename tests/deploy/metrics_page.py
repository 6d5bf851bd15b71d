"""The names, kinds and labels on docs/metrics.md, which tests/it/metrics.rs holds against the program."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENDS = ("_bucket", "_sum", "_count")


def rows():
    """{name: (kind, labels)}, with the three series of each histogram."""
    found = {}
    for line in (ROOT / "docs/metrics.md").read_text().splitlines():
        if not line.startswith("| `hedge_"):
            continue
        name, kind, _unit, labels, _meaning = (cell.strip() for cell in line.strip("|").split("|"))
        labels = set(re.findall(r"`(\w+)`", labels))
        name = name.strip("`")
        if kind == "histogram":
            for end in ENDS:
                found[name + end] = (kind, labels | ({"le"} if end == "_bucket" else set()))
        else:
            found[name] = (kind, labels)
    return found
