#!/usr/bin/env python3
"""AUC and average precision of two sets of vectors on the labelled pairs, side by side.

    python evaluate.py --labelled DIR --texts texts.txt --vectors minilm=texts.npy --vectors ours=ours.npy

The vectors are f16 or f32[texts, width] of unit length, in the order of texts.txt. Ends with status 1 where the last set
is behind the first: overall at all, or by more than 2 points within a source that has both labels.
"""
import argparse
import json
import sys

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

import data

POINTS_BEHIND_MAX = 2.0


def scores(pairs, values):
    """{source: (rows, AUC, average precision)}, `all` first; sources of one label are left out."""
    label = np.array([p[2] for p in pairs])
    source = np.array([p[3] for p in pairs])
    out = {"all": (len(label), roc_auc_score(label, values), average_precision_score(label, values))}
    for s in sorted(set(source)):
        m = source == s
        if len(set(label[m])) == 2:
            out[s] = (int(m.sum()), roc_auc_score(label[m], values[m]), average_precision_score(label[m], values[m]))
    return out


def logits(path, u, v):
    """The pair head of export.py, in numpy."""
    with open(path, encoding="utf-8") as f:
        h = json.load(f)
    x = np.concatenate([u * v * h["width"], np.abs(u - v) * h["width"] ** 0.5, (u * v).sum(1, keepdims=True)], 1)
    inner = np.maximum(x @ np.array(h["hidden"], np.float32).reshape(h["inner"], -1).T + h["hidden_bias"], 0)
    return inner @ np.array(h["out"]) + h["out_bias"]


def shown(table):
    return " ".join(f"{s} {100 * a:.1f}/{100 * p:.1f}" for s, (_, a, p) in table.items())


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--labelled", required=True)
    p.add_argument("--texts", required=True)
    p.add_argument("--vectors", action="append", required=True, metavar="NAME=FILE")
    p.add_argument("--head", help="head.json of the last vectors")
    a = p.parse_args()
    with open(a.texts, encoding="utf-8") as f:
        index = {json.loads(line): i for i, line in enumerate(f)}
    pairs = data.pairs(a.labelled, "dev")
    tables = {}
    for given in a.vectors:
        name, _, path = given.partition("=")
        z = np.load(path).astype(np.float32)
        z /= np.linalg.norm(z, axis=1, keepdims=True)
        u, v = (z[[index[p[k]] for p in pairs]] for k in (0, 1))
        tables[name] = scores(pairs, (u * v).sum(1))
    if a.head:
        print("head:", shown(scores(pairs, logits(a.head, u, v))))
    names = list(tables)
    print("| source | pairs | " + " | ".join(f"{n} AUC | {n} AP" for n in names) + " |")
    print("| --- | --- |" + " --- | --- |" * len(names))
    for s, (rows, *_) in tables[names[0]].items():
        print(f"| {s} | {rows} | " + " | ".join(f"{100 * tables[n][s][1]:.2f} | {100 * tables[n][s][2]:.2f}" for n in names) + " |")
    first, last = tables[names[0]], tables[names[-1]]
    behind = [(s, 100 * (first[s][k] - last[s][k])) for s in first for k in (1, 2)]
    failed = [(s, round(b, 2)) for s, b in behind if b > (0.0 if s == "all" else POINTS_BEHIND_MAX)]
    if failed:
        print("behind:", failed)
        sys.exit(1)


if __name__ == "__main__":
    main()
