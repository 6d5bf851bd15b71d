#!/usr/bin/env python3
"""Trains the encoder and its pair head.

    python train.py --teacher FOLDER --vectors DIR --labelled DIR --out run --steps 4000

Each step reads one batch of: labelled pairs of all sources, questions changed by mutations.py, and texts of one intent
set by group. The losses:
  teach   a linear map of the vector shall be the teacher's, and the cosines of the batch the teacher's cosines; those
          of the labelled pairs of qqp, stsb and snips the more
  rank    every pair of label 1 above every pair of label 0, over the batch and within each source
  group   texts of a group above all others of the batch (supervised contrastive, Khosla et al. 2020)
  head    the head's logit is the label's
A run that was stopped goes on from run/last.pt; each step draws from its own seed, so that it sees what it would have.
"""
import argparse
import json
import math
import os
import random
import time

import numpy as np
import torch
import torch.nn.functional as F

import data
import mutations
from evaluate import scores, shown
from network import DUMP, PAD, Encoder, Head, Shape, encode, padded

TOKENS_MAX = 48
# Shares of a batch's pairs. The small, hard sources are drawn more often than they have rows for.
SHARES = {"qqp": 0.48, "banking77": 0.08, "clinc150": 0.07, "hwu64": 0.13, "snips": 0.06, "cannot": 0.05, "stsb": 0.07,
          "mutation": 0.07}
TAUGHT = torch.tensor([list(SHARES).index(source) for source in ("qqp", "stsb", "snips")])
GROUPED = {"banking77": 4, "clinc150": 4, "hwu64": 4}
SCALE = 12.0
HEAT = 0.07


class Texts:
    """Token ids and teacher's vectors of the known texts; changed ones are read as they come and have no vector."""

    def __init__(self, a):
        self.reader = data.Reader(a.teacher, TOKENS_MAX)
        with open(os.path.join(a.vectors, "texts.txt"), encoding="utf-8") as f:
            known = [json.loads(line) for line in f]
        self.known = known
        self.index = {t: i for i, t in enumerate(known)}
        self.rows = self.reader.rows(known)
        path = os.path.join(a.vectors, "texts.npy")
        self.vectors = np.load(path) if os.path.exists(path) else None


class TokenRows:
    """Adam over those rows of the token table that a batch has; the others rest, and so do their moments."""

    def __init__(self, weight):
        self.weight = weight
        self.moments = [torch.zeros_like(weight), torch.zeros_like(weight)]
        self.counts = torch.zeros(len(weight), 1)
        self.place = torch.zeros(len(weight), dtype=torch.long)

    def take(self, rows):
        self.rows = torch.from_numpy(np.unique(np.concatenate([np.asarray(r) for r in rows] + [[PAD]])))
        self.place[self.rows] = torch.arange(len(self.rows))
        self.table = self.weight[self.rows].clone().requires_grad_()
        return self.table, self.place

    @torch.no_grad()
    def step(self, rate, betas=(0.9, 0.99), eps=1e-8):
        g, r = self.table.grad, self.rows
        m, v = self.moments
        count = self.counts[r] + 1
        self.counts[r] = count
        first = m[r].mul_(betas[0]).add_(g, alpha=1 - betas[0])
        second = v[r].mul_(betas[1]).addcmul_(g, g, value=1 - betas[1])
        m[r], v[r] = first, second
        first = first / (1 - betas[0] ** count)
        second = (second / (1 - betas[1] ** count)).sqrt_().add_(eps)
        self.weight[r] -= rate * first / second


class Draw:
    def __init__(self, texts, labelled):
        usable = lambda *ts: not any(data.is_withheld(t) for t in ts)  # noqa: E731
        at = texts.index
        rows = data.pairs(labelled, "train")
        dev = {t for p in data.pairs(labelled, "dev") for t in p[:2]}
        dev |= {t for t, _, _ in data.stream(labelled, "dev")}
        self.by_source = {}
        for a, b, y, source, _ in rows:
            if usable(a, b):
                self.by_source.setdefault(source, []).append((at[a], at[b], y))
        self.withheld = [p for p in rows if data.is_withheld(p[0]) and data.is_withheld(p[1])]
        self.questions = sorted({t for a, b, _, s, _ in rows if s not in ("mutation", "cannot") for t in (a, b)
                                 if usable(t) and t not in dev and len(t) < 160})
        groups, self.alike = {}, {}
        for text, source, group in data.stream(labelled, "train"):
            if usable(text):
                groups.setdefault((source, group), []).append(at[text])
        self.groups = {}
        for (source, group), members in sorted(groups.items()):
            self.groups.setdefault(source, []).append(members)
            # Groups of one intent that differ in their slots: the hardest to tell apart.
            intent = group.split("|")[0]
            if intent != group:
                self.alike.setdefault((source, intent), []).append(members)
        self.alike = [g for g in self.alike.values() if len(g) >= 8]

    def step(self, rng, texts, size, changed_share):
        """ids, known index or -1, pairs (i, j, label, source) and groups (i, label), all by place in the batch."""
        rows, known, pairs, grouped = [], [], [], []

        def place(index):
            rows.append(texts.rows[index])
            known.append(index)
            return len(rows) - 1

        names = list(SHARES)
        for n, source in enumerate(names):
            for a, b, y in rng.choices(self.by_source[source], k=max(2, round(SHARES[source] * size))):
                pairs.append((place(a), place(b), y, n))
        picked = rng.sample(self.questions, max(2, round(size * changed_share)))
        changed = [(q, text, label) for q in picked for _, text, label in mutations.pairs(rng, q)]
        read = texts.reader.rows([c[1] for c in changed])
        where = {}
        for (q, _, label), row in zip(changed, read):
            if q not in where:
                where[q] = place(texts.index[q])
            rows.append(row)
            known.append(-1)
            pairs.append((where[q], len(rows) - 1, label, names.index("mutation")))
        source = rng.choices(list(GROUPED), weights=GROUPED.values())[0]
        count = max(8, round(size * changed_share * 1.25))
        chosen = rng.sample(self.groups[source], min(count, len(self.groups[source])))
        if source == "hwu64":
            alike = rng.choice(self.alike)
            chosen = [g for g in chosen if len(g) > 1][: count // 2] + rng.sample(alike, min(count // 2, len(alike)))
        seen = set()
        for n, members in enumerate(chosen):
            for m in rng.sample(members, min(2, len(members))):
                if m not in seen:
                    seen.add(m)
                    grouped.append((place(m), n))
        return rows, known, pairs, grouped


def encode_by_length(model, rows, table, place, parts=4):
    """place: long[vocabulary], where in the table a token's row is."""
    by_length = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    out, size = [], math.ceil(len(rows) / parts)
    for i in range(0, len(rows), size):
        ids, mask = padded([rows[j] for j in by_length[i : i + size]])
        out.append(model(place[ids], mask, table))
    back = torch.empty(len(rows), dtype=torch.long)
    back[torch.tensor(by_length)] = torch.arange(len(rows))
    return torch.cat(out)[back]


def order(cosines, labels):
    """Every pair of label 1 above every pair of label 0: the mean over such couples, which a few wrong labels cannot
    drive, and CoSENT's worst of them, which they can, with a small weight."""
    gaps = (cosines[labels == 0][None, :] - cosines[labels == 1][:, None]) * SCALE
    worst = torch.logsumexp(torch.cat([torch.zeros(1), gaps.flatten()]), 0)
    return F.softplus(gaps).mean() + 0.03 * worst


def losses(model, head, lift, batch, vectors, table, place):
    rows, known, pairs, grouped = batch
    raw = encode_by_length(model, rows, table, place)
    z = F.normalize(raw, dim=1)
    i, j, y, s = (torch.tensor(c) for c in zip(*pairs))
    u, v, y = z[i], z[j], y.float()
    cosines = (u * v).sum(1)
    per_source = [order(cosines[s == n], y[s == n]) for n in s.unique() if 0 < y[s == n].mean() < 1]
    out = {"rank": order(cosines, y) + torch.stack(per_source).mean()}
    part = lambda x: 0.3 * x + 0.7 * x.detach()  # noqa: E731
    out["head"] = F.binary_cross_entropy_with_logits(head(part(u), part(v)), y)
    gi, gy = (torch.tensor(c) for c in zip(*grouped))
    g = z[gi]
    own = torch.eye(len(gi), dtype=torch.bool)
    same = (gy[:, None] == gy[None]) & ~own
    logs = (g @ g.T / HEAT).masked_fill(own, -1e4).log_softmax(1)
    has = same.any(1)
    # A draw may hold no two texts of one group.
    out["group"] = -(logs * same).sum(1)[has].div(same.sum(1)[has]).sum() / max(1, int(has.sum()))
    if vectors is not None:
        k = torch.tensor(known)
        # Pairs for which the teacher knows more than the label says.
        both = torch.isin(s, TAUGHT) & (k[i] >= 0) & (k[j] >= 0)
        one, other = (torch.from_numpy(vectors[k[e[both]].numpy()].astype(np.float32)) for e in (i, j))
        near = ((cosines[both] - (one * other).sum(1)) ** 2).mean()
        z, k = z[k >= 0], k[k >= 0]
        t = torch.from_numpy(vectors[k.numpy()].astype(np.float32))
        away = (1 - F.cosine_similarity(lift(z), t)).mean()
        out["teach"] = away + 10 * ((z @ z.T - t @ t.T) ** 2).mean() + 3 * near
    return out


def weights(texts, count, usable):
    """Smooth inverse frequency (Arora et al. 2017), 0..1; tokens never seen weigh as the rarest."""
    seen = np.bincount(np.concatenate([texts.rows[i] for i in usable]), minlength=count).astype(np.float64)
    share = seen / seen.sum()
    return torch.tensor(1e-3 / (1e-3 + share), dtype=torch.float32)


def start(model, texts, a):
    """Token rows from the teacher's own vectors of single tokens, turned to their first principal directions."""
    tokens = np.load(os.path.join(a.vectors, "tokens.npy"))
    tokens = tokens - tokens.mean(0)
    _, _, turn = np.linalg.svd(tokens, full_matrices=False)
    kept = torch.tensor(tokens @ turn[: model.shape.width - DUMP].T)
    usable = [i for i, t in enumerate(texts.known) if not data.is_withheld(t)]
    w = weights(texts, model.shape.vocabulary, usable)
    w[:104] = w[:104].clamp(max=0.05)  # [CLS], [SEP] and the unused say nothing
    model.start(F.normalize(kept, dim=1), w)


def fit(model, lift, texts, rng):
    """The lift that fits best as things stand."""
    some = [i for i in rng.sample(range(len(texts.known)), 12000) if not data.is_withheld(texts.known[i])]
    z = encode(model, [texts.rows[i] for i in some])
    solved, *_ = np.linalg.lstsq(z, texts.vectors[some].astype(np.float32), rcond=None)
    with torch.no_grad():
        lift.weight.copy_(torch.tensor(solved.T))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--teacher", required=True, help="folder with tokenizer.json")
    p.add_argument("--vectors", required=True, help="what teach.py wrote")
    p.add_argument("--labelled", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--grow", help="start from another run's weights, perhaps of fewer layers")
    p.add_argument("--steps", type=int, default=4000)
    p.add_argument("--minutes", type=float, help="end the schedule by the clock instead: not repeatable to the bit")
    p.add_argument("--size", type=int, default=192, help="pairs in a batch, before changed questions")
    p.add_argument("--teach", type=float, default=4.0)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--token-pace", type=float, default=3.0, help="the token table's rate, in rates of the rest")
    p.add_argument("--layers", type=int, default=2)
    p.add_argument("--inner", type=int, default=512)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--share", action="append", default=[], metavar="SOURCE=SHARE", help="in place of the usual one")
    p.add_argument("--changed", type=float, default=0.2, help="changed questions and grouped texts, for each pair")
    p.add_argument("--every", type=int, default=500, help="steps between checkpoints and scores")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--withheld", default=data.WITHHELD, metavar="TENTHS", help="of the texts, in place of the usual ones")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    os.makedirs(a.out, exist_ok=True)
    data.WITHHELD = a.withheld
    for given in a.share:
        source, _, share = given.partition("=")
        SHARES[source] = float(share)
    texts = Texts(a)
    draw = Draw(texts, a.labelled)
    shape = Shape(layers=a.layers, inner=a.inner)
    model, head = Encoder(shape), Head(shape.width)
    lift = torch.nn.Linear(shape.width, 384, bias=False)
    last = os.path.join(a.out, "last.pt")
    begin = 0
    state = torch.load(last, weights_only=True) if os.path.exists(last) else None
    other = torch.load(a.grow, weights_only=True) if state is None and a.grow else None
    if state:
        model.load_state_dict(state["model"])
    elif other:
        # Layers that the other run did not have stay as they start, which is next to nothing.
        model.load_state_dict(other["model"], strict=len(other["model"]) == len(model.state_dict()))
        model.blank()
    else:
        start(model, texts, a)
    if state or other:
        head.load_state_dict((state or other)["head"])
        lift.load_state_dict((state or other)["lift"])
    if texts.vectors is not None and state is None:
        fit(model, lift, texts, random.Random(a.seed))
    model.tokens.weight.requires_grad_(False)
    dense = [q for n, q in model.named_parameters() if n != "tokens.weight"]
    if not a.layers:
        dense = []  # the layers to come take the tokens as the bag left them
    opt = torch.optim.AdamW(dense + list(lift.parameters()) + list(head.parameters()), lr=a.lr, weight_decay=0.01)
    token_rows = TokenRows(model.tokens.weight.data)
    if state:
        begin = state["step"]
        opt.load_state_dict(state["opt"])
        token_rows.moments, token_rows.counts = state["moments"], state["counts"]
    print(f"{sum(map(len, draw.by_source.values()))} pairs, {len(draw.withheld)} withheld, from step {begin}", flush=True)
    mix = {"teach": a.teach, "rank": 1.5, "group": 0.3, "head": 0.3}
    told, since = {}, time.time()
    for step in range(begin, a.steps):
        done = (time.time() - since) / 60 / a.minutes if a.minutes else step / a.steps
        is_last = step + 1 == a.steps or done >= 1
        pace = min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))
        for g in opt.param_groups:
            g["lr"] = a.lr * pace
        batch = draw.step(random.Random(a.seed * 1_000_003 + step), texts, a.size, a.changed)
        parts = losses(model, head, lift, batch, texts.vectors, *token_rows.take(batch[0]))
        loss = sum(mix[n] * x for n, x in parts.items())
        opt.zero_grad()
        loss.backward()
        if dense:
            torch.nn.utils.clip_grad_norm_(dense, 1.0)
        opt.step()
        token_rows.step(a.lr * a.token_pace * pace)
        for n, x in parts.items():
            told[n] = told.get(n, 0.0) + x.item()
        if (step + 1) % 50 == 0:
            print(step + 1, f"{time.time() - since:.0f}s", {n: round(x / 50, 4) for n, x in told.items()}, flush=True)
            told = {}
        if (step + 1) % a.every == 0 or is_last:
            keep(last, shape, model, head, lift, opt, token_rows, step + 1)
            watch(model, head, texts, draw)
        if is_last:
            break


def keep(path, shape, model, head, lift, opt, token_rows, step):
    torch.save({"shape": vars(shape), "model": model.state_dict(), "head": head.state_dict(),
                "lift": lift.state_dict(), "opt": opt.state_dict(), "moments": token_rows.moments,
                "counts": token_rows.counts, "step": step},
               path + ".new")
    os.replace(path + ".new", path)


def watch(model, head, texts, draw):
    """Scores on the withheld pairs of train; dev is looked at by evaluate.py, once."""
    index = {}
    for a, b, *_ in draw.withheld:
        index.setdefault(a, len(index))
        index.setdefault(b, len(index))
    z = encode(model, [texts.rows[texts.index[t]] for t in index])
    pairs = draw.withheld
    u, v = (z[[index[p[k]] for p in pairs]] for k in (0, 1))
    with torch.no_grad():
        logits = head(torch.tensor(u), torch.tensor(v)).numpy()
    print("withheld cosine", shown(scores(pairs, (u * v).sum(1))), flush=True)
    print("withheld head  ", shown(scores(pairs, logits)), flush=True)


if __name__ == "__main__":
    main()
