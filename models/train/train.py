#!/usr/bin/env python3
"""Trains hedge-tiny from nothing: makes a tokenizer, then learns the answers of corpus.py's items.

    train.py --out run --minutes 60            # or --steps N for a run that does not depend on the clock
    train.py --out run --minutes 10 --resume run/last.pt --lr-scale 0.3      # go on from a checkpoint

Writes run/tokenizer.json, run/last.pt (weights, optimizer, place in the data) and run/metrics.jsonl.
Loss is counted on answers only. Matrices learn by Muon (orthogonalised momentum), the rest by AdamW.
"""
import argparse
import json
import os
import random
import time

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, trainers, pre_tokenizers

import corpus
import evaluate
from model import CONTEXT, SPECIALS, Net, splitter, tokenizer


def make_tokenizer(size, seed, count):
    w = corpus.Writer("train", f"tokenizer {seed}")
    texts = ["".join(t for t, _ in corpus.segments(w.item(), w.r.randrange(4))) for _ in range(count)]
    for s in SPECIALS:
        texts = [t.replace(s, "\n") for t in texts]
    texts += [" ".join(c[:3]) for c in corpus.FACTS.countries] * 40
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = splitter()
    t.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size - len(SPECIALS), show_progress=False,
                                                     initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    spec = json.loads(t.to_str())["model"]
    tokens = sorted(spec["vocab"], key=spec["vocab"].get)
    merges = [m.split(" ") if isinstance(m, str) else m for m in spec["merges"]]
    assert len(tokens) == size - len(SPECIALS), f"the text gives only {len(tokens)} tokens"
    return {"tokens": tokens + SPECIALS, "merges": merges}


class Batches:
    """Batches of similar length, drawn from the generator chunk by chunk. What chunk n holds depends on the seed and n only."""

    def __init__(self, tok, seed, tokens, chunk=0, chunk_items=6000):
        self.tok, self.seed, self.tokens, self.chunk, self.items = tok, seed, tokens, chunk, chunk_items

    def encode(self, w):
        share = .3 if self.chunk < 5 else .1  # copying and sums are learned late: they get a head start
        items = [w.drill() if w.r.random() < share else w.item() for _ in range(self.items)]
        pieces = [corpus.segments(i, w.r.randrange(4)) for i in items]
        ids = iter(e.ids for e in self.tok.encode_batch_fast([t for p in pieces for t, _ in p]))
        for p in pieces:
            seq, learn = [], []
            for _, is_answer in p:
                part = next(ids)
                seq += part
                learn += [is_answer] * len(part)
            if len(seq) <= 2600:
                yield seq, learn

    def gaps(self, n, r):
        """Positions of n tokens: now and then with jumps, so that far distances are met in short texts."""
        pos = list(range(n))
        if r.random() < .15 and n < 2000:
            for _ in range(r.choice((1, 1, 2, 4))):
                cut, jump = r.randrange(n), int((CONTEXT - pos[-1] - 2) * r.random() ** 2)
                pos[cut:] = [p + jump for p in pos[cut:]]
        return pos

    def __iter__(self):
        waiting = {}  # texts of about one length, until there are enough for a batch
        while True:
            w = corpus.Writer("train", f"{self.seed} {self.chunk}")
            r = random.Random(f"batch {self.seed} {self.chunk}")
            batches = []
            for s in self.encode(w):
                # Few different shapes: a CPU's kernels are made anew for each.
                grain = 16 if len(s[0]) <= 256 else 64 if len(s[0]) <= 1024 else 512
                n = -(-len(s[0]) // grain) * grain
                now = waiting.setdefault(n, [])
                now.append(s)
                if len(now) == max(1, self.tokens // n):
                    batches.append((n, waiting.pop(n)))
            r.shuffle(batches)
            for n, b in batches:
                ids, goal, pos = torch.zeros(len(b), n, dtype=torch.long), torch.full((len(b), n), -1), torch.zeros(len(b), n, dtype=torch.long)
                for i, (s, learn) in enumerate(b):
                    ids[i, :len(s)] = torch.tensor(s)
                    goal[i, :len(s) - 1] = torch.tensor([t if l else -1 for t, l in zip(s[1:], learn[1:])])
                    pos[i, :len(s)] = torch.tensor(self.gaps(len(s), r))
                yield ids, goal, pos, self.chunk
            self.chunk += 1


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal by five Newton-Schulz steps; same-shaped matrices go together."""

    def __init__(self, params, lr, momentum=.95, weight_decay=.02):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for g in self.param_groups:
            shapes = {}
            for p in g["params"]:
                shapes.setdefault(p.shape, []).append(p)
            for shape, ps in shapes.items():
                updates = []
                for p in ps:
                    m = self.state[p].setdefault("m", torch.zeros_like(p))
                    m.lerp_(p.grad, 1 - g["momentum"])
                    updates.append(p.grad.lerp(m, g["momentum"]))
                x = torch.stack(updates).bfloat16()
                flip = shape[0] > shape[1]
                x = x.mT if flip else x
                x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).bfloat16()
                for _ in range(5):
                    a = x @ x.mT
                    x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
                x = (x.mT if flip else x).float() * max(1, shape[0] / shape[1]) ** .5
                for p, u in zip(ps, x):
                    p.mul_(1 - g["lr"] * g["weight_decay"]).sub_(g["lr"] * u)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", required=True)
    ap.add_argument("--minutes", type=float, default=60)
    ap.add_argument("--steps", type=int, help="stop after this many steps instead of --minutes")
    ap.add_argument("--resume")
    ap.add_argument("--lr-scale", type=float, default=1.0)
    for name, default in (("layers", 6), ("embd", 192), ("heads", 6), ("ffn", 512), ("vocab", 2048), ("batch-tokens", 3072), ("threads", 1), ("seed", 1), ("tokenizer-items", 60000)):
        ap.add_argument("--" + name, type=int, default=default)
    ap.add_argument("--more", action="append", default=[], metavar="TASK=TIMES", help="multiply a task's share of the training text")
    ap.add_argument("--answer-tokens", type=int, default=600, help="answer tokens that make a step")
    ap.add_argument("--eval-minutes", type=float, default=8)
    ap.add_argument("--device", default="cpu")
    a = ap.parse_args()
    for task, times in (m.split("=") for m in a.more):
        corpus.Writer.SHARES[task] *= float(times)
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    os.makedirs(a.out, exist_ok=True)
    saved = torch.load(a.resume, weights_only=True) if a.resume else None
    vocab = saved["tokenizer"] if saved else make_tokenizer(a.vocab, a.seed, a.tokenizer_items)
    with open(os.path.join(a.out, "tokenizer.json"), "w", encoding="utf-8") as f:
        json.dump(vocab, f, ensure_ascii=False)
    tok = tokenizer(vocab["tokens"], vocab["merges"])
    net = Net(**(saved["shape"] if saved else dict(vocab=a.vocab, embd=a.embd, layers=a.layers, heads=a.heads, ffn=a.ffn))).to(a.device)
    net.compute = torch.bfloat16
    matrices = [p for n, p in net.named_parameters() if p.dim() == 2 and "token_embd" not in n]
    others = [p for n, p in net.named_parameters() if p.dim() == 1 or "token_embd" in n]
    muon, adam = Muon(matrices, lr=.01), torch.optim.AdamW(others, lr=2e-3, betas=(.9, .97), weight_decay=0)
    step = seen = chunk = 0
    spent = 0.0
    if saved:
        net.load_state_dict(saved["net"])
        muon.load_state_dict(saved["muon"])
        adam.load_state_dict(saved["adam"])
        step, seen, chunk, spent = saved["step"], saved["seen"], saved["chunk"] + 1, saved["seconds"]
    for o in (muon, adam):
        for g in o.param_groups:
            g["top"] = .01 if o is muon else 2e-3
    print(f"{sum(p.numel() for p in net.parameters()) / 1e6:.2f} M parameters", flush=True)
    metrics = open(os.path.join(a.out, "metrics.jsonl"), "a", encoding="utf-8")

    mean = Net(**net.shape).to(a.device).eval()  # the running mean of the weights is what gets scored and exported
    mean.load_state_dict(saved.get("mean", saved["net"]) if saved else net.state_dict())

    def save(name):
        path = os.path.join(a.out, name)
        torch.save(dict(net=net.state_dict(), mean=mean.state_dict(), muon=muon.state_dict(), adam=adam.state_dict(), shape=net.shape, tokenizer=vocab, step=step, seen=seen,
                        chunk=chunk, seconds=spent + time.time() - start), path + ".new")
        os.replace(path + ".new", path)

    def check():
        wrong = []
        scores = evaluate.score_network(mean, tok, wrong=wrong)
        with open(os.path.join(a.out, "wrong.txt"), "w", encoding="utf-8") as f:
            f.writelines(f"[{i['task']}] {i['messages'][-1]['content']!r}\n    want {i['answer']!r}\n    got  {got!r}\n" for i, got in wrong)
        metrics.write(json.dumps({"step": step, "seconds": round(time.time() - start), "scores": scores}) + "\n")
        metrics.flush()
        print(f"-- {time.time() - start:.0f} s: " + ", ".join(f"{k} {v:.2f}" for k, v in scores.items()), flush=True)

    start = mark = time.time()
    answers, losses = 0, 0.0
    first, average, next_check = step, None, a.eval_minutes * 60
    for ids, goal, pos, chunk in Batches(tok, a.seed, a.batch_tokens, chunk, 6000 if not a.steps or a.steps > 50 else 300):
        passed = time.time() - start
        done = (step - first) / a.steps if a.steps else passed / (a.minutes * 60)
        if done >= 1:
            break
        rate = a.lr_scale * min(1, (step - first + 1) / 60) * min(1, max(.01, (1 - done) / .9))
        for o in (muon, adam):
            for g in o.param_groups:
                g["lr"] = g["top"] * rate
        ids, goal, pos = ids.to(a.device), goal.to(a.device), pos.to(a.device)
        at = (goal.flatten() >= 0).nonzero().squeeze(1)
        count = len(at)
        at = F.pad(at, (0, -count % 128))
        goal = goal.flatten()[at]
        goal[count:] = -1
        loss = F.cross_entropy(net.logits(net.hidden(ids, pos).flatten(0, 1)[at]).float(), goal, ignore_index=-1, reduction="sum")
        (loss / a.answer_tokens).backward()
        answers, losses = answers + count, losses + loss.item()
        if answers < a.answer_tokens:  # long prompts have few answer tokens: they wait for company
            seen += ids.numel()
            continue
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        muon.step()
        adam.step()
        net.zero_grad()
        with torch.no_grad():
            keep_mean = min(.995, 1 - 1 / (step - first + 2))
            for m, p in zip(mean.parameters(), net.parameters()):
                m.lerp_(p, 1 - keep_mean)
        loss, answers, losses = losses / answers, 0, 0.0
        step, seen = step + 1, seen + ids.numel()
        average = loss if average is None else .98 * average + .02 * loss
        if step % 50 == 0:
            now = time.time()
            print(f"step {step} loss {average:.4f} chunk {chunk} {passed:.0f} s {50 / (now - mark):.2f} steps/s {seen / 1e6:.2f} M tokens rate {rate:.3f}", flush=True)
            mark = now
            if step % 200 == 0:
                save("last.pt")
        if passed > next_check:
            next_check += a.eval_minutes * 60
            check()
    save("last.pt")
    check()


if __name__ == "__main__":
    main()
