"""The labelled data, and what of it may be trained on.

A fifth of the training texts is withheld from the encoder, so that the scorer above it is fitted on pairs that the
encoder has not seen: a text is withheld by its own bytes, a pair trains only where neither text is.
"""
import json
import os
import zlib

# Tenths of the texts, by their checksums.
WITHHELD = "8,9"


def is_withheld(text):
    return str(zlib.crc32(text.lower().strip().encode()) % 10) in WITHHELD.split(",")


def lines(folder, name):
    with open(os.path.join(folder, name), encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def write_lines(path, texts):
    with open(path, "w", encoding="utf-8") as f:
        for text in texts:
            f.write(json.dumps(text) + "\n")


def pairs(folder, name):
    """(one, other, label, source, kind)"""
    out = []
    for r in lines(folder, f"pairs_{name}.jsonl"):
        source, _, kind = r["source"].partition(":")
        out.append((r["query_a"], r["query_b"], r["same_answer"], source, kind))
    return out


def stream(folder, split):
    """(text, source, group)"""
    return [(r["query"], r["source"], r["group"]) for r in lines(folder, "stream.jsonl") if r["split"] == split]


def all_texts(folder):
    out = {t for name in ("train", "dev") for p in pairs(folder, name) for t in p[:2]}
    out |= {t for split in ("train", "dev") for t, _, _ in stream(folder, split)}
    return sorted(out)


class Reader:
    """Uncased WordPiece with [CLS] and [SEP], from the teacher's tokenizer.json."""

    def __init__(self, folder, tokens_max):
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(tokens_max)

    def rows(self, texts):
        return [e.ids for e in self.tokenizer.encode_batch(list(texts))]
