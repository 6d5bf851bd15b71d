#!/usr/bin/env python3
"""Recomputes what a node spent and saved, from its records alone, and compares.

    recompute.py RECORDS.sqlite PRICES.json SAVINGS.json

RECORDS.sqlite is the node's file, read with Python's own SQLite. PRICES.json says what the models of the
test's configuration cost, in micro-dollars for a million tokens:

    {"prices": {"fake/bench": {"input": 2000000, "output": 30000000}},
     "aliases": {"smart": "fake/bench"}, "reference": "fake/bench"}

SAVINGS.json is what `hedge savings --json` printed. Shares no code with hedge: the cost of each answer, what
it would have cost elsewhere, what the difference is due to, and all sums are worked out here from tokens,
places and names. Exits with 1 at the first thing that is not equal to the micro-dollar.
"""

import json
import sqlite3
import sys
from collections import defaultdict


def fail(words):
    print(f"recompute: {words}", file=sys.stderr)
    sys.exit(1)


def cost(row, price):
    """Tokens at a price, rounded up to a whole micro-dollar."""
    prompt = row["input_tokens"]
    cached = min(row["cached_tokens"], prompt)
    written = min(row["cache_write_tokens"], prompt - cached)
    rate = price["input"]
    sum_ = (prompt - cached - written) * rate
    sum_ += cached * price.get("cached_input", rate)
    sum_ += written * price.get("cache_write", rate)
    sum_ += row["output_tokens"] * price["output"]
    return -(-sum_ // 1_000_000)


def expected(row, rules):
    """(cost, counterfactual, basis, saved_by) as they should be."""
    prices = rules["prices"]
    place = row["place"]
    if row["agreement"] is not None:
        # Nobody but the operator asked for it.
        return cost(row, prices[f"{row['backend']}/{row['model']}"]), 0, "shadow", "shadow"
    if place == "nobody":
        return None, None, None, None
    if place == "upstream":
        price = prices.get(f"{row['backend']}/{row['model']}")
        spent = cost(row, price) if price else None
    else:
        spent = 0
    stood_in = row["failed"] > 0 or row["rescues"] > 0
    if place == "cache":
        due = "cache"
    else:
        due = "fallback" if stood_in else place
    if row["input_tokens"] is None:
        return spent, None, None, due
    name = row["model_asked"]
    asked = prices.get(rules["aliases"].get(name, name))
    if asked:
        return spent, cost(row, asked), "asked", due
    if place == "upstream":
        return spent, spent, "answered" if spent is not None else None, due
    if place == "cache" and row["made_microusd"]:
        return spent, row["made_microusd"], "made", due
    reference = prices[rules["reference"]]
    return spent, cost(row, reference), "reference", due


# What is told of shadows, and what their rows say.
SHADOWS = {"agreed": "agrees", "differed": "differs", "unclear": "unclear", "failed": "failed"}

FIGURES = [
    "requests",
    "input_tokens",
    "output_tokens",
    "compared_requests",
    "compared_spent_microusd",
    "counterfactual_microusd",
    "saved_microusd",
]


def main(file, prices, savings):
    with open(prices, encoding="utf-8") as text:
        rules = json.load(text)
    with open(savings, encoding="utf-8") as text:
        told = json.load(text)
    records = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    records.row_factory = sqlite3.Row
    query = "SELECT * FROM records WHERE ended_us >= ? AND ended_us < ?"
    span = (told["since"]["unix_us"], told["until"]["unix_us"])
    rows = records.execute(query, span).fetchall()
    if told["team"] is not None:
        rows = [row for row in rows if row["team"] == told["team"]]
    if not rows:
        fail("there are no records in the time that was asked for")

    spent_in_all = 0
    unpriced = 0
    shadow = dict.fromkeys(["asked", *SHADOWS, "spent_microusd"], 0)
    sums = defaultdict(lambda: dict.fromkeys(FIGURES, 0))
    for row in rows:
        spent, elsewhere, basis, due = expected(row, rules)
        for column, wanted in [
            ("cost_microusd", spent),
            ("counterfactual_microusd", elsewhere),
            ("basis", basis),
            ("saved_by", due),
        ]:
            if row[column] != wanted:
                fail(f"{column} of {dict(row)} should be {wanted}")
        spent_with_second_try = (spent or 0) + row["hedge_cost_microusd"]
        spent_in_all += spent_with_second_try
        unpriced += due is not None and spent is None
        is_compared = spent is not None and elsewhere is not None
        is_request = row["agreement"] is None
        if not is_request:
            shadow["asked"] += 1
            shadow["spent_microusd"] += spent
            for name, word in SHADOWS.items():
                shadow[name] += row["agreement"] == word
        for by, part in [("total", None), ("saved_by", due or "none"), ("basis", basis or "none")]:
            sum_ = sums[by, part]
            sum_["requests"] += is_request
            sum_["input_tokens"] += row["input_tokens"] or 0
            sum_["output_tokens"] += row["output_tokens"] or 0
            if is_compared:
                sum_["compared_requests"] += is_request
                sum_["compared_spent_microusd"] += spent_with_second_try
                sum_["counterfactual_microusd"] += elsewhere
                sum_["saved_microusd"] += elsewhere - spent_with_second_try

    for name, wanted in [
        ("spent_microusd", spent_in_all),
        ("unpriced_requests", unpriced),
        ("shadow", shadow),
    ]:
        if told[name] != wanted:
            fail(f"{name} is told as {told[name]}, and is {wanted}")
    parts = [("total", None, told["total"])]
    parts += [("saved_by", label, sum_) for label, sum_ in told["saved_by"]]
    parts += [("basis", label, sum_) for label, sum_ in told["basis"]]
    for by, part, sum_ in parts:
        if sum_ != sums[by, part]:
            fail(f"{by} {part} is told as {sum_}, and is {sums[by, part]}")
    if left := set(sums) - {(by, part) for by, part, _ in parts}:
        fail(f"not told: {left}")
    total = sums["total", None]
    print(f"{total['requests']} records agree: saved {total['saved_microusd']} micro-dollars")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
