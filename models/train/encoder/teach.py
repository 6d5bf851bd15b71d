#!/usr/bin/env python3
"""What is asked of the teacher, once: the vector of every text, and of every token alone.

    python teach.py --teacher FOLDER --labelled DIR --out DIR

Writes texts.txt (one JSON string a line, sorted), texts.npy (f16[texts, 384], unit length) and tokens.npy
(f32[vocabulary, 384]). What is already there is kept.
"""
import argparse
import os

import numpy as np
import torch
import torch.nn.functional as F

import data
from network import CLS, SEP


def mean(model, ids, mask):
    h = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    m = mask[..., None].to(h.dtype)
    return F.normalize((h * m).sum(1) / m.sum(1), dim=1)


@torch.inference_mode()
def tokens(model, count, batch=2048):
    """Each token between [CLS] and [SEP], in the manner of Model2Vec."""
    parts = []
    for i in range(0, count, batch):
        t = torch.arange(i, min(i + batch, count))
        ids = torch.stack([torch.full_like(t, CLS), t, torch.full_like(t, SEP)], 1)
        parts.append(mean(model, ids, torch.ones_like(ids, dtype=torch.bool)))
    return torch.cat(parts).numpy()


@torch.inference_mode()
def texts(model, rows, batch=128):
    from network import padded

    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    out = np.zeros((len(rows), model.config.hidden_size), np.float16)
    for i in range(0, len(order), batch):
        part = order[i : i + batch]
        out[part] = mean(model, *padded([rows[j] for j in part])).numpy()
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--teacher", required=True)
    p.add_argument("--labelled", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    from transformers import AutoModel

    torch.set_num_threads(a.threads)
    os.makedirs(a.out, exist_ok=True)
    model = AutoModel.from_pretrained(a.teacher, dtype=torch.float32).eval()
    target = os.path.join(a.out, "tokens.npy")
    if not os.path.exists(target):
        np.save(target, tokens(model, model.config.vocab_size))
    everything = data.all_texts(a.labelled)
    data.write_lines(os.path.join(a.out, "texts.txt"), everything)
    target = os.path.join(a.out, "texts.npy")
    if not os.path.exists(target):
        np.save(target, texts(model, data.Reader(a.teacher, 128).rows(everything)))


if __name__ == "__main__":
    main()
