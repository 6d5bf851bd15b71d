#!/usr/bin/env python3
"""Turns a Hugging Face BERT folder (config.json, model.safetensors, vocab.txt) into GGUF, for `encoder = "…gguf"`.

    python convert.py FOLDER OUT.gguf [--type q8_0|f16|f32] [--pooling mean|cls]

Mean pooling unless `1_Pooling/config.json` or the flag says CLS. Uncased WordPiece only: llama.cpp lowers the case and
strips accents itself. `write` is also what `export.py` uses for the project's own encoder.
"""
import argparse
import json
import os

import gguf
import numpy as np

POOLING = {"mean": gguf.PoolingType.MEAN, "cls": gguf.PoolingType.CLS}
KINDS = {
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
}


def piece(token):
    """llama.cpp's WordPiece marks where a word begins instead of where it goes on."""
    if token.startswith("[") and token.endswith("]"):
        return token
    return token[2:] if token.startswith("##") else "\u2581" + token


def write(path, name, tensors, vocabulary, heads, positions, eps, kind="q8_0", pooling="mean", about=None):
    """tensors: GGUF names to f32 arrays, row-major; the matrices of `blk.` and the token table get the kind asked."""
    quant, file_type = KINDS[kind]
    w = gguf.GGUFWriter(path, "bert")
    w.add_name(name)
    for key, text in (about or {}).items():
        getattr(w, f"add_{key}")(text)
    width = tensors["token_embd.weight"].shape[1]
    inner = tensors["blk.0.ffn_up.weight"].shape[0]
    layers = 1 + max(int(n.split(".")[1]) for n in tensors if n.startswith("blk."))
    w.add_context_length(positions)
    w.add_embedding_length(width)
    w.add_feed_forward_length(inner)
    w.add_block_count(layers)
    w.add_head_count(heads)
    w.add_layer_norm_eps(eps)
    w.add_causal_attention(False)
    w.add_pooling_type(POOLING[pooling])
    w.add_file_type(file_type)
    w.add_tokenizer_model("bert")
    w.add_token_list([piece(t) for t in vocabulary])
    control = {"[PAD]", "[CLS]", "[SEP]", "[MASK]"}
    kinds = [gguf.TokenType.CONTROL if t in control else gguf.TokenType.UNKNOWN if t == "[UNK]" else
             gguf.TokenType.UNUSED if t.startswith("[unused") else gguf.TokenType.NORMAL for t in vocabulary]
    w.add_token_types(kinds)
    w.add_token_type_count(2)
    ids = {t: i for i, t in enumerate(vocabulary)}
    w.add_bos_token_id(ids["[CLS]"])
    w.add_eos_token_id(ids["[SEP]"])
    w.add_sep_token_id(ids["[SEP]"])
    w.add_unk_token_id(ids["[UNK]"])
    w.add_pad_token_id(ids["[PAD]"])
    w.add_mask_token_id(ids["[MASK]"])
    w.add_add_bos_token(True)
    w.add_add_eos_token(True)
    for n, x in tensors.items():
        x = np.ascontiguousarray(x, dtype=np.float32)
        is_matrix = x.ndim == 2 and (n == "token_embd.weight" or n.startswith("blk."))
        if is_matrix and kind != "f32":
            w.add_tensor(n, gguf.quants.quantize(x, quant), raw_dtype=quant)
        elif n == "position_embd.weight" and kind != "f32":
            w.add_tensor(n, x.astype(np.float16))
        else:
            w.add_tensor(n, x)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def names(layers):
    pairs = {
        "embeddings.word_embeddings.weight": "token_embd.weight",
        "embeddings.position_embeddings.weight": "position_embd.weight",
        "embeddings.token_type_embeddings.weight": "token_types.weight",
        "embeddings.LayerNorm.weight": "token_embd_norm.weight",
        "embeddings.LayerNorm.bias": "token_embd_norm.bias",
    }
    parts = {
        "attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
        "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm",
        "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm",
    }
    for i in range(layers):
        for theirs, ours in parts.items():
            for end in ("weight", "bias"):
                pairs[f"encoder.layer.{i}.{theirs}.{end}"] = f"blk.{i}.{ours}.{end}"
    return pairs


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("folder")
    p.add_argument("out")
    p.add_argument("--type", choices=KINDS, default="q8_0")
    p.add_argument("--pooling", choices=POOLING)
    a = p.parse_args()
    from safetensors.numpy import load_file

    with open(os.path.join(a.folder, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
        raise SystemExit(f"{a.folder}: no BERT with gelu, but {config.get('model_type')}, {config.get('hidden_act')}")
    pooling = a.pooling or "mean"
    stated = os.path.join(a.folder, "1_Pooling", "config.json")
    if a.pooling is None and os.path.exists(stated):
        with open(stated, encoding="utf-8") as f:
            pooling = "cls" if json.load(f).get("pooling_mode_cls_token") else "mean"
    with open(os.path.join(a.folder, "vocab.txt"), encoding="utf-8") as f:
        vocabulary = f.read().splitlines()
    theirs = {k.removeprefix("bert."): v for k, v in load_file(os.path.join(a.folder, "model.safetensors")).items()}
    tensors = {ours: theirs[k] for k, ours in names(config["num_hidden_layers"]).items()}
    if len(vocabulary) != tensors["token_embd.weight"].shape[0]:
        raise SystemExit(f"{a.folder}: {len(vocabulary)} tokens, {tensors['token_embd.weight'].shape[0]} rows")
    write(a.out, os.path.basename(os.path.normpath(a.folder)), tensors, vocabulary, config["num_attention_heads"],
          config["max_position_embeddings"], config["layer_norm_eps"], a.type, pooling)


if __name__ == "__main__":
    main()
