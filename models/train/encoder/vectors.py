#!/usr/bin/env python3
"""The vectors of all texts of a list, from a checkpoint: f16[texts, width], unit length.

    python vectors.py --checkpoint run/last.pt --teacher FOLDER --texts texts.txt --out ours.npy
"""
import argparse
import json

import numpy as np
import torch

import data
import export
from network import encode


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--checkpoint", required=True)
    p.add_argument("--teacher", required=True, help="folder with tokenizer.json")
    p.add_argument("--texts", required=True, help="one JSON string a line")
    p.add_argument("--out", required=True)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    with open(a.texts, encoding="utf-8") as f:
        texts = [json.loads(line) for line in f]
    model, _ = export.load(a.checkpoint)
    tokens_max = model.shape.positions
    np.save(a.out, encode(model, data.Reader(a.teacher, tokens_max).rows(texts)).astype(np.float16))


if __name__ == "__main__":
    main()
