#!/usr/bin/env python3
"""Writes a checkpoint of train.py as the GGUF that hedge runs, and the pair head beside it.

    python export.py --checkpoint run/last.pt --teacher FOLDER --out ../../hedge-encoder.gguf --head head.json
"""
import argparse
import json
import os

import numpy as np
import torch

import convert
from network import EPS, Encoder, Head, Shape

ABOUT = {"author": "hedge", "license": "Apache-2.0 OR MIT",
         "description": "hedge's encoder of short texts: may two questions share one answer?"}


def tensors(model):
    """GGUF names to f32 arrays."""
    get = lambda t: t.detach().float().numpy()  # noqa: E731
    out = {
        "token_embd.weight": get(model.tokens.weight),
        "position_embd.weight": get(model.positions.weight),
        "token_types.weight": np.zeros((2, model.shape.width), np.float32),
        "token_embd_norm.weight": get(model.norm.weight),
        "token_embd_norm.bias": get(model.norm.bias),
    }
    for i, layer in enumerate(model.layers):
        w, b = get(layer.qkv.weight), get(layer.qkv.bias)
        for j, name in enumerate("qkv"):
            rows = slice(j * model.shape.width, (j + 1) * model.shape.width)
            out[f"blk.{i}.attn_{name}.weight"], out[f"blk.{i}.attn_{name}.bias"] = w[rows], b[rows]
        for name, module in (("attn_output", layer.out), ("attn_output_norm", layer.norm1), ("ffn_up", layer.up),
                             ("ffn_down", layer.down), ("layer_output_norm", layer.norm2)):
            out[f"blk.{i}.{name}.weight"], out[f"blk.{i}.{name}.bias"] = get(module.weight), get(module.bias)
    return out


def vocabulary(folder):
    with open(os.path.join(folder, "vocab.txt"), encoding="utf-8") as f:
        return f.read().splitlines()


def write(path, model, words, kind="q8_0"):
    s = model.shape
    convert.write(path, "hedge-encoder", tensors(model), words, s.heads, s.positions, EPS, kind, about=ABOUT)


def write_head(path, head):
    """`hidden` is f32[inner, 2 * width + 1], row-major; see Head in network.py for what goes in."""
    rounded = lambda t: [round(float(x), 6) for x in t.detach().flatten()]  # noqa: E731
    with open(path, "w", encoding="utf-8") as f:
        json.dump({"width": head.width, "inner": head.a.out_features, "hidden": rounded(head.a.weight),
                   "hidden_bias": rounded(head.a.bias), "out": rounded(head.b.weight),
                   "out_bias": rounded(head.b.bias)[0]}, f)
        f.write("\n")


def load(path):
    state = torch.load(path, map_location="cpu", weights_only=True)
    shape = Shape(**state["shape"])
    model, head = Encoder(shape), Head(shape.width, len(state["head"]["a.bias"]))
    model.load_state_dict(state["model"])
    head.load_state_dict(state["head"])
    return model.eval(), head.eval()


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--checkpoint", required=True)
    p.add_argument("--teacher", required=True, help="folder with vocab.txt")
    p.add_argument("--out", required=True)
    p.add_argument("--head")
    p.add_argument("--type", choices=convert.KINDS, default="q8_0")
    a = p.parse_args()
    model, head = load(a.checkpoint)
    write(a.out, model, vocabulary(a.teacher), a.type)
    if a.head:
        write_head(a.head, head)
    print(f"{a.out}: {os.path.getsize(a.out) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
