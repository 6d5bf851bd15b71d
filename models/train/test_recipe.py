#!/usr/bin/env python3
"""Checks the recipe: python3 -m unittest discover -s models/train -p 'test_*.py'

The generator's tests need only the standard library. The training test runs where torch, tokenizers and gguf are
installed, the template test where jinja2 is; elsewhere they are skipped and say so.
"""
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import corpus  # noqa: E402


def has(*names):
    return all(importlib.util.find_spec(n) for n in names)


def items(split, seed, n):
    w = corpus.Writer(split, seed)
    return [w.item() for _ in range(n)]


class Generator(unittest.TestCase):
    def test_one_seed_gives_the_same_items(self):
        self.assertEqual(items("train", 7, 300), items("train", 7, 300))
        self.assertNotEqual(items("train", 7, 50), items("train", 8, 50))

    def test_the_snapshot_is_what_the_generator_writes(self):
        with open(os.path.join(HERE, "heldout.jsonl"), encoding="utf-8") as f:
            committed = [json.loads(line) for line in f]
        self.assertEqual(len(committed), corpus.SNAPSHOT_COUNT)
        self.assertEqual(committed, corpus.snapshot())

    def test_phrasings_of_the_splits_do_not_meet(self):
        for source in (corpus.FACTS.phrasings, corpus.FACTS.refusals):
            for section, lines in source.items():
                train, held = corpus.lines_of(lines, "train"), corpus.lines_of(lines, "heldout")
                self.assertTrue(train and held, section)
                self.assertTrue(any(l.startswith("~ ") for l in lines), f"{section} holds nothing out")
                self.assertFalse(set(train) & set(held), section)

    def test_frames_make_no_held_out_phrasing(self):
        held, made = corpus.held_shapes(), 0
        for seed in range(3):
            w = corpus.Writer("train", seed)
            for group, own in ((w.lines, corpus.FACTS.phrasings), (w.refusals, corpus.FACTS.refusals)):
                for section, lines in group.items():
                    framed = lines[len(corpus.lines_of(own[section], "train")):]
                    made += len(framed)
                    self.assertFalse({corpus.shape(line) for line in framed} & held, section)
        self.assertGreater(made, 1000)
        self.assertEqual(corpus.Writer("heldout", 1).lines["capital"], corpus.lines_of(corpus.FACTS.phrasings["capital"], "heldout"))

    def test_sums_of_the_splits_do_not_meet(self):
        def sums(split):
            w, out = corpus.Writer(split, 3), set()
            for task in ("t_add", "t_sub", "t_compare") * 700:
                out.add(getattr(w, task)()[1])
            return out
        self.assertFalse(sums("train") & sums("heldout"))

    def test_no_trained_question_is_in_the_evaluation(self):
        with open(os.path.join(HERE, "heldout.jsonl"), encoding="utf-8") as f:
            held = {corpus.prompt(json.loads(line)) for line in f}
        self.assertFalse(held & {corpus.prompt(i) for i in items("train", 1, 6000)})

    def test_answers_are_right(self):
        for split in ("train", "heldout"):
            w = corpus.Writer(split, 11)
            for _ in range(400):
                for task, sign in (("t_add", "+"), ("t_sub", "-"), ("t_mul", "x"), ("t_div", "/")):
                    q, a = getattr(w, task)()
                    x, y, z = map(int, re.fullmatch(r"(\d+) [-+x/] (\d+) = (-?\d+)\.", a).groups())
                    self.assertEqual({"+": x + y, "-": x - y, "x": x * y, "/": x / y if y else None}[sign], z, q)
                q, a = w.t_extract()
                self.assertIn(a, q)
            self.assertIn("{", corpus.dump({}))

    def test_nothing_is_left_unfilled(self):
        for item in items("train", 5, 4000) + items("heldout", 5, 2000):
            if item["task"] not in ("unsure", "tool_call", "tool_result") and len(item["messages"]) < 3:
                self.assertNotRegex(item["messages"][-1]["content"], r"\{\w+\}|\[[^\]]*\|", item["task"])
            self.assertTrue(item["answer"])

    def test_about_a_quarter_is_refused(self):
        share = sum(i["answer"] == corpus.NOT_SURE for i in items("train", 2, 4000)) / 4000
        self.assertTrue(.2 <= share <= .35, share)

    def test_no_outside_question_is_trained_on(self):
        with open(os.path.join(HERE, "outside.jsonl"), encoding="utf-8") as f:
            questions = [json.loads(line)["question"] for line in f]
        self.assertEqual(len(questions), 200)
        plain = lambda t: re.sub(r"[^\w ]", "", t.lower()).strip()
        self.assertEqual(len({plain(q) for q in questions}), 200)
        w = corpus.Writer("train", 12)
        self.assertFalse({plain(q) for q in questions} & {plain(w.t_unsure()[0]) for _ in range(30000)})

    def test_facts_have_every_column(self):
        self.assertGreaterEqual(len(corpus.FACTS.countries), 195)
        for row in corpus.FACTS.countries:
            self.assertTrue(all(row))
        self.assertGreaterEqual(len(corpus.FACTS.definitions), 80)

    def test_the_command_line_writes_json_lines(self):
        out = subprocess.run([sys.executable, os.path.join(HERE, "corpus.py"), "--count", "3", "--seed", "4"], capture_output=True, text=True, check=True).stdout
        self.assertEqual([json.loads(l)["answer"] for l in out.splitlines()], [i["answer"] for i in items("train", 4, 3)])


@unittest.skipUnless(has("jinja2"), "jinja2 is not installed")
class Template(unittest.TestCase):
    def test_training_text_is_what_the_template_renders(self):
        import jinja2
        env = jinja2.Environment()
        env.filters["tojson"] = lambda v: corpus.dump(v)
        with open(os.path.join(HERE, "chat_template.jinja"), encoding="utf-8") as f:
            template = env.from_string(f.read().rstrip("\n"))
        for item in items("train", 21, 3000):
            self.assertEqual(template.render(messages=item["messages"], tools=item.get("tools"), add_generation_prompt=True), corpus.prompt(item))

    def test_arguments_may_be_text_and_content_null(self):
        import jinja2
        with open(os.path.join(HERE, "chat_template.jinja"), encoding="utf-8") as f:
            template = jinja2.Environment().from_string(f.read().rstrip("\n"))
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
        text = template.render(messages=[{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "2"}], add_generation_prompt=True)
        self.assertEqual(text, '<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call><|im_end|>\n'
                               '<|im_start|>user\n<tool_response>\n2\n</tool_response><|im_end|>\n<|im_start|>assistant\n')


@unittest.skipUnless(has("torch", "tokenizers", "gguf", "numpy"), "torch, tokenizers or gguf is not installed")
class Training(unittest.TestCase):
    def test_a_few_steps_train_export_and_read_back(self):
        import torch
        import export
        with tempfile.TemporaryDirectory() as d:
            common = ["--out", d, "--steps", "3", "--layers", "2", "--embd", "64", "--heads", "2", "--ffn", "96", "--vocab", "512", "--batch-tokens", "1024",
                      "--answer-tokens", "50", "--tokenizer-items", "600", "--threads", "1"]
            run = lambda *more: subprocess.run([sys.executable, os.path.join(HERE, "train.py"), *common, *more], check=True, capture_output=True, text=True).stdout
            run()
            run("--resume", os.path.join(d, "last.pt"))
            saved = torch.load(os.path.join(d, "last.pt"), weights_only=True)
            self.assertEqual(saved["step"], 6)
            path = os.path.join(d, "m.gguf")
            subprocess.run([sys.executable, os.path.join(HERE, "export.py"), "--checkpoint", os.path.join(d, "last.pt"), "--out", path], check=True, capture_output=True)
            net, tok = export.load_checkpoint(os.path.join(d, "last.pt"))
            again, tok2 = export.load_gguf(path)
            pieces = corpus.segments(items("train", 9, 1)[0])
            whole = tok.encode("".join(t for t, _ in pieces)).ids
            self.assertEqual(whole, [i for t, _ in pieces for i in tok.encode(t).ids])
            self.assertEqual(whole, tok2.encode("".join(t for t, _ in pieces)).ids)
            kept = dict(again.named_parameters())
            for name, p in net.named_parameters():
                step = p.abs().amax(-1, keepdim=True) / 127  # a q8_0 block's step is at most its row's
                least = 127 * 2**-25 + 1e-6  # the step itself is f16: off by half of its least spacing where it is tiny
                self.assertTrue(((p - kept[name]).abs() <= .6 * step + least).all(), name)
            with torch.no_grad():
                logits = again.logits(again.hidden(torch.tensor([whole])))
            self.assertTrue(logits.isfinite().all())


if __name__ == "__main__":
    unittest.main()
