#!/usr/bin/env python3
"""What the page at /admin should show, worked out from the records alone.

    records.py spread RECORDS.sqlite ZONE           of a node that does not run: as if over forty days
    records.py figures RECORDS.sqlite PRICES.json ZONE   prints the figures as JSON

Shares no code with hedge. What each exchange cost and would have cost is worked out from its tokens and the
price list, as tests/records/recompute.py does, and not read from the columns that say it.
"""

import json
import random
import sqlite3
import sys
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

sys.path.insert(0, str(Path(__file__).parent.parent / "records"))
from recompute import expected  # noqa: E402

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
PLACES = ["cache", "local", "upstream", "nobody"]
SAVERS = ["cache", "fallback", "local", "upstream", "none"]
LAST = 25
SEED = 7


def now_us():
    return time.time_ns() // 1000


def midnight(now, zone):
    here = datetime.fromtimestamp(now / SECOND, ZoneInfo(zone))
    begin = here.replace(hour=0, minute=0, second=0, microsecond=0)
    return int(begin.timestamp()) * SECOND


def busy(now_us_, zone):
    """How much goes on at a moment: little at night."""
    hour = datetime.fromtimestamp(now_us_ / SECOND, ZoneInfo(zone)).hour
    return 1.0 if 9 <= hour < 18 else 0.55 if 7 <= hour < 22 else 0.12


def spread(file, zone):
    """Puts a third into the last day and the rest into forty days, none near an edge of what is shown."""
    chance = random.Random(SEED)
    records = sqlite3.connect(file)
    names = records.execute("SELECT ended_us, request_id FROM records ORDER BY ended_us").fetchall()
    now = now_us()
    edges = [now - 30 * DAY, now - DAY, now // HOUR * HOUR - 23 * HOUR, midnight(now, zone)]
    near = 20 * 60 * SECOND

    def moment(span):
        while True:
            time_ = now - chance.randrange(SECOND, span)
            if all(abs(time_ - edge) > near for edge in edges) and chance.random() < busy(time_, zone):
                return time_

    with records:
        for at, name in enumerate(names):
            ended = moment(DAY if at % 3 == 0 else 40 * DAY)
            records.execute("UPDATE records SET ended_us = ? WHERE ended_us = ? AND request_id = ?", (ended, *name))
    records.close()


def rank(times, percent):
    times = sorted(times)
    return times[-(-len(times) * percent // 100) - 1] if times else None


def totals(rows):
    """(spent, requests, compared, compared's cost, what that would have cost) of [(record, expected)]."""
    sums = dict.fromkeys(["requests", "compared", "spent", "compared_spent", "elsewhere"], 0)
    for row, (spent, elsewhere, _, _) in rows:
        with_second = (spent or 0) + row["hedge_cost_microusd"]
        sums["requests"] += 1
        sums["spent"] += with_second
        if spent is not None and elsewhere is not None:
            sums["compared"] += 1
            sums["compared_spent"] += with_second
            sums["elsewhere"] += elsewhere
    sums["saved"] = sums["elsewhere"] - sums["compared_spent"]
    return sums


def latency(rows, place):
    answers = [row for row in rows if row["place"] == place and row["outcome"] == "answered"]
    first = [row["first_content_us"] for row in answers if row["first_content_us"] is not None]
    took = [row["took_us"] for row in answers]
    return {
        "answers": len(answers),
        "times": [rank(first, 50), rank(first, 95), rank(took, 50), rank(took, 95)],
    }


def teams(rows):
    by = defaultdict(list)
    for row, wanted in rows:
        by[row["team"]].append((row, wanted))
    return {
        team: {
            "requests": len(some),
            "input_tokens": sum(row["input_tokens"] or 0 for row, _ in some),
            "output_tokens": sum(row["output_tokens"] or 0 for row, _ in some),
            "spent": totals(some)["spent"],
        }
        for team, some in by.items()
    }


def hours(rows, now):
    first = now // HOUR * HOUR - 23 * HOUR
    table = [dict.fromkeys(PLACES, 0) for _ in range(24)]
    for row in rows:
        at = (row["ended_us"] - first) // HOUR
        if 0 <= at < 24:
            table[at][row["place"]] += 1
    return table


def figures(file, prices, zone):
    with open(prices, encoding="utf-8") as text:
        rules = json.load(text)
    records = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    records.row_factory = sqlite3.Row
    now = now_us()
    rows = records.execute("SELECT * FROM records WHERE ended_us < ?", (now,)).fetchall()
    known = [(row, expected(row, rules)) for row in rows]
    since = lambda begin: [it for it in known if it[0]["ended_us"] >= begin]  # noqa: E731
    month = since(now - 30 * DAY)
    by = {saver: totals([it for it in month if (it[1][3] or "none") == saver]) for saver in SAVERS}
    last = sorted(rows, key=lambda row: (row["ended_us"], row["request_id"]), reverse=True)[:LAST]
    day = [row for row, _ in since(now - DAY)]
    return {
        "records": len(rows),
        "today": totals(since(midnight(now, zone))),
        "month": totals(month),
        "by": by,
        "answered": sum(wanted[3] is not None for _, wanted in month),
        "hours": hours(rows, now),
        "latency": {place: latency(day, place) for place in PLACES},
        "teams": teams(month),
        "spent_in_all": totals(known)["spent"],
        "spent_by_teams": {team: sums["spent"] for team, sums in teams(known).items()},
        "last": [
            {
                "model_asked": row["model_asked"],
                "team": row["team"],
                "reason": row["reason"],
                "tokens": [row["input_tokens"], row["output_tokens"]],
                "cost": totals([(row, expected(row, rules))])["spent"],
                "took": row["took_us"],
                "local": datetime.fromtimestamp(row["ended_us"] / SECOND, ZoneInfo(zone)).strftime("%m-%d %H:%M:%S"),
            }
            for row in last
        ],
    }


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["spread", file, zone]:
            spread(file, zone)
        case ["figures", file, prices, zone]:
            json.dump(figures(file, prices, zone), sys.stdout)
        case _:
            sys.exit(__doc__)
