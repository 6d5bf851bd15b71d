#!/usr/bin/env python3
"""Writes a checkpoint of train.py as a GGUF file (q8_0 matrices, f32 norms), and reads either back.

    export.py --checkpoint run/last.pt --out ../hedge-tiny.gguf

The file carries its own tokenizer and chat template. The same checkpoint gives the same bytes.
"""
import argparse
import os

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind, TokenType

from model import CONTEXT, CONTROL, EPS, MARKS, ROPE_BASE, SPECIALS, Net, tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
NAME, LICENSE = "hedge-tiny", "Apache-2.0 OR MIT"


def load_checkpoint(path):
    saved = torch.load(path, weights_only=True, map_location="cpu")
    net = Net(**saved["shape"])
    net.load_state_dict(saved.get("mean", saved["net"]))
    return net.eval(), tokenizer(saved["tokenizer"]["tokens"], saved["tokenizer"]["merges"])


def write(path, net, vocab):
    shape, w = net.shape, gguf.GGUFWriter(path, "llama")
    tokens = vocab["tokens"]
    ids = {t: i for i, t in enumerate(tokens)}
    assert tokens[-len(SPECIALS):] == SPECIALS and len(tokens) == shape["vocab"]
    w.add_type("model")
    w.add_name(NAME)
    w.add_description("Small chat model of the hedge gateway, trained from scratch on generated text.")
    w.add_license(LICENSE)
    w.add_languages(["en"])
    w.add_context_length(CONTEXT)
    w.add_embedding_length(shape["embd"])
    w.add_block_count(shape["layers"])
    w.add_feed_forward_length(shape["ffn"])
    w.add_head_count(shape["heads"])
    w.add_head_count_kv(shape["heads"])
    w.add_layer_norm_rms_eps(EPS)
    w.add_rope_freq_base(ROPE_BASE)
    w.add_rope_dimension_count(shape["embd"] // shape["heads"])
    w.add_vocab_size(shape["vocab"])
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    w.add_token_list(tokens)
    w.add_token_types([TokenType.CONTROL if t in CONTROL else TokenType.USER_DEFINED if t in MARKS else TokenType.NORMAL for t in tokens])
    w.add_token_merges([" ".join(m) for m in vocab["merges"]])
    w.add_bos_token_id(ids["<|endoftext|>"])
    w.add_eos_token_id(ids["<|im_end|>"])
    w.add_eot_token_id(ids["<|im_end|>"])
    w.add_pad_token_id(ids["<|endoftext|>"])
    w.add_add_bos_token(False)
    w.add_add_eos_token(False)
    with open(os.path.join(HERE, "chat_template.jinja"), encoding="utf-8") as f:
        w.add_chat_template(f.read().rstrip("\n"))
    for name, p in net.state_dict().items():
        x = p.detach().float().cpu().numpy()
        if x.ndim == 2:
            w.add_tensor(name, gguf.quants.quantize(x, Kind.Q8_0), raw_dtype=Kind.Q8_0)
        else:
            w.add_tensor(name, x)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def load_gguf(path):
    """The network and tokenizer that the file alone describes, its q8_0 weights dequantised."""
    r = gguf.GGUFReader(path)
    field = lambda k: r.fields[k].contents()
    a = "llama."
    net = Net(vocab=field(a + "vocab_size"), embd=field(a + "embedding_length"), layers=field(a + "block_count"),
              heads=field(a + "attention.head_count"), ffn=field(a + "feed_forward_length"))
    state = {t.name: torch.from_numpy(np.array(gguf.quants.dequantize(t.data, t.tensor_type), dtype=np.float32)) for t in r.tensors}
    net.load_state_dict(state)
    return net.eval(), tokenizer(field("tokenizer.ggml.tokens"), [m.split(" ") for m in field("tokenizer.ggml.merges")])


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--checkpoint", required=True)
    ap.add_argument("--out", required=True)
    a = ap.parse_args()
    saved = torch.load(a.checkpoint, weights_only=True, map_location="cpu")
    net = Net(**saved["shape"])
    net.load_state_dict(saved.get("mean", saved["net"]))
    write(a.out, net, saved["tokenizer"])
    print(f"{a.out}: {os.path.getsize(a.out) / 1e6:.2f} MB, {sum(p.numel() for p in net.parameters()) / 1e6:.2f} M parameters, {saved['step']} steps")


if __name__ == "__main__":
    main()
