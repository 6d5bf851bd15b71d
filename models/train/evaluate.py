#!/usr/bin/env python3
"""Scores hedge-tiny on questions it was never trained on.

    evaluate.py http://127.0.0.1:8787/v1                 # a running server, temperature 0
    evaluate.py --checkpoint run/last.pt                 # PyTorch, while training
    evaluate.py --gguf ../hedge-tiny.gguf                # the file's own weights, dequantised
    evaluate.py --fresh 7 ...                            # 1000 new held-out items of that seed instead of the snapshot
    evaluate.py --items byhand.jsonl ...                 # questions from no generator

Exact match on heldout.jsonl by task, and on outside.jsonl the share answered by "I am not sure". Ends with status 1
when either is under 90 %. A network is scored by its best token at every place of the expected answer, which equals
what greedy decoding would write.
"""
import argparse
import collections
import json
import os
import sys
import time
import urllib.error
import urllib.request

import corpus

HERE = os.path.dirname(os.path.abspath(__file__))
BAR = .90


def read(name):
    with open(os.path.join(HERE, name), encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def heldout_items(seed=None):
    return read("heldout.jsonl") if seed is None else corpus.snapshot(seed)


def outside_items():
    return [{"task": "outside", "messages": [{"role": "user", "content": o["question"]}], "answer": corpus.NOT_SURE} for o in read("outside.jsonl")]


def summary(pairs):
    """(task, right) pairs -> scores by task, with the overall share over heldout tasks first."""
    by = collections.defaultdict(list)
    for task, right in pairs:
        by[task].append(right)
    held = [r for t, rs in by.items() if t != "outside" for r in rs]
    out = {"overall": sum(held) / max(1, len(held))}
    for t in sorted(by):
        out[t] = sum(by[t]) / len(by[t])
    return out


def score_network(net, tok, items=None, wrong=None):
    import torch
    items = items or heldout_items() + (outside_items() if os.path.exists(os.path.join(HERE, "outside.jsonl")) else [])
    work = []
    for item in items:
        p, a = tok.encode(corpus.prompt(item)).ids, tok.encode(item["answer"] + "<|im_end|>").ids
        work.append((item, p, a))
    work.sort(key=lambda w: len(w[1]) + len(w[2]))
    pairs, device = [], next(net.parameters()).device
    with torch.no_grad():
        for i in range(0, len(work), 24):
            part = work[i:i + 24]
            n = max(len(p) + len(a) for _, p, a in part)
            ids = torch.zeros(len(part), n, dtype=torch.long)
            for j, (_, p, a) in enumerate(part):
                ids[j, :len(p) + len(a)] = torch.tensor(p + a)
            h = net.hidden(ids.to(device))
            for j, (item, p, a) in enumerate(part):
                best = net.logits(h[j, len(p) - 1:len(p) + len(a) - 1]).argmax(-1).tolist()
                pairs.append((item["task"], best == a))
                if best != a and wrong is not None:
                    wrong.append((item, tok.decode(best, skip_special_tokens=False)))
    return summary(pairs)


def write(net, tok, messages, tools=None, most=120):
    """Greedy decoding of one reply."""
    import torch
    ids = tok.encode(corpus.prompt({"messages": messages, "tools": tools})).ids
    start, end = len(ids), tok.token_to_id("<|im_end|>")
    with torch.no_grad():
        while len(ids) < start + most:
            best = net.logits(net.hidden(torch.tensor([ids]))[0, -1]).argmax().item()
            if best == end:
                break
            ids.append(best)
    return tok.decode(ids[start:], skip_special_tokens=False)


def ask(base, model, key, item):
    body = {"model": model, "messages": item["messages"], "temperature": 0, "max_tokens": 120}
    if item.get("tools"):
        body["tools"] = item["tools"]
    messages = []
    for n, m in enumerate(body["messages"]):
        m = dict(m)
        if m.get("tool_calls"):
            m["tool_calls"] = [{"id": f"call_{n}_{i}", "type": "function", "function": {"name": c["function"]["name"], "arguments": json.dumps(c["function"]["arguments"])}}
                               for i, c in enumerate(m["tool_calls"])]
        if m["role"] == "tool":
            m["tool_call_id"] = f"call_{n - 1}_0"
        messages.append(m)
    body["messages"] = messages
    request = urllib.request.Request(base.rstrip("/") + "/chat/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json", "Authorization": "Bearer " + key})
    for attempt in range(4):
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                return json.load(reply)["choices"][0]["message"]
        except urllib.error.HTTPError as e:
            if e.code not in (429, 503) or attempt == 3:
                return {"content": f"HTTP {e.code}: {e.read()[:200]!r}"}
            time.sleep(1 + attempt)


def matches(item, message):
    want, text = item["answer"], (message.get("content") or "").strip()
    if item["task"] == "outside":
        return text.startswith("I am not sure")
    if want.startswith("<tool_call>"):
        call = json.loads(want[len("<tool_call>"):-len("</tool_call>")])
        for c in message.get("tool_calls") or ():
            try:
                return c["function"]["name"] == call["name"] and json.loads(c["function"]["arguments"]) == call["arguments"]
            except (ValueError, KeyError):
                return False
    return text == want.strip()


def score_server(base, model, key, items, wrong):
    pairs = []
    for item in items:
        message = ask(base, model, key, item)
        right = matches(item, message)
        pairs.append((item["task"], right))
        if not right:
            wrong.append((item, json.dumps(message.get("tool_calls")) if message.get("tool_calls") else message.get("content")))
    return summary(pairs)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("base_url", nargs="?", default="http://127.0.0.1:8787/v1")
    ap.add_argument("--model", default="hedge-tiny")
    ap.add_argument("--key", default=os.environ.get("HEDGE_KEY", "none"))
    ap.add_argument("--checkpoint")
    ap.add_argument("--gguf")
    ap.add_argument("--limit", type=int, help="only the first so many heldout items")
    ap.add_argument("--items", metavar="FILE", help="score this file's items instead of the heldout ones")
    ap.add_argument("--fresh", type=int, metavar="SEED", help="draw new heldout items with this seed instead of reading heldout.jsonl")
    ap.add_argument("--ask", action="append", help="only answer this question (with --checkpoint or --gguf)")
    ap.add_argument("--bar", type=float, default=BAR, help="least share of right answers to heldout items, 0 to 1")
    ap.add_argument("--bar-outside", type=float, default=BAR, help="least share of outside items it is not sure of, 0 to 1")
    ap.add_argument("--show", type=int, default=0, help="print so many wrong answers")
    a = ap.parse_args()
    wrong, items = [], (read(a.items) if a.items else heldout_items(a.fresh))[:a.limit] + outside_items()
    if a.checkpoint or a.gguf:
        import export
        net, tok = export.load_gguf(a.gguf) if a.gguf else export.load_checkpoint(a.checkpoint)
        if a.ask:
            for question in a.ask:
                print(question, "->", write(net, tok, [{"role": "user", "content": question}]))
            return 0
        scores = score_network(net, tok, items, wrong=wrong)
    else:
        scores = score_server(a.base_url, a.model, a.key, items, wrong)
    for item, got in wrong[:a.show]:
        print(f"[{item['task']}] {item['messages'][-1]['content'][:300]!r}\n    want {item['answer']!r}\n    got  {got!r}")
    counts = collections.Counter(i["task"] for i in items)
    for task, share in scores.items():
        print(f"{task:18} {100 * share:6.1f} %  {counts.get(task, '')}")
    good = scores["overall"] >= a.bar and scores.get("outside", 0) >= a.bar_outside
    print(f"{'meets' if good else 'UNDER'} the bars: {100 * a.bar:g} % exact on heldout, {100 * a.bar_outside:g} % not sure on outside")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
