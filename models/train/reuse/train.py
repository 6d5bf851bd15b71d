"""Fits the scorer of pairs and writes it as `policy::reuse` reads it.

    python train.py DATA WORK TEXTS VECTORS OUT --binary REUSE [--head HEAD] [--jobs N]
        [--sibling TENTHS WORK TEXTS VECTORS HEAD]

DATA is the folder of the labelled data; only its `train` parts are read, and of those only texts that
the encoder was not trained on. WORK holds what `pairs.py` made. TEXTS and VECTORS are as the example
`reuse` takes them, several files with commas between, and must hold the mutated texts too. REUSE is that
example, built: it computes the figures, so that what is trained on is what is computed when serving.
HEAD is the pair network that the encoder was trained with, as JSON. A sibling is an encoder made the same
way that was not trained on other tenths of the texts: what it says of those is fitted on too.
"""

import argparse
import collections
import json
import math
import re
import subprocess
import zlib

import lightgbm
import numpy as np

from pairs import WITHHELD, is_withheld, lines

FOLDS = 3
# Fits whose mean is taken: one alone is off by five hits in a hundred, and gains nothing by more trees, where three do.
BAGS = 3
PARAMETERS = {
    "objective": "binary",
    "num_leaves": 10,
    "learning_rate": 0.08,
    "min_data_in_leaf": 40,
    "feature_fraction": 0.6,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "seed": 6,
    "verbose": -1,
    "deterministic": True,
    "force_row_wise": True,
}
# Trees of each, and how many of them are walked first.
ROUNDS = {"encoder": 700, "lexical": 100}
FIRST_ROUNDS = {"encoder": 60, "lexical": 10}
# Of pairs that are as likely the same as not, or likelier, how many may be given up after the first trees.
GIVEN_UP = 0.001
# What a pair of a sibling's counts beside one of the encoder's own. Odds are found by the encoder's own alone.
SIBLING_WEIGHT = 0.3
# The figures of the encoder, which come first, and those of what else is near, which come last: without them the
# trees go by the words alone.
ENCODER_FIGURES = 2
COMPANY_FIGURES = 16
NEIGHBOURS = 4
# Entries whose replies are compared: policy's NEAR_MAX.
NEAR = 16
# Orders in which a stream comes.
ORDERS = 4
# A cosine from which on a right entry is mostly served, and how often.
FOUND_AT = 0.75
FOUND = 0.8
# Of replies that say the same, how many are taken for other ones, and of others, how many for the same as one more.
APART = 0.05
TOGETHER = 0.02


def is_left_out(text):
    return zlib.crc32(text.strip().lower().encode()) // 10 % 2 == 1


def vocabulary(data):
    """Words by the sixteenths of the logarithm of texts per text that has them."""
    counts, texts = collections.Counter(), 0
    seen = set()
    for row in lines(f"{data}/pairs_train.jsonl"):
        if not row["source"].startswith("mutation"):
            seen.update((row["query_a"].lower(), row["query_b"].lower()))
    for row in lines(f"{data}/stream.jsonl"):
        if row["split"] == "train":
            seen.add(row["query"].lower())
    for text in seen:
        texts += 1
        counts.update(set(re.findall(r"[a-z]+", text)))
    words = collections.defaultdict(list)
    for word, count in counts.items():
        if count >= 8 and len(word) <= 24:
            words[min(255, int(16 * math.log(texts / count)))].append(word)
    return {str(weight): " ".join(sorted(found)) for weight, found in sorted(words.items())}


def vectors(texts, files):
    places, parts = {}, []
    offset = 0
    for text_file, vector_file in zip(texts.split(","), files.split(",")):
        read = list(lines(text_file))
        for place, text in enumerate(read):
            places[text] = offset + place
        part = np.load(vector_file).astype(np.float32)
        parts.append(part / np.linalg.norm(part, axis=1, keepdims=True))
        offset += len(read)
    return places, np.concatenate(parts)


def labelled(data, work, places, matrix, is_wanted):
    """Rows of (text kept, text asked, label, source, what is kept near the asked text, where there the kept one is)."""
    rows = []
    stream = [r for r in lines(f"{data}/stream.jsonl") if r["split"] == "train" and is_wanted(r["query"])]
    crowd = np.array(sorted({places[r["query"]] for r in stream}))
    for row in lines(f"{data}/pairs_train.jsonl"):
        source = row["source"].split(":")[0]
        if source == "mutation":
            continue
        if is_wanted(row["query_a"]) and is_wanted(row["query_b"]):
            rows.append((row["query_a"], row["query_b"], row["same_answer"], source, [], 0))
    rng = np.random.default_rng(6)
    for row in lines(f"{work}/mutated.jsonl"):
        if row["query_a"] in places and row["query_b"] in places and is_wanted(row["query_a"]):
            changed = (row["query_a"], row["query_b"], row["same_answer"], row["source"])
            rows.append((*changed, [], 0))
            # However much is kept that says the same as the question which was changed, it is another one.
            rows.append((*changed, invented(places[row["query_a"]], crowd, matrix, rng), 0))
    for source in sorted({r["source"] for r in stream}) + ["mixed"]:
        part = [r for r in stream if source == "mixed" or r["source"] == source]
        rows += neighbours(source, part, np.array([places[r["query"]] for r in part]), matrix, rng)
    return rows


def neighbourhoods(data, rows):
    """Of each row what others are to be in one fold with it: the group of what is asked, or the text itself."""
    groups = {r["query"]: f"{r['source']}|{r['group']}" for r in lines(f"{data}/stream.jsonl")}
    return [groups.get(row[1]) or groups.get(row[0]) or min(row[0].lower(), row[1].lower()) for row in rows]


def invented(kept, crowd, matrix, rng):
    """What is kept, and the nearest to it, of which most say what it does."""
    count = int(rng.integers(1, NEAR))
    scores = matrix[crowd] @ matrix[kept]
    scores[crowd == kept] = -2.0
    others = crowd[np.argpartition(-scores, count)[:count]]
    says = np.where(rng.random(count) < 0.8, 0, np.arange(1, count + 1))
    return [[0, kept]] + [[int(a), int(b)] for a, b in zip(says, others)]


def neighbours(source, part, places, matrix, rng):
    """What a cache would be asked: requests come in some order, those that it likely answers are not kept."""
    rows = []
    groups = {}
    same_as = np.array([groups.setdefault((r["group"], r["source"]), len(groups)) for r in part])
    near = matrix[places] @ matrix[places].T
    for _ in range(ORDERS):
        # Replies that say the same and were not found to.
        apart = rng.random(len(part)) < APART
        says = np.where(apart, len(groups) + np.arange(len(part)), same_as)
        says = np.where(rng.random(len(part)) < TOGETHER, rng.permutation(says), says)
        kept = []
        for i in rng.permutation(len(part)):
            there = np.array(kept, int)
            scores = near[i, there]
            order = np.argsort(-scores)[:NEAR]
            close = [[int(says[j]), int(places[j])] for j in there[order]]
            for at, j in enumerate(there[order][:NEIGHBOURS]):
                if part[i]["query"] != part[j]["query"]:
                    rows.append((part[j]["query"], part[i]["query"], int(same_as[i] == same_as[j]), f"stream:{source}", close, at))
            is_found = len(order) and same_as[there[order[0]]] == same_as[i] and scores[order[0]] > FOUND_AT
            if not (is_found and rng.random() < FOUND):
                kept.append(int(i))
    return rows


def network(path):
    """The encoder's pair head, with the scales of its inputs folded into its weights, in whole numbers."""
    with open(path) as file:
        read = json.load(file)
    width, inner = read["width"], read["inner"]
    hidden = np.array(read["hidden"], np.float64).reshape(inner, 2 * width + 1)
    hidden[:, :width] *= width
    hidden[:, width : 2 * width] *= width**0.5
    scales = np.maximum(np.abs(hidden).max(axis=1), 1e-9) / 32767
    return {
        "dimensions": width,
        "hidden": inner,
        "weights": np.rint(hidden / scales[:, None]).astype(int).ravel().tolist(),
        "scales": [float(f"{x:.7g}") for x in scales],
        "bias": read["hidden_bias"],
        "out": read["out"],
        "out_bias": read["out_bias"],
    }


def figures(binary, rows, texts, files, scorer, work):
    with open(f"{work}/fit.jsonl", "w") as out:
        for kept, asked, same, source, near, at in rows:
            pair = {"query_a": kept, "query_b": asked, "same_answer": same, "source": source, "near": near, "at": at}
            out.write(json.dumps(pair) + "\n")
    subprocess.run([binary, "features", texts, files, f"{work}/fit.jsonl", f"{work}/fit.f32", scorer], check=True)
    table = np.fromfile(f"{work}/fit.f32", np.float32).reshape(len(rows), -1)
    return table[:, :-1], table[:, -1]


def tree(node):
    """A tree of LightGBM's as arrays; a child below zero is the leaf `~child`."""
    out = {"f": [], "t": [], "l": [], "r": [], "v": []}

    def add(node):
        if "leaf_value" in node:
            out["v"].append(float(f"{node['leaf_value'] / BAGS:.4g}"))
            return ~(len(out["v"]) - 1)
        assert node["decision_type"] == "<="
        at = len(out["f"])
        out["f"].append(node["split_feature"])
        out["t"].append(float(f"{node['threshold']:.7g}"))
        out["l"].append(0)
        out["r"].append(0)
        out["l"][at] = add(node["left_child"])
        out["r"][at] = add(node["right_child"])
        return at

    add(node)
    return out


def calibrate(raw, truth, weight):
    """Log odds found for log odds given: pooled until they rise, each pool a little towards doubt."""
    order = np.argsort(raw)
    raw, truth, weight = raw[order], truth[order], weight[order]
    # Bins are finer where it matters: near certainty.
    edges, left = [], len(raw)
    step = 60 * len(raw) / weight.sum()
    while left > 0:
        edges.append(left)
        left -= int(step)
        step = min(step * 1.15, len(raw) / 40)
    edges.append(0)
    edges = edges[::-1]
    pools = []
    for a, b in zip(edges, edges[1:]):
        if b > a:
            w = weight[a:b]
            pools.append([float(np.average(raw[a:b], weights=w)), float((truth[a:b] * w).sum()), float(w.sum())])
            while len(pools) > 1 and pools[-2][1] / pools[-2][2] >= pools[-1][1] / pools[-1][2]:
                x, y = pools[-2], pools.pop()
                pools[-1] = [(x[0] * x[2] + y[0] * y[2]) / (x[2] + y[2]), x[1] + y[1], x[2] + y[2]]
    xs, ys = [], []
    for x, right, all_ in pools:
        p = (right + 0.3) / (all_ + 0.9)
        if xs and x <= xs[-1]:
            continue
        xs.append(x)
        ys.append(max(math.log(p / (1 - p)), ys[-1] if ys else -99))
    return xs, ys


def fit(name, table, truth, weight, numbers, lookups, is_own, is_traffic, rounds, jobs):
    table = table.copy()
    if name == "lexical":
        table[:, :ENCODER_FIGURES] = 0.0
        table[:, -COMPANY_FIGURES:] = 0.0
    bags = [PARAMETERS | {"num_threads": jobs, "seed": PARAMETERS["seed"] + bag} for bag in range(BAGS)]
    raw, begun = np.zeros(len(truth)), np.zeros(len(truth))
    for bag, parameters in enumerate(bags):
        folds = (numbers * (2 * bag + 1) + numbers // 1000 * bag) % FOLDS
        for fold in range(FOLDS):
            rest = folds != fold
            model = lightgbm.train(parameters, lightgbm.Dataset(table[rest], truth[rest], weight=weight[rest]), rounds)
            raw[~rest] += model.predict(table[~rest], raw_score=True) / BAGS
            begun[~rest] += model.predict(table[~rest], raw_score=True, num_iteration=FIRST_ROUNDS[name]) / BAGS
    # Of what is found for one question only the best is ever served.
    best = {}
    for at, lookup in enumerate(lookups):
        if lookup not in best or raw[at] > raw[best[lookup]]:
            best[lookup] = at
    best = np.array([at for at in sorted(best.values()) if is_own[at] and (is_traffic[at] or name == "lexical")])
    xs, ys = calibrate(raw[best], truth[best], weight[best])
    first, others = [], []
    for parameters in bags:
        model = lightgbm.train(parameters, lightgbm.Dataset(table, truth, weight=weight), rounds)
        trees = [tree(t["tree_structure"]) for t in model.dump_model()["tree_info"]]
        first += trees[: FIRST_ROUNDS[name]]
        others += trees[FIRST_ROUNDS[name] :]
    probability = 1 / (1 + np.exp(-np.interp(raw, xs, ys)))
    least = float(np.quantile(begun[probability >= 0.5], GIVEN_UP))
    print(f"{name}: {len(first)} trees first, given up below {least:.2f}: {(begun < least).mean():.2f} of pairs")
    judge = {
        "trees": first + others,
        "first": {"trees": len(first), "least": float(f"{least:.5g}")},
        "raw": [float(f"{x:.5g}") for x in xs],
        "calibrated": [float(f"{y:.5g}") for y in ys],
    }
    return judge, probability, model


def report(name, rows, probability, truth, refused):
    """By source: at which share of pairs served the wrong ones stay within one in a hundred pairs."""
    print(f"{name}: out of fold")
    by = collections.defaultdict(list)
    for at, row in enumerate(rows):
        by[row[3]].append(at)
    for source, places in sorted(by.items()):
        places = np.array(places)
        p = np.where(refused[places], 0.0, probability[places])
        t = truth[places]
        order = np.argsort(-p)
        wrong = np.cumsum(1 - t[order])
        served = int(np.searchsorted(wrong, 0.01 * len(t), side="right"))
        expected = (1 - probability[places])[p > 0.9].sum()
        found = (1 - t)[p > 0.9].sum()
        print(
            f"  {source:22} {len(t):6} pairs, same {t.mean():.2f}, guarded {refused[places].mean():.2f}"
            f" (of the same {refused[places][t == 1].mean() if (t == 1).any() else 0:.3f}),"
            f" served at 1 %: {100 * served / len(t):.1f} %, beyond 0.9: {(p > 0.9).mean():.2f}, wrong {found:.0f}, expected {expected:.1f}"
        )


def main():
    arguments = argparse.ArgumentParser()
    for name in ("data", "work", "texts", "vectors", "out"):
        arguments.add_argument(name)
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("--head")
    arguments.add_argument(
        "--sibling", nargs=5, action="append", default=[], metavar=("TENTHS", "WORK", "TEXTS", "VECTORS", "HEAD")
    )
    arguments.add_argument("--jobs", type=int, default=1)
    arguments.add_argument("--leaves", type=int, default=PARAMETERS["num_leaves"])
    arguments.add_argument("--half", action="store_true", help="leave half of the texts out, for tuning what comes after")
    given = arguments.parse_args()

    PARAMETERS["num_leaves"] = given.leaves
    leaf = {"trees": [], "raw": [0.0], "calibrated": [0.0]}
    scorer = {"vocabulary": vocabulary(given.data), "head": None, "encoder": leaf, "lexical": leaf}
    own = (WITHHELD, given.work, given.texts, given.vectors, given.head)
    rows, tables, guards, is_own = [], [], [], []
    for who in [*given.sibling, own]:
        tenths, work, texts, files, head = who
        places, matrix = vectors(texts, files)

        def is_wanted(text):
            return is_withheld(text, tenths) and not (given.half and is_left_out(text))

        part = labelled(given.data, work, places, matrix, is_wanted)
        print(len(part), "pairs of tenths", tenths)
        # The last one's stays: what serves is the encoder's own.
        scorer["head"] = network(head) if head else None
        first = f"{work}/first.json"
        with open(first, "w") as out:
            json.dump(scorer, out)
        table, refusing = figures(given.binary, part, texts, files, first, work)
        rows += part
        tables.append(table)
        guards.append(refusing)
        is_own.append(np.full(len(part), who is own))
    table, guards, is_own = (np.concatenate(parts) for parts in (tables, guards, is_own))
    truth = np.array([row[2] for row in rows], float)
    # Rows of one number are always in one fold.
    numbers = np.array([zlib.crc32(key.encode()) // 10 % 1_000_003 for key in neighbourhoods(given.data, rows)])
    copies = collections.Counter(tuple(sorted(row[:2])) for row in rows)
    weight = np.array([1 / copies[tuple(sorted(row[:2]))] for row in rows])
    weight[~is_own] *= SIBLING_WEIGHT
    lookups = np.array([id(row[4]) if row[4] else -at for at, row in enumerate(rows)])
    is_traffic = np.array([not row[3].startswith("mutation") for row in rows])
    refused = guards >= 0
    np.savez(f"{given.work}/fit.npz", lookups=lookups, weight=weight, table=table, truth=truth, guards=guards, numbers=numbers, source=np.array([r[3] for r in rows]))
    # What a guard refuses is never scored.
    keep = ~refused
    for name, rounds in ROUNDS.items():
        judge, probability, model = fit(name, table[keep], truth[keep], weight[keep], numbers[keep], lookups[keep], is_own[keep], is_traffic[keep], rounds, given.jobs)
        scorer[name] = judge
        all_ = np.zeros(len(rows))
        all_[keep] = probability
        report(name, rows, all_, truth, refused)
        gains = model.feature_importance("gain")
        print("  most used by the last:", [int(at) for at in np.argsort(-gains)[:16]])
    with open(given.out, "w") as out:
        json.dump(scorer, out, separators=(",", ":"))
        out.write("\n")


if __name__ == "__main__":
    main()
