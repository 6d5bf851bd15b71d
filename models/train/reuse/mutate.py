"""Questions changed on purpose: in what must not be overlooked, and in what makes no difference.

Every kind is a function of a text and a random source; it gives the changed text, or None where the
text has nothing to change. The words are written here, apart from the guards' own lists, so that what
the guards miss is left for the trees to learn.
"""

import re

OPPOSITES = [
    ("best", "worst"), ("good", "bad"), ("big", "small"), ("long", "short"), ("high", "low"), ("more", "less"),
    ("buy", "sell"), ("open", "close"), ("start", "stop"), ("before", "after"), ("increase", "decrease"),
    ("first", "last"), ("old", "new"), ("male", "female"), ("win", "lose"), ("gain", "lose"), ("with", "without"),
    ("inside", "outside"), ("import", "export"), ("cheap", "expensive"), ("fast", "slow"), ("hot", "cold"),
    ("easy", "difficult"), ("early", "late"), ("happy", "sad"), ("strong", "weak"), ("rich", "poor"),
    ("legal", "illegal"), ("safe", "dangerous"), ("accept", "reject"), ("send", "receive"), ("add", "remove"),
    ("enable", "disable"), ("love", "hate"), ("advantages", "disadvantages"), ("pros", "cons"), ("right", "wrong"),
    ("true", "false"), ("always", "never"), ("up", "down"), ("on", "off"), ("top", "bottom"), ("left", "right"),
    ("public", "private"), ("young", "old"), ("most", "least"), ("major", "minor"), ("same", "different"),
    ("positive", "negative"), ("maximum", "minimum"), ("deposit", "withdraw"), ("lock", "unlock"), ("upload", "download"),
    ("men", "women"), ("man", "woman"), ("boys", "girls"), ("father", "mother"), ("husband", "wife"), ("day", "night"),
    ("possible", "impossible"), ("important", "unimportant"), ("deep", "shallow"), ("dry", "wet"), ("learn", "teach"),
    ("remember", "forget"), ("arrive", "leave"), ("borrow", "lend"), ("clean", "dirty"), ("empty", "full"),
    ("lost", "found"), ("north", "south"), ("east", "west"), ("success", "failure"), ("friend", "enemy"),
]
ENTITIES = (
    "India China Japan France Germany Spain Italy Brazil Canada Mexico Russia Egypt Kenya Norway Poland Turkey Chile "
    "London Paris Berlin Tokyo Delhi Mumbai Boston Chicago Sydney Toronto Madrid Dubai Seoul Google Apple Microsoft "
    "Facebook Amazon Netflix Instagram Twitter Snapchat WhatsApp YouTube Quora Uber Airbnb Spotify Tesla Samsung Nokia "
    "Android Windows Linux Python Java Excel Photoshop Trump Obama Clinton Putin Merkel Einstein Newton Mozart "
    "Visa Mastercard PayPal Harvard Stanford Oxford MIT NASA UK US USA EU UAE"
).split()
UNITS = [
    "seconds minutes hours days weeks months years decades".split(), "second minute hour day week month year decade".split(),
    "grams kilograms pounds ounces tons".split(), "kg lbs oz".split(), "meters feet inches miles kilometers yards".split(),
    "USD EUR GBP INR JPY AUD".split(), "dollars euros pounds rupees yen".split(), "$ € £".split(), "liters gallons pints".split(),
    "MB GB TB KB".split(), "celsius fahrenheit".split(), "cash card cheque".split(),
]
MONTHS = "January February March April June July August September October November December".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
AUX = r"(is|are|was|were|do|does|did|can|could|will|would|should|has|have)"
PRON = r"(i|you|we|they|he|she|it|there|the \w+|my \w+|your \w+|a \w+|people|one)"
WORD_NUMBERS = "two three four five six seven eight nine ten twelve fifteen twenty".split()


def like(word, new):
    """`new` with the capitals of `word`."""
    if word.isupper() and len(word) > 1:
        return new.upper()
    return new[0].upper() + new[1:] if word[:1].isupper() else new


def swap_word(text, found, new):
    return text[: found.start()] + new + text[found.end() :]


def number(text, rng):
    found = list(re.finditer(r"\d+", text))
    if not found:
        found = [m for m in re.finditer(r"[a-z]+", text.lower()) if m.group() in WORD_NUMBERS]
        if not found:
            return None
        m = rng.choice(found)
        return swap_word(text, m, rng.choice([w for w in WORD_NUMBERS if w != m.group()]))
    m = rng.choice(found)
    old = int(m.group()[:15])
    new = max(0, old + rng.choice([-5, -2, -1, 1, 2, 3, 5, 10, 100]))
    return None if str(new) == m.group() else swap_word(text, m, str(new))


def from_lists(text, rng, lists, keep_case=True):
    found = []
    for words in lists:
        lower = {w.lower(): w for w in words}
        for m in re.finditer(r"[A-Za-z]+|[$€£]", text):
            if m.group().lower() in lower:
                found.append((m, [w for w in words if w.lower() != m.group().lower()]))
    if not found:
        return None
    m, others = rng.choice(found)
    new = rng.choice(others)
    return swap_word(text, m, like(m.group(), new) if keep_case else new)


def unit(text, rng):
    return from_lists(text, rng, UNITS)


def month(text, rng):
    return from_lists(text, rng, [MONTHS, DAYS])


def antonym(text, rng):
    return from_lists(text, rng, OPPOSITES)


def entity(text, rng):
    names = {n.lower() for n in ENTITIES}
    found = [m for m in re.finditer(r"[A-Za-z]+", text) if m.group().lower() in names and (len(m.group()) > 2 or m.group().isupper())]
    found += [m for m in re.finditer(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b", text)]
    if not found:
        return None
    m = rng.choice(found)
    new = rng.choice([n for n in ENTITIES if n.lower() != m.group().lower()])
    return swap_word(text, m, new if m.group()[0].isupper() else new.lower())


def word(text, rng, pool):
    """Another word of the same ending in the place of one that carries meaning."""
    found = [m for m in re.finditer(r"[a-z]{5,}", text)]
    if not found or not pool:
        return None
    m = rng.choice(found)
    same = [w for w in rng.sample(pool, min(60, len(pool))) if w[-2:] == m.group()[-2:] and w != m.group()]
    return swap_word(text, m, same[0]) if same else None


def direction(text, rng):
    m = re.search(r"\bfrom (\w+) to (\w+)", text)
    if m:
        return swap_word(text, m, f"from {m.group(2)} to {m.group(1)}")
    m = re.search(r"\b(\w{3,}) (better|worse|faster|bigger|older|more \w+|less \w+|cheaper) than (\w{3,})", text)
    if m:
        return swap_word(text, m, f"{m.group(3)} {m.group(2)} than {m.group(1)}")
    m = re.search(r"\b(\w{4,}) (into|over|against|before|after|by|to) (\w{4,})", text)
    if m:
        return swap_word(text, m, f"{m.group(3)} {m.group(2)} {m.group(1)}")
    return None


def negation(text, rng):
    m = re.search(rf"\b{AUX} {PRON}\b(?! not)", text, re.I)
    if m:
        return text[: m.end()] + " not" + text[m.end() :]
    m = re.search(rf"\b{AUX}\b(?! not)", text, re.I)
    return text[: m.end()] + " not" + text[m.end() :] if m else None


def polite(text, rng):
    before = ["Please tell me: ", "Hi, ", "Hello! ", "Hi there, quick question: ", "Could you tell me ", "Can you help me? ", "Hey, ", "Please: ", "I would like to know: ", "Excuse me, "]
    after = [" please", " Thanks!", " Thank you.", ", please?", " Thanks in advance"]
    return rng.choice(before) + text if rng.random() < 0.6 else text.rstrip() + rng.choice(after)


def case(text, rng):
    new = text.lower().rstrip("?!. ") if rng.random() < 0.7 else text.upper() if rng.random() < 0.2 else text.lower()
    return new if new != text else text.capitalize() if text.capitalize() != text else None


def typo(text, rng):
    found = [m for m in re.finditer(r"[A-Za-z]{5,}", text)]
    if not found:
        return None
    m = rng.choice(found)
    w = m.group()
    at = rng.randrange(1, len(w) - 2)
    kind = rng.random()
    if kind < 0.6:
        new = w[:at] + w[at + 1] + w[at] + w[at + 2 :]
    elif kind < 0.75:
        new = w[:at] + w[at + 1 :]
    elif kind < 0.88:
        new = w[:at] + w[at] + w[at:]
    else:
        new = w[:at] + rng.choice("aeionrtls") + w[at + 1 :]
    return swap_word(text, m, new) if new != w else None


SHORTER = [
    (r"\b(what|who|where|how|that|it|there|he|she) is\b", r"\1's"), (r"\bI am\b", "I'm"), (r"\b(you|we|they) are\b", r"\1're"),
    (r"\b(do|does|did|is|are|was|were|has|have|could|would|should) not\b", r"\1n't"), (r"\bcan not\b|\bcannot\b", "can't"),
    (r"\bI have\b", "I've"), (r"\bI will\b", "I'll"), (r"\bI would\b", "I'd"), (r"\bwill not\b", "won't"),
]
LONGER = [
    (r"\b(what|who|where|how|that|it|there|he|she)'s\b", r"\1 is"), (r"\bI'm\b", "I am"), (r"\b(you|we|they)'re\b", r"\1 are"),
    (r"\b(do|does|did|is|are|was|were|has|have|could|would|should)n't\b", r"\1 not"), (r"\bcan't\b", "cannot"), (r"\bI've\b", "I have"),
    (r"\bI'll\b", "I will"), (r"\bI'd\b", "I would"), (r"\bwon't\b", "will not"),
]


def contraction(text, rng):
    for old, new in rng.sample(SHORTER + LONGER, len(SHORTER + LONGER)):
        changed = re.sub(old, new, text, flags=re.I, count=1)
        if changed != text:
            return changed
    return None


def space(text, rng):
    words = text.split()
    new = "".join(w + (" " if rng.random() < 0.6 else "  ") for w in words).rstrip()
    new = "  " * (rng.random() < 0.5) + re.sub(r"([?.!])$", r" \1", new)
    return new if new != text else text + " ?"


DIFFERENT = {"number": number, "unit": unit, "month": month, "antonym": antonym, "entity": entity, "direction": direction, "negation": negation}
SAME = {"polite": polite, "case": case, "typo": typo, "contraction": contraction, "space": space}
