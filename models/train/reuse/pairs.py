"""Writes the pairs that the scorer is fitted on: texts the encoder was not trained on, only.

    python pairs.py DATA WORK [TENTHS]

DATA is the folder of the labelled data, WORK one for what is made. Writes WORK/mutated.txt, one JSON
string a line: texts that are not in DATA and need vectors like the others. TENTHS are those that another
encoder was not trained on ("4,5,6,7").
"""

import json
import random
import re
import sys
import zlib

from mutate import DIFFERENT, SAME, word

# Tenths of the texts, by their checksums.
WITHHELD = "8,9"


def is_withheld(text, tenths=WITHHELD):
    """The encoder's training leaves these out."""
    return str(zlib.crc32(text.strip().lower().encode()) % 10) in tenths.split(",")


def lines(path):
    with open(path) as file:
        for line in file:
            yield json.loads(line)


def main(data, work, tenths=WITHHELD):
    rng = random.Random(20)
    sources = {}
    for row in lines(f"{data}/pairs_train.jsonl"):
        if row["source"].startswith("mutation") or row["source"].startswith("language"):
            continue
        for text in (row["query_a"], row["query_b"]):
            if is_withheld(text, tenths):
                sources.setdefault(row["source"], set()).add(text)
    for row in lines(f"{data}/stream.jsonl"):
        if row["split"] == "train" and is_withheld(row["query"], tenths):
            sources.setdefault(row["source"], set()).add(row["query"])
    pool = sorted({w for t in sources["qqp"] for w in re.findall(r"[a-z]{5,}", t)})
    wanted = {"qqp": 450, "banking77": 220, "clinc150": 60, "hwu64": 60, "snips": 40, "stsb": 40, "cannot": 40}
    rows = []
    for source, each in wanted.items():
        texts = sorted(sources.get(source, ()))
        for kinds, same in ((DIFFERENT, 0), (SAME, 1)):
            for kind, change in kinds.items():
                rng.shuffle(texts)
                made = 0
                for text in texts:
                    if made >= each:
                        break
                    new = change(text, rng)
                    if new and new.strip() != text.strip() or (new and kind == "space"):
                        made += 1
                        rows.append({"query_a": text, "query_b": new, "same_answer": same, "source": f"mutation:{kind}"})
                        # The same pair as people type it.
                        if same == 0 and rng.random() < 0.4:
                            rows.append({"query_a": text.lower(), "query_b": new.lower(), "same_answer": 0, "source": f"mutation:{kind}"})
        rng.shuffle(texts)
        for text in texts[:each]:
            new = word(text, rng, pool)
            if new:
                rows.append({"query_a": text, "query_b": new, "same_answer": 0, "source": "mutation:word"})
    with open(f"{work}/mutated.jsonl", "w") as out:
        for row in rows:
            out.write(json.dumps(row) + "\n")
    texts = sorted({row[k] for row in rows for k in ("query_a", "query_b")})
    with open(f"{work}/mutated.txt", "w") as out:
        for text in texts:
            out.write(json.dumps(text) + "\n")
    print(len(rows), "pairs,", len(texts), "texts")


if __name__ == "__main__":
    main(*sys.argv[1:])
