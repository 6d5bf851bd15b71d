"""The encoder and its pair head.

BERT's arithmetic to the letter (llama.cpp's `bert` graph runs the file), with mean pooling over all tokens, [CLS] and
[SEP] among them. Two things are ours: how it starts, and the head.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

EPS = 1e-12
PAD, UNK, CLS, SEP, MASK = 0, 100, 101, 102, 103
# Two dimensions carry no meaning: LayerNorm gives every token the same length, so what a token shall weigh less in the
# mean goes into these two (with opposite signs, the mean stays 0), and the last gain blanks them out.
DUMP = 2


class Shape:
    def __init__(self, vocabulary=30522, width=256, layers=2, heads=4, inner=512, positions=512):
        self.vocabulary, self.width, self.layers = vocabulary, width, layers
        self.heads, self.inner, self.positions = heads, inner, positions


class Layer(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.heads = s.heads
        self.qkv = nn.Linear(s.width, 3 * s.width)
        self.out = nn.Linear(s.width, s.width)
        self.norm1 = nn.LayerNorm(s.width, eps=EPS)
        self.up = nn.Linear(s.width, s.inner)
        self.down = nn.Linear(s.inner, s.width)
        self.norm2 = nn.LayerNorm(s.width, eps=EPS)
        for linear, std in ((self.qkv, 0.04), (self.up, 0.04), (self.out, 0.01), (self.down, 0.01)):
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)

    def forward(self, x, seen):
        n, t, w = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = self.norm1(x + self.out(y.transpose(1, 2).reshape(n, t, w)))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Encoder(nn.Module):
    """ids: long[texts, tokens], mask: bool[texts, tokens] -> f32[texts, width], not normalised."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.tokens = nn.Embedding(shape.vocabulary, shape.width, sparse=True)
        self.positions = nn.Embedding(shape.positions, shape.width)
        nn.init.zeros_(self.positions.weight)
        self.norm = nn.LayerNorm(shape.width, eps=EPS)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))

    def forward(self, ids, mask, table=None):
        """With a table, ids are its rows instead of the vocabulary's."""
        x = F.embedding(ids, self.tokens.weight if table is None else table)
        x = self.norm(x + self.positions.weight[: ids.shape[1]])
        seen = mask[:, None, None, :]
        for layer in self.layers:
            x = layer(x, seen)
        if not self.layers:
            x = torch.cat([x[..., :-DUMP], torch.zeros_like(x[..., -DUMP:])], -1)
        m = mask[..., None].to(x.dtype)
        return (x * m).sum(1) / m.sum(1)

    @torch.no_grad()
    def start(self, directions, weights):
        """Token rows from distilled directions f32[vocabulary, width - DUMP] (unit length) and weights 0..1."""
        width = self.shape.width
        content = directions * weights[:, None] * (0.97 * width ** 0.5)
        dump = ((width - (content ** 2).sum(1)).clamp(min=0.1) / 2).sqrt()[:, None]
        self.tokens.weight.copy_(torch.cat([content, dump, -dump], 1))
        self.blank()

    @torch.no_grad()
    def blank(self):
        if self.layers:
            self.layers[-1].norm2.weight[-DUMP:] = 0.0


class Head(nn.Module):
    """The logit that two texts may share an answer: an MLP over [u*v*width, |u-v|*sqrt(width), cos] of unit vectors."""

    def __init__(self, width=256, inner=32):
        super().__init__()
        self.width = width
        self.a = nn.Linear(2 * width + 1, inner)
        self.b = nn.Linear(inner, 1)

    def forward(self, u, v):
        x = torch.cat([u * v * self.width, (u - v).abs() * self.width ** 0.5, (u * v).sum(-1, keepdim=True)], -1)
        return self.b(F.relu(self.a(x)))[..., 0]


def padded(rows):
    n = max(map(len, rows))
    ids = torch.full((len(rows), n), PAD, dtype=torch.long)
    mask = torch.zeros(len(rows), n, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.as_tensor(row)
        mask[i, : len(row)] = True
    return ids, mask


@torch.no_grad()
def encode(model, rows, batch=256):
    """Unit vectors f32[rows, width] of token id lists, in the order given."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    out = torch.zeros(len(rows), model.shape.width)
    for i in range(0, len(order), batch):
        part = order[i : i + batch]
        out[part] = F.normalize(model(*padded([rows[j] for j in part])), dim=1)
    return out.numpy()
