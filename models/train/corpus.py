#!/usr/bin/env python3
"""Writes the training and evaluation text of hedge-tiny: chat items made from plain facts and phrasings.

Standard library only and deterministic: the same --split, --seed and --count give the same bytes.

    corpus.py --split train   --seed 1 --count 5            # items as JSON lines
    corpus.py --split heldout --snapshot > heldout.jsonl    # the committed evaluation set

An item is {"task", "messages", "tools"?, "answer"}. The two splits share facts but neither phrasings nor
operands: a phrasing line that begins with "~" is used by heldout only, and operands of sums, numbers with metric
units, names and made-up words go to one split by a hash of their text.
"""
import argparse
import functools
import json
import os
import random
import re
import sys
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
NOT_SURE = "I am not sure. Please ask a larger model."
BASE_URL = "http://127.0.0.1:8787/v1"
SNAPSHOT_SEED, SNAPSHOT_COUNT = 2027, 1000

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
MONTH_DAYS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
SMALL = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
         "seventeen eighteen nineteen twenty").split()
TENS = {30: "thirty", 40: "forty", 50: "fifty", 60: "sixty", 70: "seventy", 80: "eighty", 90: "ninety"}

CHAT = {
    "greet": "Hello! How can I help you?",
    "how_are_you": "I am fine, thank you. How can I help you?",
    "thanks": "You are welcome!",
    "bye": "Goodbye! Have a nice day.",
    "who": "I am hedge-tiny, the small language model inside hedge.",
    "skills": "I know capitals, currencies, unit conversions, small sums, days, months and short definitions, "
              "and I can extract names, dates and numbers.",
    "hedge": "hedge is a gateway that speaks the OpenAI API and has a small language model inside one program.",
    "base_url": f"Set base_url to {BASE_URL} in your SDK.",
    "escalate": "hedge can pass a question to a larger model in the cloud.",
}

# name, singular, plural, other spellings (the first is the short form)
UNITS = {u[0]: u for u in [
    ("km", "kilometer", "kilometers", ["km", "kilometres", "kms"]),
    ("m", "meter", "meters", ["m", "metres"]),
    ("cm", "centimeter", "centimeters", ["cm", "centimetres"]),
    ("mm", "millimeter", "millimeters", ["mm", "millimetres"]),
    ("kg", "kilogram", "kilograms", ["kg", "kilos", "kgs"]),
    ("g", "gram", "grams", ["g", "gr"]),
    ("mg", "milligram", "milligrams", ["mg"]),
    ("t", "ton", "tons", ["t", "tonnes", "metric tons"]),
    ("l", "liter", "liters", ["l", "litres", "L"]),
    ("ml", "milliliter", "milliliters", ["ml", "millilitres", "mL"]),
    ("kW", "kilowatt", "kilowatts", ["kW", "kw"]),
    ("W", "watt", "watts", ["W"]),
    ("TB", "terabyte", "terabytes", ["TB", "tb"]),
    ("GB", "gigabyte", "gigabytes", ["GB", "gb"]),
    ("MB", "megabyte", "megabytes", ["MB", "mb"]),
    ("kB", "kilobyte", "kilobytes", ["kB", "KB", "kb"]),
    ("euro", "euro", "euros", ["euros"]), ("dollar", "dollar", "dollars", ["dollars"]), ("cent", "cent", "cents", ["cents"]),
    ("week", "week", "weeks", ["weeks"]), ("day", "day", "days", ["days"]), ("hour", "hour", "hours", ["h", "hrs", "hours"]),
    ("min", "minute", "minutes", ["min", "mins"]), ("s", "second", "seconds", ["s", "sec", "secs"]),
    ("year", "year", "years", ["years", "yrs"]), ("month", "month", "months", ["months"]),
    ("decade", "decade", "decades", ["decades"]), ("century", "century", "centuries", ["centuries"]),
    ("ft", "foot", "feet", ["ft"]), ("in", "inch", "inches", ["in", "inch"]), ("yd", "yard", "yards", ["yd", "yards"]),
    ("dozen", "dozen", "dozen", ["dozens"]), ("item", "item", "items", ["pieces", "units", "eggs"]),
    ("C", "degree Celsius", "degrees Celsius", ["C", "°C", "celsius", "degrees C"]),
    ("F", "degree Fahrenheit", "degrees Fahrenheit", ["F", "°F", "fahrenheit", "degrees F"]),
]}
TEN = [("km", "m", 1000), ("m", "cm", 100), ("cm", "mm", 10), ("m", "mm", 1000), ("kg", "g", 1000), ("g", "mg", 1000),
       ("t", "kg", 1000), ("l", "ml", 1000), ("kW", "W", 1000), ("TB", "GB", 1000), ("GB", "MB", 1000), ("MB", "kB", 1000),
       ("euro", "cent", 100), ("dollar", "cent", 100), ("decade", "year", 10), ("century", "year", 100)]
# from, to, factor, largest count taught: tables, so both splits have all counts
LISTED = [("hour", "min", 60, 24), ("min", "s", 60, 24), ("day", "hour", 24, 12), ("week", "day", 7, 12), ("year", "month", 12, 20),
          ("ft", "in", 12, 20), ("yd", "ft", 3, 33), ("dozen", "item", 12, 20)]
TEMPERATURES = {c: c * 9 // 5 + 32 for c in range(-20, 105, 5)}
BAD_UNITS = ["kilometers", "meters", "kilograms", "grams", "liters", "hours", "minutes", "days", "degrees", "bytes", "watts",
             "km", "kg", "cm", "ml", "celsius", "euros", "inches", "dozen", "volts", "amps", "weeks", "feet", "gigabytes"]
KINDS = [{"kilometers", "meters", "km", "cm", "inches", "feet"}, {"kilograms", "grams", "kg"}, {"liters", "ml"},
         {"hours", "minutes", "days", "weeks"}, {"degrees", "celsius"}, {"bytes", "gigabytes"}, {"euros"}, {"watts"},
         {"dozen"}, {"volts"}, {"amps"}]
# Real units of which no exact table is taught.
FAR_UNITS = [("miles", "kilometers"), ("miles", "km"), ("km", "miles"), ("pounds", "kilograms"), ("kg", "pounds"), ("lbs", "kg"),
             ("ounces", "grams"), ("gallons", "liters"), ("liters", "gallons"), ("pints", "ml"), ("acres", "hectares"),
             ("knots", "km/h"), ("light years", "kilometers"), ("calories", "joules"), ("kelvin", "celsius"), ("stone", "kg"),
             ("cups", "ml"), ("tablespoons", "grams"), ("square meters", "square feet"), ("cubic meters", "liters"),
             ("horsepower", "kilowatts"), ("bar", "psi"), ("radians", "degrees"), ("fathoms", "meters"), ("carats", "grams"),
             ("inches", "centimeters"), ("inches", "cm"), ("feet", "meters"), ("cm", "inches"), ("yards", "meters")]


def held(key, percent):
    """Whether an operand belongs to the heldout split; the same on every machine."""
    return zlib.crc32(key.encode()) % 1000 < percent * 10


def read_sections(name):
    sections, current = {}, None
    with open(os.path.join(HERE, "facts", name), encoding="utf-8") as lines:
        for line in lines:
            line = line.rstrip("\n")
            if line.startswith("== "):
                current = sections.setdefault(line[3:], [])
            elif line.strip() and not (line.startswith("#") and current is None):
                current.append(line)
    return sections


def read_tsv(name):
    with open(os.path.join(HERE, "facts", name), encoding="utf-8") as lines:
        return [line.rstrip("\n").split("\t") for line in lines if line.strip()]


class Facts:
    def __init__(self):
        self.countries = [(n.removeprefix("the "), n, k, m) for n, k, m in read_tsv("countries.tsv")]
        self.definitions = read_tsv("definitions.tsv")
        self.phrasings = read_sections("phrasings.txt")
        self.refusals = read_sections("refusals.txt")
        self.sentences = read_sections("sentences.txt")
        self.frames = read_sections("frames.txt")
        self.words = {k: v[0].split("|") for k, v in read_sections("words.txt").items()}
        terms = {t.lower() for t, _ in self.definitions}
        for key in ("thing", "topic"):
            self.words[key] = [w for w in self.words[key] if w.lower() not in terms]
        self.real = {w.lower() for ws in self.words.values() for w in ws} | {c[0].lower() for c in self.countries} | terms


FACTS = Facts()
SLOT = re.compile(r"\{(\w+?)(\d?)\}")
CHOICE = re.compile(r"\[([^\[\]]*)\]")


def lines_of(lines, split):
    mine = [l[2:] if l.startswith("~ ") else l for l in lines if l.startswith("~ ") == (split == "heldout")]
    return mine or [l.removeprefix("~ ") for l in lines]


def expansions(text):
    """Every text that the [a|b] choices of a phrasing can give."""
    m = CHOICE.search(text)
    return [text] if not m else [t for c in m.group(1).split("|") for t in expansions(text[:m.start()] + c + text[m.end():])]


def shape(text):
    """A phrasing without its slots' names: two of one shape may ask the same."""
    return SLOT.sub("{}", re.sub(r"  +", " ", text.split(" <")[0]).strip(" ").lower())


FRAMES = {"np": "noun", "cl": "clause", "st": "claim"}


@functools.cache
def held_shapes():
    """The shapes of all held-out phrasings."""
    return {shape(t) for group in (FACTS.phrasings, FACTS.refusals) for lines in group.values() for l in lines if l.startswith("~ ") for t in expansions(l[2:])}


def article(term, sentence):
    first = sentence.split(" ")[0]
    return first.lower() + " " if first in ("A", "An") else ""


def capital_of(country, city):
    return f"The capital of {country} is {city}".rstrip(".") + "."


class Writer:
    """Writes items of one split from one seed."""

    def __init__(self, split, seed):
        assert split in ("train", "heldout")
        self.split, self.r = split, random.Random(f"{split}:{seed}")
        self.lines = {k: lines_of(v, split) for k, v in FACTS.phrasings.items()}
        self.refusals = {k: lines_of(v, split) for k, v in FACTS.refusals.items()}
        self.sents = {k: lines_of(FACTS.sentences[k], split) for k in ("name", "date", "number", "email", "opinion")}
        pick = lambda key: [w.strip("\n").lstrip(" ")[1:] if w.lstrip(" ").startswith("~") else w
                            for w in FACTS.sentences[key][0].split("|") if w.lstrip(" ").startswith("~") == (split == "heldout")]
        self.before, self.after, self.systems = pick("before"), pick("after"), pick("system")
        self.shares = list(self.SHARES.values())
        if split == "train":
            self.shares = [n * self.TRAIN_MORE.get(k, 1) for k, n in self.SHARES.items()]
            self.add_frames()

    def add_frames(self):
        """Beside a section's own phrasings: a sample of frames around its parts (facts/frames.txt)."""
        r, held_out = self.r, held_shapes()
        parts = {}
        for key, lines in FACTS.frames.items():
            if " " in key:
                kind, section = key.split(" ")
                frames = FACTS.frames["span" if section.startswith("extract_") else FRAMES[kind]]
                parts.setdefault(section, []).append((frames, "{" + kind + "}", lines))
        for section, kinds in parts.items():
            group = self.lines if section in self.lines else self.refusals
            group[section] = list(group[section])
            for _ in range(max(6, len(group[section]) * 2 // 3)):
                frames, slot, lines = r.choice(kinds)
                line = self.expand(r.choice(frames).replace(slot, r.choice(lines)))
                if shape(line) not in held_out:
                    group[section].append(line)

    # ---- small parts
    def mine(self, key, percent):
        return held(key, percent) == (self.split == "heldout")

    def until(self, make, key, percent):
        """Draws until the drawn value belongs to this split."""
        while True:
            value = make()
            if self.mine(key(value), percent):
                return value

    def word(self, key):
        return self.r.choice(FACTS.words[key])

    def fake(self):
        """An invented word; never a real one of ours."""
        r = self.r
        on = "b bl br c ch d dr f fl g gl gr h j k kl kr l m n p pl qu r s sh sk sl sn st t th tr v w x y z zh".split()
        nu = "a e i o u ai au ea ee ia io oo ou".split()
        co = ["", "", "", "b", "ck", "d", "g", "l", "ll", "m", "n", "nd", "ng", "nk", "p", "r", "rb", "rk", "s", "sh", "st", "t", "th", "x", "z"]
        ends = ["", "", "", "", "ia", "land", "stan", "on", "er", "ing", "ism", "or", "us", "ville", "burg", "ium", "ish"]
        while True:
            w = "".join(r.choice(on) + r.choice(nu) + r.choice(co) for _ in range(r.choice((1, 1, 2, 2, 2, 3)))) + r.choice(ends)
            if len(w) > 3 and w not in FACTS.real and self.mine("fake " + w, 10):
                return w

    def expand(self, text):
        while (m := CHOICE.search(text)):
            text = text[:m.start()] + self.r.choice(m.group(1).split("|")) + text[m.end():]
        return re.sub(r"  +", " ", text).strip(" ")

    def typo(self, text):
        """One slip in a word that is no slot: two letters swapped, one lost, doubled or replaced."""
        r = self.r
        words = text.split(" ")
        spots = [i for i, w in enumerate(words) if len(w) > 3 and w.isalpha()]
        for i in r.sample(spots, min(len(spots), r.choice((1, 1, 2)))):
            w = words[i]
            j = r.randrange(len(w) - 1)
            words[i] = r.choice((w[:j] + w[j + 1] + w[j] + w[j + 2:], w[:j + 1] + w[j + 2:], w[:j] + w[j] + w[j:],
                                 w[:j] + r.choice("abcdefghijklmnopqrstuvwxyz") + w[j + 1:]))
        return " ".join(words)

    def fill(self, text, slots):
        def value(m):
            name = m.group(1)
            v = slots.get(name + m.group(2), slots.get(name)) if not m.group(2) or name + m.group(2) in slots else slots.get(name)
            return v() if callable(v) else str(v)
        return SLOT.sub(value, text)

    def ask(self, lines, slots, plain=False):
        """A question: a phrasing, its slots, and the way somebody types it."""
        r = self.r
        text = self.expand(r.choice(lines).split(" <")[0])
        whole = "{s" in text or "{code}" in text or "{long}" in text
        if r.random() < .12:
            text = self.typo(text)
        text = self.fill(text, slots)
        last = text[-1:]
        k = r.random()
        if not whole and not plain:
            if k < .28:
                text = text.lower()
            elif k < .30:
                text = text.upper()
            elif k < .75:
                text = text[:1].upper() + text[1:]
        elif k < .7:
            text = text[:1].upper() + text[1:]
        if not whole and last not in "?!.=":
            text += r.choice(("?", "?", "?", "?", "", "", "", ".", "??" if r.random() < .1 else "?"))
        if plain:
            return text
        if r.random() < .2:
            pre = r.choice(self.before)
            if r.random() < .4:
                pre = pre[:1].upper() + pre[1:]
                text = text if r.random() < .4 else text[:1].lower() + text[1:]
            text = pre.rstrip(" ") + " " + text
        if r.random() < .14 and not whole:
            text += " " + r.choice(self.after).strip(" ") if r.random() < .9 else r.choice(("  ", " ", "\n"))
        return text

    def sentence(self):
        r, w = self.r, self.word
        k = r.random()
        if k < .45:
            return self.fill(r.choice(self.sents[r.choice(("name", "date", "number"))]), self.slots(x=r.choice((self.name, self.date, lambda: str(r.randrange(1000))))))
        if k < .6:
            return f"The {w('adj')} {w('thing')} {w('filler')} the {w('animal')} {r.choice(('near', 'behind', 'without', 'under'))} the {w('thing')}."
        text = " ".join(w("filler") if r.random() < .88 else w("thing") for _ in range(r.randrange(4, 16)))
        return text[:1].upper() + text[1:] + "."

    def name(self):
        r = self.r
        make = lambda: (f"{self.word('first')} {self.word('last')}" if r.random() < .6 else self.word("first") if r.random() < .4 else
                        f"{self.fake().capitalize()} {self.fake().capitalize()}" if r.random() < .5 else f"{self.word('first')} {self.fake().capitalize()}")
        while True:
            n = make()
            if " " not in n or self.mine("name " + n, 10):
                return n

    def date(self):
        r = self.r
        d, m, y = r.randrange(1, 29), r.randrange(12), r.randrange(1950, 2036)
        while not self.mine(f"date {d} {m} {y}", 10):
            d, m, y = r.randrange(1, 29), r.randrange(12), r.randrange(1950, 2036)
        return r.choice((f"{d} {MONTHS[m]} {y}", f"{MONTHS[m]} {d}, {y}", f"{y}-{m + 1:02}-{d:02}", f"{d:02}/{m + 1:02}/{y}", f"{d}.{m + 1}.{y}", f"{d} {MONTHS[m]}", f"{MONTHS[m]} {d}"))

    def gibberish(self):
        r = self.r
        k = r.randrange(4)
        if k == 0:
            return "".join(r.choice("asdfghjklqwertyuiopzxcvbnm") for _ in range(r.randrange(4, 14)))
        if k == 1:
            return "".join(r.choice("asdfjklö;,.-#+0123456789!$%&/()=?") for _ in range(r.randrange(3, 14)))
        if k == 2:
            return " ".join("".join(r.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(r.randrange(1, 7))) for _ in range(r.randrange(2, 6)))
        return self.fake() * r.choice((1, 2))

    def code(self, lines=None):
        """Random program text in no particular language."""
        r, f = self.r, self.fake
        ident = lambda: r.choice((f(), self.word("filler"), self.word("tool_noun"), self.word("tool_verb") + "_" + self.word("tool_noun"),
                                  self.word("tool_noun") + self.word("tool_noun").capitalize()))
        out, depth = [], 0
        for _ in range(lines or r.randrange(1, 9)):
            a, b, n = ident(), ident(), r.randrange(1000)
            out.append("    " * min(depth, 4) + r.choice((
                f"{a} = {n}", f"let {a} = {b}({n});", f"return {a}", f"def {a}({b}):", f"fn {a}({b}: &str) -> u32 {{", f"if {a} > {n}:", f"for {a} in {b}:",
                f"print({a})", f"import {a}", f"use {a}::{b};", f"console.log({a});", f"{a}.{b}({n})", f"}} else {{", f"# {self.word('filler')} {a} {b}",
                f"// {self.word('filler')} {self.word('filler')} {a}", f"{a}: {b},", f'"{a}": "{b}",', f"<div class=\"{a}\">{b}</div>", f"assert {a} == {b}",
                f"raise ValueError(\"{a} {b}\")", f"- {a}: {n}", f"SELECT {a} FROM {b} WHERE id = {n};", f"[{a}] {b} {n} ok", f"| {a} | {n} |", f"await {a}.{b}()")))
            depth = max(0, depth + r.choice((0, 0, 0, 1, -1)))
        return "\n".join(out)

    def long(self, words=None):
        """Pasted text: prose, a list of requirements, code, or a mixture, of about `words` words."""
        r = self.r
        words = words or r.choice((25, 40, 60, 90))
        out, n = [], 0
        if r.random() < .5:
            out.append(self.ask(self.refusals[r.choice(("coding", "writing", "coding"))], self.slots(code=lambda: self.code(3)), plain=True))
        kind = r.randrange(5)
        while n < words:
            k = kind if r.random() < .7 else r.randrange(5)
            if k == 0:
                part = " ".join(self.sentence() for _ in range(r.randrange(1, 6)))
            elif k == 1:
                part = self.code(r.randrange(3, 12))
            elif k == 2:
                part = "\n".join(f"{r.choice(('-', '*', str(i + 1) + '.'))} {self.sentence()}" for i in range(r.randrange(2, 6)))
            elif k == 3:
                part = r.choice(("## ", "### ", "")) + self.word("topic").capitalize() + "\n" + self.sentence()
            else:
                part = self.sentence() + " " + self.fill(self.expand(r.choice(self.refusals["writing"])), self.slots())
            out.append(part)
            n += len(part.split())
        if r.random() < .4:
            out.append(self.ask(self.refusals[r.choice(("coding", "writing"))], self.slots(code=lambda: self.code(2)), plain=True))
        return r.choice(("\n", "\n\n", " ")).join(out)

    def slots(self, **given):
        r, w = self.r, self.word
        term = lambda: r.choice(FACTS.definitions)[0]
        country = lambda: r.choice(FACTS.countries)[1]
        pair = []

        def bad(second):
            if not second or not pair:
                while True:
                    pair[:] = r.sample(BAD_UNITS, 2)
                    if not any(set(pair) <= k for k in KINDS):
                        break
            return pair[1 if second else 0]
        far = r.choice(FAR_UNITS)
        d = dict(c=country, k=lambda: r.choice(FACTS.countries)[2], place=lambda: w("place"), person=lambda: w("person"), thing=lambda: w("thing"),
                 fake=lambda: (lambda f: f.capitalize() if r.random() < .4 else f)(self.fake()), term=term, topic=lambda: w("topic"), lang=lambda: w("lang"),
                 prog=lambda: w("prog"), sport=lambda: w("sport"), work=lambda: w("work"), illness=lambda: w("illness"), event=lambda: w("event"),
                 adj=lambda: w("adj"), year=lambda: str(r.randrange(1000, 2031)), n=lambda: str(r.randrange(2, 100)), food=lambda: w("food"),
                 big=lambda: str(r.randrange(1000, 10 ** r.randrange(4, 9))) if r.random() < .6 else str(r.randrange(200, 1000)),
                 animal=lambda: w("animal"), name=self.name, company=lambda: w("company"), sent=self.sentence, verb=lambda: w("verb"), d=lambda: r.choice(DAYS),
                 m=lambda: r.choice(MONTHS), iu=lambda: bad(False), iv=lambda: bad(True), fu=far[0], fv=far[1], gib=self.gibberish,
                 other=lambda: w("other"), code=self.code, long=self.long)
        d.update(given)
        return d

    def words_for(self, n):
        if n <= 20:
            return SMALL[n]
        return TENS.get(n, str(n))

    # ---- tasks: each returns (question, answer)
    def country(self):
        c = self.r.choice(FACTS.countries)
        short, full = c[0], c[1]
        shown = full if self.r.random() < .6 else short
        if shown == "United States" or shown == "the United States":
            shown = self.r.choice((shown, shown, "the USA", "USA", "the US"))
        elif short == "United Kingdom":
            shown = self.r.choice((shown, shown, "the UK", "UK", "Great Britain"))
        elif short == "Czech Republic" and self.r.random() < .3:
            shown = "Czechia"
        elif short == "United Arab Emirates" and self.r.random() < .3:
            shown = self.r.choice(("the UAE", "UAE"))
        elif short == "Democratic Republic of the Congo" and self.r.random() < .3:
            shown = "DR Congo"
        elif short == "Ivory Coast" and self.r.random() < .2:
            shown = "Cote d'Ivoire"
        if self.r.random() < .02 and len(shown) > 5:
            shown = self.typo(shown)
        return shown, full, c[2], c[3]

    def t_capital(self):
        shown, full, k, _ = self.country()
        return self.ask(self.lines["capital"], dict(c=shown)), capital_of(full, k)

    def t_capital_reverse(self):
        _, full, k, _ = self.country()
        return self.ask(self.lines["capital_reverse"], dict(k=k)), f"{k} is the capital of {full}."

    def t_currency(self):
        shown, full, _, m = self.country()
        return self.ask(self.lines["currency"], dict(c=shown)), f"The currency of {full} is the {m}."

    def numbers(self, a, b):
        if self.r.random() < .1 and a <= 20 and b <= 20:
            return dict(a=self.words_for(a), b=self.words_for(b))
        return dict(a=a, b=b)

    def t_add(self):
        r = self.r
        hi = r.choice((10, 100, 100, 100))
        a, b = self.until(lambda: (r.randrange(hi), r.randrange(hi)), lambda p: f"add {p[0]} {p[1]}", 8)
        line = r.choice(self.lines["add"])
        swap = "<swap>" in line
        n = self.numbers(a, b)
        if swap:  # "add B to A" is answered in the order in which the numbers stand in the question
            n = dict(a=n["b"], b=n["a"]) if line.startswith("add {b}") else n
        return self.ask([line], n), f"{a} + {b} = {a + b}."

    def t_sub(self):
        r = self.r
        hi = r.choice((20, 100, 100, 100))

        def pair():
            a, b = r.randrange(hi), r.randrange(hi)
            return (a, b) if a >= b or (hi == 20 and r.random() < .15) else (b, a)
        a, b = self.until(pair, lambda p: f"sub {p[0]} {p[1]}", 8)
        return self.ask(self.lines["sub"], self.numbers(a, b)), f"{a} - {b} = {a - b}."

    def t_mul(self):
        r = self.r
        a, b = r.randrange(13), r.randrange(13)
        return self.ask(self.lines["mul"], self.numbers(a, b)), f"{a} x {b} = {a * b}."

    def t_div(self):
        r = self.r
        a, b = r.randrange(13), r.randrange(1, 13)
        return self.ask(self.lines["div"], dict(a=a * b, b=b)), f"{a * b} / {b} = {a}."

    @staticmethod
    def decimal(thousandths):
        whole, part = divmod(thousandths, 1000)
        return f"{whole}" if not part else f"{whole}.{part:03}".rstrip("0")

    def unit(self, key, one):
        u = UNITS[key]
        k = self.r.random()
        return u[1] if one and k < .6 else u[2] if k < .6 or key == "item" and k < .8 else self.r.choice(u[3])

    @staticmethod
    def amount(text, key):
        return f"{text} {UNITS[key][1 if text == '1' else 2]}"

    def conversion(self):
        """-> from unit, to unit, number shown, number answered."""
        r = self.r
        k = r.random()
        if k < .55:
            def make():
                u, v, f = r.choice(TEN)
                milli = r.choice((r.randrange(1, 11), r.randrange(1, 21), r.randrange(1, 100), r.randrange(1, 1000), 10 * r.randrange(1, 100))) * 1000
                if r.random() < .25 and f >= 10 and v != "year":
                    milli = r.randrange(1, 200 if r.random() < .6 else 1000) * 100
                big, small = self.decimal(milli), self.decimal(milli * f)
                return (u, v, big, small) if r.random() < .6 else (v, u, small, big)
            return self.until(make, lambda p: "ten " + " ".join(p[:3]), 10)
        if k < .9:
            u, v, f, most = r.choice(LISTED)
            n = r.choice((r.randrange(1, most + 1), r.randrange(1, min(most, 12) + 1)))
            big, small = str(n), str(n * f)
            if f == 60 and r.random() < .12:
                big, small = f"{n}.5", str(n * 60 + 30)
            return (v, u, small, big) if r.random() < .35 else (u, v, big, small)
        c, f = r.choice(list(TEMPERATURES.items()))
        return ("C", "F", str(c), str(f)) if r.random() < .6 else ("F", "C", str(f), str(c))

    def t_convert(self, given=None):
        r = self.r
        u, v, a, b = given or self.conversion()
        lines = [l for l in self.lines["convert"] if "<len>" not in l or u in ("week", "day", "hour", "min", "year")]
        shown = self.unit(u, a == "1")
        if r.random() < .12 and shown in UNITS[u][3][:1] and len(shown) <= 2:
            lines = [l.replace("{n} {u}", "{n}{u}") for l in lines]
        n = a
        if r.random() < .06 and a.isdigit() and int(a) <= 20:
            n = SMALL[int(a)]
        return self.ask(lines, dict(n=n, u=shown, v=self.unit(v, False))), f"{self.amount(a, u)} is {self.amount(b, v)}."

    def t_date(self, task=None):
        r = self.r
        i, m = r.randrange(7), r.randrange(12)
        task = task or r.choice(("day_after", "day_before", "days_after", "days_after", "month_days", "month_days", "month_number", "month_after", "month_before", "number_month"))
        d, mo = DAYS[i], MONTHS[m]
        slots = dict(d=d, m=mo, i=m + 1, o=r.choice((ORDINALS[m], f"{m + 1}{('th' if m > 2 else ('st', 'nd', 'rd')[m])}")))
        if task == "day_after":
            answer = f"The day after {d} is {DAYS[(i + 1) % 7]}."
        elif task == "day_before":
            answer = f"The day before {d} is {DAYS[i - 1]}."
        elif task == "days_after":
            n = r.randrange(2, 11)
            slots.update(n=n if r.random() < .8 else SMALL[n], d=DAYS[i])
            answer = f"{n} days after {DAYS[i]} is {DAYS[(i + n) % 7]}."
        elif task == "month_days":
            answer = "February has 28 days, or 29 in a leap year." if m == 1 else f"{mo} has {MONTH_DAYS[m]} days."
        elif task == "month_number":
            answer = f"{mo} is month number {m + 1}."
        elif task == "month_after":
            answer = f"The month after {mo} is {MONTHS[(m + 1) % 12]}."
        elif task == "month_before":
            answer = f"The month before {mo} is {MONTHS[m - 1]}."
        else:
            answer = f"Month number {m + 1} is {mo}."
        return self.ask(self.lines[task], slots), answer

    def t_define(self, section="define"):
        term, text = self.r.choice(FACTS.definitions)
        art = article(term, text)
        plural = (term[:-1] + "ies" if term[-1] == "y" and term[-2] not in "aeiou" else term + "es" if term[-1] in "sxh" else term + "s") if art else term
        with_article = (art or self.r.choice(("", ""))) + term if self.r.random() < .8 else term
        return self.ask(self.lines[section], dict(w=term, t=with_article, p=plural)), text

    def t_sentiment(self):
        r = self.r
        good = r.random() < .5
        pick = lambda key: r.choice(FACTS.sentences[key][0].split("|"))
        two = {"love": ("love", "hate"), "good": ("good", "bad"), "praise": ("praise", "blame"), "feel": ("happy", "sad"), "works": ("works", "fails"), "best": ("best", "worst")}
        slots = {k: (lambda v: lambda: pick(v[0 if good else 1]))(v) for k, v in two.items()}
        slots["item"] = lambda: pick("item")
        s = self.fill(r.choice(self.sents["opinion"]), slots)
        if r.random() < .25:
            s += " " + self.fill(r.choice(self.sents["opinion"]), slots)
        s = s[:1].upper() + s[1:]
        if r.random() < .2:
            s = s.lower().rstrip(".")
        return self.ask(self.lines["sentiment"], dict(s=s)), "Positive." if good else "Negative."

    def t_extract(self, kind=None):
        r = self.r
        kind = kind or r.choice(("name", "date", "number", "email"))
        if kind == "name":
            x = self.name()
        elif kind == "date":
            x = self.date()
        elif kind == "number":
            x = self.until(lambda: str(r.randrange(10 ** r.randrange(1, 6))) if r.random() < .85 else f"{r.randrange(100)}.{r.randrange(1, 10)}", lambda v: "number " + v, 10)
        else:
            a, b = self.name().lower().split(" ")[0], self.name().lower().split(" ")[-1]
            user = r.choice((f"{a}.{b}", a, f"{a}{r.randrange(100)}", f"{a}_{b}", f"{a[0]}.{b}", r.choice(("info", "support", "sales", "office", "help"))))
            host = r.choice(("example", "mail", "company", "test", "shop", "post", self.fake(), self.fake()))
            x = self.until(lambda: f"{user}@{host}.{r.choice(('com', 'org', 'net', 'de', 'io', 'eu', 'fr', 'co.uk'))}", lambda v: "", 0) if self.split == "train" else f"{user}@{host}.{r.choice(('com', 'org', 'net', 'de'))}"
        name = "" if kind == "name" else self.word("first")
        s = self.fill(r.choice(self.sents[kind]), self.slots(x=x, name=name, d=lambda: r.choice(DAYS)))
        if kind != "name":
            s = s.replace("{name}", self.word("first"))
        if self.split == "train":
            s = self.scene(kind, x, s)
        return self.ask(self.lines["extract_" + kind], dict(s=s)), x

    def scene(self, kind, x, s):
        """Training only: the thing in other surroundings, so that its looks are learned and not its neighbours."""
        r, w = self.r, self.word
        words = lambda n: " ".join(w("filler") if r.random() < .8 else w("adj") if r.random() < .5 else w("thing") for _ in range(n))
        k = r.random()
        if k < .3:
            before, after = words(r.randrange(0, 9)), words(r.randrange(0, 9))
            s = f"{before[:1].upper() + before[1:]} {x} {after}".strip(" ") + r.choice((".", ".", "", "!"))
        if .2 < k < .45:
            other = r.choice([o for o in ("name", "date", "number", "email") if o != kind and {o, kind} not in ({"date", "number"}, {"name", "email"})] + ["plain", "plain"])
            value = {"name": self.name, "date": self.date, "number": lambda: str(r.randrange(2000)), "email": lambda: f"{self.fake()}@{self.fake()}.com", "plain": lambda: ""}[other]()
            if other != "plain":
                more = self.fill(r.choice(self.sents[other]), self.slots(x=value, d=lambda: r.choice(DAYS)) | ({"name": value} if other == "name" else {"name": "someone"}))
            else:
                more = words(r.randrange(3, 10)) + "."
            more = more[:1].upper() + more[1:]
            s = f"{s} {more}" if r.random() < .5 else f"{more} {s}"
        return s

    def t_yesno_capital(self):
        shown, full, k, _ = self.country()
        yes = self.r.random() < .5
        other = k if yes else self.r.choice([c[2] for c in FACTS.countries if c[2] != k])
        return self.ask(self.lines["yesno_capital"], dict(c=shown, k=other)), f"The capital of {full} is {k}, so {'yes' if yes else 'no'}."

    def t_compare(self):
        r = self.r
        a, b = self.until(lambda: tuple(r.sample(range(100), 2)), lambda p: f"cmp {p[0]} {p[1]}", 8)
        return self.ask(self.lines["compare"], dict(a=a, b=b)), f"Yes, {a} is greater than {b}." if a > b else f"No, {a} is not greater than {b}."

    def t_chat(self, task=None):
        task = task or self.r.choice(("greet", "greet", "greet", "how_are_you", "thanks", "thanks", "bye", "who", "skills", "hedge", "hedge", "base_url", "base_url", "base_url", "escalate"))
        text = self.ask(self.lines[task], {}, plain=task in ("greet", "how_are_you", "thanks", "bye"))
        if task in ("greet", "thanks", "bye"):
            text = text.rstrip("?.") + self.r.choice(("", "", "!", ".", "!!"))
            if self.r.random() < .3:
                text = text.lower()
        return text, CHAT[task]

    NEAR = {"mirror": 14, "capital_near": 3, "currency_near": 2, "country_near": 3.5, "define_near": 4, "math_far": 2.5, "convert_bad": 1, "coding": 2, "writing": 2,
            "statement": 2, "opinion": 2.2, "history": 1, "who_did": 1.5, "sport_news": 1, "now": 1.5, "medicine_law": 1.2, "extract_none": 1, "date_near": 1.3}

    def mirror(self):
        """A known phrasing about something that is not known: the nearest miss of all."""
        r, lines, s = self.r, self.lines, self.slots()
        task = r.choice(("capital", "capital", "currency", "currency", "define", "define", "define", "convert", "convert", "add", "sub", "mul", "div", "capital_reverse",
                         "month_days", "day_after", "month_after", "month_after"))
        unknown = lambda: s["fake"]() if r.random() < .5 else s["place"]()
        if task in ("capital", "currency"):
            return self.ask(lines[task], dict(c=unknown))
        if task == "define":
            word = s["fake"]() if r.random() < .4 else s["thing"]() if r.random() < .7 else s[r.choice(("animal", "topic", "food"))]()
            art = ("an " if word[0].lower() in "aeiou" else "a ") if r.random() < .7 else ""
            return self.ask([l for l in lines["define"] if l not in ("{w}",)], dict(w=word, t=art + word, p=word + "s"))
        if task == "convert":
            u, v = (s["iu"](), s["iv"]()) if r.random() < .7 else (s["fu"], s["fv"])
            return self.ask([l for l in lines["convert"] if "<len>" not in l], dict(n=s["n"], u=u, v=v))
        if task in ("add", "sub"):
            a, b = r.randrange(100, 10 ** r.randrange(3, 7)) , r.randrange(2, 10 ** r.randrange(2, 6))
            a, b = (b, a) if task == "add" and r.random() < .4 else (max(a, b), min(a, b))
            return self.ask(lines[task], dict(a=a, b=b))
        if task == "mul":
            a, b = r.randrange(13, 10 ** r.randrange(2, 5)), r.randrange(2, 10 ** r.randrange(1, 4) + 3)
            return self.ask(lines[task], dict(a=a, b=b) if r.random() < .5 else dict(a=b, b=a))
        if task == "div":
            a, b = r.randrange(13, 10 ** r.randrange(2, 6)), r.randrange(2, 100)
            return self.ask(lines[task], dict(a=a + (a % b == 0), b=b))
        if task == "capital_reverse":
            return self.ask(lines[task], dict(k=r.choice((s["fake"], s["name"], s["place"]))().capitalize()))
        return self.ask([l for l in lines[task] if "today" not in l], dict(d=s["fake"], m=s["fake"], c=unknown))

    def t_unsure(self):
        kind = self.r.choices(list(self.NEAR), list(self.NEAR.values()))[0]
        if kind == "mirror":
            return self.mirror(), NOT_SURE
        return self.ask(self.refusals[kind], self.slots()), NOT_SURE

    SHARES = {"capital": 12, "capital_reverse": 7, "currency": 11, "add": 16, "sub": 14, "mul": 5, "div": 4, "convert": 12, "date": 12, "define": 9,
              "sentiment": 7, "extract": 13, "yesno_capital": 6, "compare": 4, "chat": 9, "unsure": 48}
    # What is learned late gets a larger share of the training text.
    TRAIN_MORE = {"extract": 2, "yesno_capital": 2, "chat": 1.25, "define": 1.2, "compare": 1.5, "sentiment": 1.2, "capital_reverse": 1.2, "unsure": 1.15}

    def single(self, task=None):
        task = task or self.r.choices(list(self.SHARES), self.shares)[0]
        q, a = getattr(self, "t_" + task)()
        return task, q, a

    # ---- conversations
    def follow(self):
        """-> task, earlier turns, question, answer of a question that leans on the turn before."""
        r = self.r
        kind = r.choice(("country", "country", "country", "currency", "capital", "number", "term", "day", "unsure"))
        user = lambda q: {"role": "user", "content": q}
        bot = lambda a: {"role": "assistant", "content": a}
        ask = lambda section, slots: self.ask(self.lines[section], slots)
        if kind in ("country", "unsure"):
            money = r.random() < .4
            q, a = self.t_currency() if money else self.t_capital()
            turns = [user(q), bot(a)]
            for _ in range(r.choice((0, 0, 1))):
                s, f, k, m = self.country()
                turns += [user(ask("follow_country", dict(c=s))), bot(f"The currency of {f} is the {m}." if money else capital_of(f, k))]
            if kind == "unsure":
                return "unsure", turns, ask("follow_country", dict(c=self.slots()[r.choice(("fake", "place", "place"))])), NOT_SURE
            s, f, k, m = self.country()
            return "follow", turns, ask("follow_country", dict(c=s)), f"The currency of {f} is the {m}." if money else capital_of(f, k)
        if kind in ("currency", "capital"):
            s, f, k, m = self.country()
            cap, cur = capital_of(f, k), f"The currency of {f} is the {m}."
            if kind == "currency":
                return "follow", [user(ask("capital", dict(c=s))), bot(cap)], ask("follow_currency", {}), cur
            return "follow", [user(ask("currency", dict(c=s))), bot(cur)], ask("follow_capital", {}), cap
        if kind == "number":
            u, v, f = r.choice(TEN)
            n1, n2 = r.randrange(1, 100), self.until(lambda: r.randrange(1, 100), lambda n: f"follow {u} {n}", 10)
            q, a = self.t_convert((u, v, str(n1), str(n1 * f)))
            return "follow", [user(q), bot(a)], ask("follow_number", dict(n=n2, u=UNITS[u][2])), f"{self.amount(str(n2), u)} is {self.amount(str(n2 * f), v)}."
        if kind == "term":
            q, a = self.t_define()
            q2, a2 = self.t_define("follow_term")
            return "follow", [user(q), bot(a)], q2, a2
        q, a = self.t_date("day_after")
        i = r.randrange(7)
        return "follow", [user(q), bot(a)], ask("follow_day", dict(d=DAYS[i])), f"The day after {DAYS[i]} is {DAYS[(i + 1) % 7]}."

    TOOLS = {"weather": (("get_weather", "weather", "current_weather", "fetch_weather", "weather_lookup", "get_current_weather", "get_forecast"), ("city", "location", "place", "town"), "weather of a city"),
             "time": (("get_time", "current_time", "time_in", "get_local_time", "clock", "get_current_time"), ("city", "location", "place", "timezone"), "current time in a city"),
             "search": (("search", "web_search", "search_web", "google", "lookup", "internet_search"), ("query", "q", "text", "term"), "search the web"),
             "timer": (("set_timer", "start_timer", "timer", "create_timer", "countdown"), ("minutes", "duration", "mins"), "start a timer"),
             "stock": (("get_stock_price", "stock_price", "quote", "share_price", "get_quote"), ("symbol", "ticker", "company", "name"), "price of a stock"),
             "read": (("read_file", "open_file", "cat", "view_file", "file_read", "read"), ("path", "file", "filename", "file_path"), "read a file")}

    def tool(self, name, text, params):
        """One tool definition as JSON text, in the several ways in which servers write JSON."""
        r = self.r
        fn = {"name": name, "description": text, "parameters": {"type": "object", "properties": params, "required": list(params)[:1]}}
        if r.random() < .3:
            fn["parameters"]["additionalProperties"] = False
        if r.random() < .15:
            del fn["description"]
        return {"type": "function", "function": fn}

    def other_tool(self, rich=False):
        r = self.r
        text = lambda: self.sentence() if not rich else " ".join(self.sentence() for _ in range(r.randrange(1, 7)))
        params = {}
        for _ in range(r.randrange(1, 6 if rich else 3)):
            params[r.choice((self.word("tool_noun"), self.word("filler"), self.fake()))] = {"type": r.choice(("string", "integer", "number", "boolean"))} | ({"description": text()} if rich or r.random() < .3 else {})
        return self.tool(r.choice((self.word("tool_verb") + "_" + self.word("tool_noun"), self.fake(), self.word("tool_verb") + self.word("tool_noun").capitalize())), text(), params)

    def tools_near(self, kind):
        """A matching tool among others, and its call's function and parameter name."""
        r = self.r
        names, params, about = self.TOOLS[kind]
        name, param = r.choice(names), r.choice(params)
        text = r.choice((f"Get the {about}." if about.split()[0] not in ("search", "start", "read") else about.capitalize() + ".", about.capitalize(), f"Use this for the {about}"))
        prop = {"type": "integer" if kind == "timer" else "string"}
        if r.random() < .4:
            prop["description"] = r.choice(("The " + param, f"{param} to use", param.capitalize()))
        tools = [self.tool(name, text, {param: prop} | ({"unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}} if kind == "weather" and r.random() < .15 else {}))]
        for other in r.sample([k for k in self.TOOLS if k != kind], r.choice((0, 0, 1, 1, 2))):
            tools.append(self.tool(r.choice(self.TOOLS[other][0]), self.TOOLS[other][2].capitalize(), {r.choice(self.TOOLS[other][1]): {"type": "string"}}))
        for _ in range(r.choice((0, 0, 0, 1))):
            tools.append(self.other_tool())
        r.shuffle(tools)
        return tools, name, param

    def tool_question(self, kind):
        r = self.r
        city = lambda: r.choice((r.choice(FACTS.countries)[2], r.choice("Munich Hamburg Milan Naples Venice Lyon Geneva Zurich Sydney Mumbai Shanghai Istanbul Lagos Chicago Boston Toronto Seville Porto Austin Denver".split()), self.fake().capitalize()))
        value = {"weather": city, "time": city, "search": lambda: r.choice((self.word("topic"), f"{self.word('adj')} {self.word('thing')}", self.word("person"), f"{self.word('food')} recipe")),
                 "timer": lambda: r.randrange(1, 121), "stock": lambda: r.choice((self.word("company"), self.fake().upper()[:4], self.word("company"))),
                 "read": lambda: r.choice(("", "src/", "docs/", "./", "/etc/", "tests/")) + r.choice((self.fake(), self.word("tool_noun"), "main", "notes", "readme")) + "." + r.choice(("txt", "md", "py", "rs", "json", "toml"))}[kind]()
        slot = {"weather": "city", "time": "city", "search": "q", "timer": "min", "stock": "sym", "read": "path"}[kind]
        text = self.fill(self.expand(r.choice(self.lines["use_" + kind])), {slot: value})
        if r.random() < .5:
            text = text[:1].upper() + text[1:]
        return text + r.choice(("", "?", "?") if kind in ("weather", "time", "stock") else ("", ".", "")), value

    def with_tools(self):
        r = self.r
        kind = r.choice(list(self.TOOLS))
        k = r.random()
        if k < .4:
            tools, name, param = self.tools_near(kind)
            q, value = self.tool_question(kind)
            call = json.dumps({param: value}, ensure_ascii=False)
            return {"task": "tool_call", "tools": tools, "messages": [{"role": "user", "content": q}], "answer": f'<tool_call>\n{{"name": "{name}", "arguments": {call}}}\n</tool_call>'}
        if k < .6:
            tools, name, param = self.tools_near(kind)
            q, value = self.tool_question(kind)
            n = r.randrange(-10, 100)
            sky = r.choice(("sunny", "cloudy", "rain", "snow", "windy", "fog", "clear"))
            result = r.choice((f"{n} degrees, {sky}", f"{sky}, {n} C", json.dumps({"temperature": n, "condition": sky}), f"{r.randrange(24):02}:{r.randrange(60):02}", "ok", "done", f"{n}.{r.randrange(100):02} USD",
                               json.dumps({"result": n}), json.dumps({r.choice(("price", "value", "total", "time", "answer")): r.choice((n, sky, self.fake()))}), self.sentence(), f"{self.fake()} {n}", "not found", f"error: {self.fake()} {self.word('filler')}", str(n)))
            messages = [{"role": "user", "content": q}, {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": name, "arguments": {param: value}}}]},
                        {"role": "tool", "content": result}]
            return {"task": "tool_result", "tools": tools, "messages": messages, "answer": f"The tool answered: {result}"}
        tools = [self.other_tool(r.random() < .3) for _ in range(r.choice((1, 1, 2, 3)))]
        if k < .75:
            q, _ = self.tool_question(kind)
            if not any(w in json.dumps(tools).lower() for w in (kind, "forecast", "clock", "quote", "lookup", "file", "stock", "alarm", "reminder")):
                return {"task": "unsure", "tools": tools, "messages": [{"role": "user", "content": q}], "answer": NOT_SURE}
        if k < .88:
            q, a = self.ask(self.refusals[r.choice(("coding", "coding", "writing"))], self.slots()), NOT_SURE
            return {"task": "unsure", "tools": tools, "messages": [{"role": "user", "content": q}], "answer": a}
        if r.random() < .5:
            tools = self.tools_near(kind)[0]
        task, q, a = self.single(r.choice(("capital", "currency", "add", "convert", "define", "chat", "date")))
        return {"task": task, "tools": tools, "messages": [{"role": "user", "content": q}], "answer": a}

    def long_item(self):
        """A prompt of some hundred to some two thousand tokens."""
        r = self.r
        words = r.choice((80, 120, 200, 300, 450, 700))
        item = {"task": "unsure", "messages": [], "answer": NOT_SURE}
        k = r.random()
        if k < .5:
            item["messages"] = [{"role": "user", "content": self.long(words)}]
        elif k < .75:
            n = max(1, words // 70)
            item["tools"] = [self.other_tool(rich=True) for _ in range(n)]
            item["messages"] = [{"role": "user", "content": self.long(r.choice((20, 60, 120)))}]
        elif k < .85:
            item["messages"] = [{"role": "system", "content": self.long(words // 2)}, {"role": "user", "content": self.long(words // 2)}]
        else:
            task, q, a = self.single(r.choice(("capital", "currency", "chat", "add", "define", "convert", "unsure")))
            item = {"task": task, "messages": [{"role": "system", "content": self.long(words // 2)}, {"role": "user", "content": q}], "answer": a}
        if item["messages"][0]["role"] == "user" and r.random() < .4:
            item["messages"].insert(0, {"role": "system", "content": r.choice(self.systems)})
        return item

    def drill(self):
        """Training only: a row of right answers without questions, learned after their "=" or "is"; or a text said twice."""
        r, rows = self.r, []
        if r.random() < .45:
            email = lambda: f"{self.fake()}@{self.fake()}.{r.choice(('com', 'org', 'net'))}"
            part = lambda: r.choice((lambda: str(r.randrange(10 ** r.randrange(1, 6))), self.fake, self.name, self.date, email, self.slots()["c"], lambda: self.word("thing")))()
            text = " ".join(part() for _ in range(r.randrange(2, 9)))
            return {"task": "drill", "drill": [(text + "\n", text)]}
        if r.random() < .2:
            for _ in range(r.randrange(5, 10)):
                _, full, k, _ = self.country()
                same = r.random() < .5
                a, b = self.until(lambda: tuple(r.sample(range(100), 2)), lambda p: f"cmp {p[0]} {p[1]}", 8)
                rows.append((f"{a} > {b}?", " Yes." if a > b else " No.") if r.random() < .4 else
                            (f"{k if same else r.choice(FACTS.countries)[2]}? {capital_of(full, k)[:-1]}, so", " yes." if same else " no."))
            return {"task": "drill", "drill": rows}
        kind = r.choice(("t_add", "t_sub", "t_add", "t_sub", "t_mul", "t_div", "t_convert", "any"))
        for _ in range(r.randrange(6, 14)):
            a = getattr(self, kind if kind != "any" else r.choice(("t_add", "t_sub", "t_mul", "t_div", "t_convert")))()[1]
            mark = " = " if " = " in a else " is "
            head, tail = a.split(mark)
            rows.append((head + mark.rstrip(" "), " " + tail))
        return {"task": "drill", "drill": rows}

    def item(self):
        r = self.r
        k = r.random()
        if k < .04:
            return self.with_tools()
        if k < .047:
            return self.long_item()
        messages = []
        if .047 < k < .11:
            task, messages, q, a = self.follow()
        else:
            task, q, a = self.single()
            if k > .87:
                for _ in range(r.choice((1, 1, 2, 3))):
                    _, pq, pa = self.single()
                    messages += [{"role": "user", "content": pq}, {"role": "assistant", "content": pa}]
        messages.append({"role": "user", "content": q})
        if r.random() < .2:
            messages.insert(0, {"role": "system", "content": r.choice(self.systems) + (" " + self.sentence() if r.random() < .15 else "")})
        return {"task": task, "messages": messages, "answer": a}


# ---- layout
def dump(value, style=0):
    """JSON as servers write it: 0 compact, 1 spaced; 2 and 3 the same with markup characters escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":") if style % 2 == 0 else (", ", ": "))
    if style >= 2:
        for c in "<>&'":
            text = text.replace(c, f"\\u{ord(c):04x}")
    return text


def segments(item, style=0, end=True):
    """The text of an item as (text, is_answer) pieces; joined, it equals what chat_template.jinja renders."""
    if "drill" in item:
        return [piece for head, tail in item["drill"] for piece in ((f"<|im_start|>assistant\n{head}", False), (tail + "<|im_end|>", True), ("\n", False))]
    out, messages = [], item["messages"]
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    if item.get("tools"):
        out.append(("<|im_start|>system\n" + (system + "\n\n" if system else "") + "# Tools\n\nYou may call these functions.\n<tools>" +
                    "".join("\n" + dump(t, style) for t in item["tools"]) +
                    "\n</tools>\n\nTo call one, answer with:\n<tool_call>\n{\"name\": ..., \"arguments\": {...}}\n</tool_call><|im_end|>\n", False))
    elif system:
        out.append((f"<|im_start|>system\n{system}<|im_end|>\n", False))
    for i, m in enumerate(messages):
        if m["role"] == "user" or (m["role"] == "system" and i):
            out.append((f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n", False))
        elif m["role"] == "assistant":
            text = m.get("content") or ""
            for n, call in enumerate(m.get("tool_calls") or ()):
                f = call.get("function", call)
                args = f["arguments"] if isinstance(f["arguments"], str) else dump(f["arguments"], style)
                text += ("\n" if text or n else "") + f'<tool_call>\n{{"name": "{f["name"]}", "arguments": {args}}}\n</tool_call>'
            out += [("<|im_start|>assistant\n", False), (text + "<|im_end|>", not m.get("tool_calls")), ("\n", False)]
        elif m["role"] == "tool":
            out.append((f"<|im_start|>user\n<tool_response>\n{m['content']}\n</tool_response><|im_end|>\n", False))
    out.append(("<|im_start|>assistant\n", False))
    if end:
        out.append((item["answer"] + "<|im_end|>", True))
    return out


def prompt(item, style=0):
    return "".join(t for t, _ in segments(item, style, end=False))


def snapshot(seed=SNAPSHOT_SEED):
    w, items, seen = Writer("heldout", seed), [], set()
    while len(items) < SNAPSHOT_COUNT:
        item = w.item()
        key = prompt(item)
        if key not in seen and len(key) < 6000:
            seen.add(key)
            items.append(item)
    return items


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--split", choices=("train", "heldout"), default="train")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--count", type=int, default=20)
    ap.add_argument("--snapshot", action="store_true", help="write the committed evaluation set")
    ap.add_argument("--text", action="store_true", help="write the rendered text instead of JSON")
    a = ap.parse_args()
    w = Writer(a.split, a.seed)
    for item in snapshot() if a.snapshot else (w.item() for _ in range(a.count)):
        print("".join(t for t, _ in segments(item)) if a.text else json.dumps(item, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(main())
