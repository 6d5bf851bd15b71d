#!/usr/bin/env python3
"""The other way round than export.py: a checkpoint of a GGUF and its head, for train.py --grow to go on from.

    python revive.py --model ../../hedge-encoder.gguf --head ../../hedge-encoder-head.json --out old/last.pt

What quantisation rounded stays so; the lift is fitted anew and the optimiser begins afresh.
"""
import argparse
import json
import os

import gguf
import numpy as np
import torch

from network import Encoder, Head, Shape

TEACHER_WIDTH = 384


def arrays(path):
    """The header's numbers, and GGUF names to f32 arrays."""
    reader = gguf.GGUFReader(path)
    number = lambda name: int(reader.fields[f"bert.{name}"].contents())  # noqa: E731
    shape = Shape(width=number("embedding_length"), layers=number("block_count"), heads=number("attention.head_count"),
                  inner=number("feed_forward_length"), positions=number("context_length"))
    found = {t.name: np.array(gguf.quants.dequantize(t.data, t.tensor_type), np.float32) for t in reader.tensors}
    shape.vocabulary = len(found["token_embd.weight"])
    return shape, found


def model_state(shape, found):
    state = {"tokens.weight": found["token_embd.weight"], "positions.weight": found["position_embd.weight"],
             "norm.weight": found["token_embd_norm.weight"], "norm.bias": found["token_embd_norm.bias"]}
    for i in range(shape.layers):
        for kind in ("weight", "bias"):
            get = lambda name: found[f"blk.{i}.{name}.{kind}"]  # noqa: B023, E731
            state[f"layers.{i}.qkv.{kind}"] = np.concatenate([get(f"attn_{name}") for name in "qkv"])
            for ours, name in (("out", "attn_output"), ("norm1", "attn_output_norm"), ("up", "ffn_up"),
                               ("down", "ffn_down"), ("norm2", "layer_output_norm")):
                state[f"layers.{i}.{ours}.{kind}"] = get(name)
    return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in state.items()}


def head_state(path):
    with open(path, encoding="utf-8") as f:
        h = json.load(f)
    inner = h["inner"]
    t = lambda values, *to: torch.tensor(values, dtype=torch.float32).reshape(*to)  # noqa: E731
    return h["width"], {"a.weight": t(h["hidden"], inner, -1), "a.bias": t(h["hidden_bias"], inner),
                        "b.weight": t(h["out"], 1, inner), "b.bias": t([h["out_bias"]], 1)}


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--model", required=True)
    p.add_argument("--head", required=True)
    p.add_argument("--out", required=True)
    a = p.parse_args()
    shape, found = arrays(a.model)
    model = Encoder(shape)
    model.load_state_dict(model_state(shape, found))
    width, head = head_state(a.head)
    Head(width, len(head["a.bias"])).load_state_dict(head)
    os.makedirs(os.path.dirname(a.out) or ".", exist_ok=True)
    torch.save({"shape": vars(shape), "model": model.state_dict(), "head": head,
                "lift": {"weight": torch.zeros(TEACHER_WIDTH, width)}, "step": 0}, a.out)
    print(f"{a.out}: {shape.layers} layers of {shape.width}")


if __name__ == "__main__":
    main()
