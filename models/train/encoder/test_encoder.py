#!/usr/bin/env python3
"""Checks the encoder's recipe: python3 -m unittest discover -s models/train/encoder -p 'test_*.py'

Mutations and the split need only the standard library; the rest runs where torch and gguf are installed and is skipped
elsewhere, and says so.
"""
import contextlib
import importlib.util
import io
import json
import os
import random
import sys
import tempfile
import unittest
import unittest.mock

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import data  # noqa: E402
import mutations  # noqa: E402

HAS_TORCH = all(importlib.util.find_spec(n) for n in ("torch", "gguf"))
WORDS = ["[PAD]"] + [f"[unused{i}]" for i in range(99)] + ["[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##a", "b", "!"]


class Mutations(unittest.TestCase):
    def test_one_seed_gives_the_same_pairs(self):
        text = "How do I send 20 dollars from India to Canada before Monday?"
        made = [mutations.pairs(random.Random(n), text) for n in range(50)]
        self.assertEqual(made, [mutations.pairs(random.Random(n), text) for n in range(50)])
        self.assertGreater(len({kind for pairs in made for kind, _, _ in pairs}), 6)

    def test_each_rule_changes_what_it_names(self):
        rng = random.Random(3)
        for kind, text, allowed in (
            ("number", "book 4 seats", r"^book (?!4 )\d+ seats$"),
            ("antonym", "what is the best phone", "^what is the worst phone$"),
            ("month", "weather in may", "^weather in (?!may)[a-z]+$"),
            ("direction", "convert from usd to gbp", "^convert from gbp to usd$"),
            ("negation", "can i change my pin", "^can i (not|never) change my pin$"),
            ("negation", "i can't log in", "^i can log in$"),
        ):
            for _ in range(20):
                changed = mutations.DIFFERENT[kind](rng, text)
                self.assertRegex(changed, allowed)

    def test_a_rule_that_finds_nothing_says_so(self):
        rng = random.Random(1)
        for kind in ("number", "antonym", "unit", "entity", "month", "direction"):
            self.assertIsNone(mutations.DIFFERENT[kind](rng, "hmm"))

    def test_a_harmless_change_keeps_numbers_and_negation(self):
        rng = random.Random(5)
        for _ in range(300):
            changed = mutations.SAME[rng.choice(list(mutations.SAME))](rng, "please do not pay 30 euros tomorrow")
            if changed:
                self.assertIn("30", changed)
                self.assertTrue("not" in changed or "n't" in changed, changed)


class Split(unittest.TestCase):
    def test_case_and_ends_do_not_move_a_text_across(self):
        for n in range(200):
            self.assertEqual(data.is_withheld(f"Question {n}"), data.is_withheld(f"  question {n} "))

    def test_a_fifth_is_withheld(self):
        share = sum(data.is_withheld(f"question {n}") for n in range(5000)) / 5000
        self.assertAlmostEqual(share, 0.2, delta=0.02)


@unittest.skipUnless(HAS_TORCH, "torch and gguf are not installed")
class Network(unittest.TestCase):
    def model(self, **changes):
        import torch
        from network import Encoder, Shape

        torch.manual_seed(1)
        shape = {"vocabulary": len(WORDS), "width": 64, "layers": 2, "heads": 2, "inner": 96, "positions": 32, **changes}
        return Encoder(Shape(**shape)).eval()

    def test_padding_changes_no_vector(self):
        import numpy as np
        from network import encode

        model = self.model()
        rows = [[101, 104, 102], [101, 104, 105, 106, 107, 106, 104, 102]]
        together, alone = encode(model, rows), [encode(model, [row])[0] for row in rows]
        np.testing.assert_allclose(together, alone, atol=1e-5)

    def test_a_start_weighs_the_tokens_as_asked(self):
        import torch
        from network import encode

        model = self.model(layers=0)
        directions = torch.nn.functional.normalize(torch.randn(len(WORDS), 62), dim=1)
        weights = torch.full((len(WORDS),), 0.01)
        weights[104] = 1.0
        model.start(directions, weights)
        mixed, heavy, light = encode(model, [[104, 106], [104], [106]])
        self.assertGreater(mixed @ heavy, 0.99)
        self.assertLess(mixed @ light, 0.6)

    def test_layers_begin_next_to_nothing(self):
        import torch
        from network import encode

        bag, grown = self.model(layers=0), self.model()
        directions = torch.nn.functional.normalize(torch.randn(len(WORDS), 62), dim=1)
        for model in (bag, grown):
            model.start(directions, torch.full((len(WORDS),), 0.7))
        rows = [[101, 104, 107, 106, 102]]
        self.assertGreater(float((encode(bag, rows) * encode(grown, rows)).sum()), 0.98)

    def test_the_file_holds_the_weights_and_the_words(self):
        import gguf
        import numpy as np

        import export

        model = self.model()
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "e.gguf")
            export.write(path, model, WORDS)
            reader = gguf.GGUFReader(path)
            found = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
            words = [str(bytes(reader.fields["tokenizer.ggml.tokens"].parts[i]), "utf-8")
                     for i in reader.fields["tokenizer.ggml.tokens"].data]
        wanted = export.tensors(model)
        self.assertEqual(set(found), set(wanted))
        for name, x in wanted.items():
            np.testing.assert_allclose(found[name].reshape(x.shape), x, atol=0.02 * (np.abs(x).max() + 1e-6))
        self.assertEqual(words[103:], ["[MASK]", "\u2581a", "a", "\u2581b", "\u2581!"])

    def test_a_file_can_be_gone_on_from(self):
        import numpy as np
        from network import Head, encode

        import export
        import revive

        model, head = self.model(), Head(64, 3)
        with tempfile.TemporaryDirectory() as folder:
            paths = [os.path.join(folder, name) for name in ("e.gguf", "head.json", "last.pt")]
            export.write(paths[0], model, WORDS)
            export.write_head(paths[1], head)
            with unittest.mock.patch.object(sys, "argv", ["", "--model", paths[0], "--head", paths[1], "--out", paths[2]]):
                with contextlib.redirect_stdout(io.StringIO()):
                    revive.main()
            other, other_head = export.load(paths[2])
        rows = [[101, 104, 105, 107, 102], [101, 106, 102]]
        self.assertGreater(float((encode(model, rows) * encode(other, rows)).sum(1).min()), 0.999)
        np.testing.assert_allclose(other_head.a.weight.detach(), head.a.weight.detach(), atol=1e-6)

    def test_the_head_is_written_as_it_computes(self):
        import numpy as np
        import torch
        from export import write_head
        from network import Head

        torch.manual_seed(2)
        head = Head(8, 3)
        u, v = torch.nn.functional.normalize(torch.randn(2, 5, 8), dim=2)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "head.json")
            write_head(path, head)
            with open(path, encoding="utf-8") as f:
                h = json.load(f)
        un, vn = u.numpy(), v.numpy()
        x = np.concatenate([un * vn * 8, np.abs(un - vn) * 8 ** 0.5, (un * vn).sum(1, keepdims=True)], 1)
        inner = np.maximum(x @ np.array(h["hidden"]).reshape(h["inner"], -1).T + h["hidden_bias"], 0)
        np.testing.assert_allclose(inner @ h["out"] + h["out_bias"], head(u, v).detach().numpy(), atol=1e-4)


if __name__ == "__main__":
    unittest.main()
