"""The network and tokenizer of hedge-tiny, shared by train.py, export.py and evaluate.py --checkpoint.

The network is the llama architecture as GGUF names it: RMSNorm, rotary positions over interleaved pairs (so that
weights need no permutation), SwiGLU, tied embeddings. Everything here needs torch; corpus.py does not.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MARKS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<tools>", "</tools>"]
SPECIALS = CONTROL + MARKS
# The pre-tokenizer that GGUF calls "qwen2": every digit is its own token.
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
EPS, ROPE_BASE, CONTEXT = 1e-6, 10000.0, 4096


def splitter():
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def tokenizer(tokens, merges):
    """tokens: id order, specials last; merges: [left, right] pairs."""
    t = Tokenizer(models.BPE({w: i for i, w in enumerate(tokens)}, [tuple(m) for m in merges]))
    t.pre_tokenizer, t.decoder = splitter(), decoders.ByteLevel()
    t.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in SPECIALS])
    return t


def attend(q, k, v):
    """Causal attention written out: on a CPU the fused kernel's backward pass takes 40 % of a step on short texts."""
    t = q.shape[2]
    hide = torch.full((t, t), float("-inf"), dtype=q.dtype, device=q.device).triu_(1)
    return torch.softmax(torch.add(hide, q @ k.mT, alpha=q.shape[-1] ** -.5), -1) @ v


class Block(nn.Module):
    def __init__(self, d, heads, ffn):
        super().__init__()
        line = lambda i, o: nn.Linear(i, o, bias=False)
        self.heads = heads
        self.attn_norm, self.ffn_norm = nn.RMSNorm(d, eps=EPS), nn.RMSNorm(d, eps=EPS)
        self.attn_q, self.attn_k, self.attn_v, self.attn_output = line(d, d), line(d, d), line(d, d), line(d, d)
        self.ffn_gate, self.ffn_up, self.ffn_down = line(d, ffn), line(d, ffn), line(ffn, d)
        # The file's rotary pairs lie side by side; halves are faster to turn, and attention does not see the order.
        rows = torch.arange(d).view(heads, -1)
        self.register_buffer("halves", torch.cat((rows[:, 0::2], rows[:, 1::2]), 1).flatten(), persistent=False)

    def forward(self, x, cos, sin):
        """cos, sin: [1 or batch, time, 1, 1, half of a head]; their type is the one to compute in."""
        b, t, d = x.shape
        y = self.attn_norm(x).to(cos.dtype)
        z = F.linear(y, torch.cat((self.attn_q.weight[self.halves], self.attn_k.weight[self.halves], self.attn_v.weight)).to(cos.dtype))
        z = z.view(b, t, 3, self.heads, -1)
        p, q = z[:, :, :2].chunk(2, -1)
        q, k = torch.cat((p * cos - q * sin, p * sin + q * cos), -1).permute(2, 0, 3, 1, 4)
        v = z[:, :, 2].transpose(1, 2)
        y = attend(q, k, v) if self.training and t <= 512 else F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + F.linear(y.transpose(1, 2).reshape(b, t, d), self.attn_output.weight.to(cos.dtype))
        y = self.ffn_norm(x).to(cos.dtype)
        gate, up = F.linear(y, torch.cat((self.ffn_gate.weight, self.ffn_up.weight)).to(cos.dtype)).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, self.ffn_down.weight.to(cos.dtype))


class Net(nn.Module):
    def __init__(self, vocab, embd, layers, heads, ffn):
        super().__init__()
        self.shape = dict(vocab=vocab, embd=embd, layers=layers, heads=heads, ffn=ffn)
        self.compute = torch.float32  # what matrices are multiplied in; weights and the residual stay f32
        self.token_embd = nn.Embedding(vocab, embd)
        self.blk = nn.ModuleList(Block(embd, heads, ffn) for _ in range(layers))
        self.output_norm = nn.RMSNorm(embd, eps=EPS)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=.02 if p is self.token_embd.weight else p.shape[1] ** -.5 * .6)
        for b in self.blk:
            for m in (b.attn_output, b.ffn_down):
                nn.init.normal_(m.weight, std=m.weight.shape[1] ** -.5 * .3 / layers ** .5)
        self.wire_copying()
        hd = embd // heads
        angle = torch.arange(2 * CONTEXT)[:, None] / (ROPE_BASE ** (torch.arange(0, hd, 2) / hd))
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    @torch.no_grad()
    def wire_copying(self, heads=3, constant=.12, sharp=8.0, match=16.0):
        """Starts the first heads of the first two layers as a copying circuit, which small text finds only late.

        Every embedding gets the same first component. From it, head h of layer 0 makes queries and keys that meet
        at distance 1, so it writes down the token before; head h of layer 1 looks for places whose token before is
        the present one, and offers what stands there. Training is free to change all of it.
        """
        d, hd = self.shape["embd"], self.shape["embd"] // self.shape["heads"]
        heads = min(heads, self.shape["heads"], d // hd)
        if len(self.blk) < 2:
            return
        e, low = self.token_embd.weight, hd // 2
        e[:, 0] = constant
        rms = e.pow(2).mean(1).sqrt().mean().item()
        theta = ROPE_BASE ** (-torch.arange(0, hd, 2) / hd)
        amplitude = (sharp * hd ** .5) ** .5 / (constant / rms)
        read, put, see = (torch.linalg.qr(torch.randn(d, d))[0] for _ in range(3))
        first, second = self.blk[0], self.blk[1]
        for h in range(heads):
            rows = slice(h * hd, (h + 1) * hd)
            r, o, v = read[:, rows].T.clone(), put[:, rows], see[:, rows].T.clone()
            r[:, 0], v[:, 0] = 0, 0
            q, k = first.attn_q.weight[rows], first.attn_k.weight[rows]
            q.mul_(.1), k.mul_(.1)
            q[0:low:2, 0], q[1:low:2, 0] = amplitude, 0
            k[0:low:2, 0], k[1:low:2, 0] = (amplitude * theta.cos())[:low // 2], (amplitude * theta.sin())[:low // 2]
            # The slowest pair takes their sum away again, so that a longer or shorter key does not win by its length.
            q[-2, 0], k[-2, 0] = amplitude * (low // 2) ** .5, -amplitude * (low // 2) ** .5
            first.attn_v.weight[rows] = r
            first.attn_output.weight[:, rows] = o * .08
            q, k = second.attn_q.weight[rows], second.attn_k.weight[rows]
            q.mul_(.1), k.mul_(.1)
            # Only slow rotations may carry content: half of a head's width. A match of it is worth about `match`.
            size = (match * hd ** .5 / low) ** .5 * 1.3
            q[low:] = r[:low] * size
            k[low:] = o.T[:low] * size
            second.attn_v.weight[rows] = v
            second.attn_output.weight[:, rows] = v.T * .3

    def hidden(self, ids, positions=None):
        """ids: i64[batch, time] -> f32[batch, time, embd], normed."""
        x = self.token_embd(ids)
        cos, sin = (c[None, :ids.shape[1]] if positions is None else c[positions] for c in (self.cos, self.sin))
        cos, sin = (c[:, :, None, None].to(self.compute) for c in (cos, sin))
        for b in self.blk:
            x = b(x, cos, sin)
        return self.output_norm(x)

    def logits(self, h):
        return F.linear(h.to(self.compute), self.token_embd.weight.to(self.compute))
