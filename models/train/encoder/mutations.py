"""Questions changed on purpose: so that the answer changes too (label 0), or so that it does not (label 1).

Word lists and rules are the project's own. Nothing here looks at labelled data.
"""
import re

NUMBER = re.compile(r"\d+")
WORD = re.compile(r"[A-Za-z]+")

ANTONYMS = [tuple(pair.split("/")) for pair in """
best/worst good/bad better/worse increase/decrease raise/lower more/less most/least high/low higher/lower highest/lowest
max/min maximum/minimum before/after open/close opened/closed start/stop begin/end enable/disable enabled/disabled
activate/deactivate add/remove buy/sell buying/selling send/receive sent/received accept/decline accepted/declined
accept/reject allow/block allowed/blocked allow/forbid lock/unlock locked/unlocked freeze/unfreeze on/off in/out up/down
with/without win/lose gain/lose love/hate happy/unhappy happy/sad like/dislike cheap/expensive cheapest/priciest
fast/slow faster/slower long/short longer/shorter big/small large/small largest/smallest bigger/smaller hot/cold old/new
young/old first/last early/late earliest/latest safe/dangerous easy/hard easy/difficult strong/weak rich/poor true/false
right/wrong correct/incorrect possible/impossible legal/illegal always/never everyone/nobody all/none left/right
increase/reduce advantage/disadvantage advantages/disadvantages pros/cons positive/negative male/female man/woman
men/women boy/girl boys/girls husband/wife brother/sister mother/father son/daughter boyfriend/girlfriend import/export
upload/download install/uninstall encode/decode encrypt/decrypt push/pull input/output inside/outside above/below
over/under increase/cut deposit/withdraw deposited/withdrew debit/credit incoming/outgoing domestic/international
public/private online/offline available/unavailable able/unable full/empty heavy/light wet/dry light/dark day/night
morning/evening sunrise/sunset north/south east/west mute/unmute play/pause louder/quieter arrive/depart arrival/departure
success/failure succeed/fail same/different married/single permanent/temporary natural/artificial
include/exclude included/excluded approve/deny pass/fail wake/sleep remember/forget borrow/lend connect/disconnect
ascending/descending vertical/horizontal hardware/software theory/practice cause/effect
""".split()]
UNITS = [row.split("/") for row in """
km/miles/meters/feet kilometers/miles/yards cm/inches/mm kg/pounds/grams/ounces lbs/kg celsius/fahrenheit/kelvin
minutes/hours/seconds minute/hour/second days/weeks/months/years day/week/month/year hour/day hours/days
gb/mb/tb/kb liters/gallons/pints dollars/euros/pounds/rupees/yen dollar/euro/pound/rupee usd/eur/gbp/inr/aud/jpy
percent/degrees cash/card/cheque am/pm kmph/mph weekly/monthly/yearly/daily card/cash bank/card
""".split()]
MONTHS = "january february march april may june july august september october november december".split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
RELATIVE = "today tomorrow yesterday tonight".split()
ENTITIES = [row.split("/") for row in """
india/china/usa/canada/germany/france/japan/brazil/russia/australia/pakistan/spain/italy/mexico/egypt/nigeria/england/uk
indian/chinese/american/canadian/german/french/japanese/russian/spanish/italian/mexican/british/australian
london/paris/delhi/mumbai/bangalore/chennai/pune/tokyo/berlin/boston/chicago/seattle/dallas/miami/denver/sydney/dubai
texas/california/florida/ohio/nevada/oregon/utah/georgia/alaska/hawaii/arizona/colorado
google/facebook/amazon/apple/microsoft/samsung/twitter/instagram/quora/youtube/whatsapp/netflix/uber/linkedin/snapchat
iphone/android/windows/linux/mac ipad/laptop/phone/tablet python/java/javascript/ruby/swift/scala/php/rust
trump/clinton/obama/modi/putin/sanders/gandhi/hitler/einstein/newton/lincoln visa/mastercard/paypal
english/french/hindi/german/spanish/chinese/japanese/arabic/russian/italian/korean/tamil
physics/chemistry/biology/mathematics/economics/history/geography dog/cat/horse/bird/fish/cow
red/blue/green/yellow/black/white/pink/purple/orange pizza/pasta/sushi/burger/salad/soup/steak/rice/chicken
john/mary/david/sarah/michael/anna/james/lisa/robert/susan/paul/julia mom/dad/brother/sister/uncle/aunt/boss/wife
kitchen/bedroom/bathroom/garage/office/hallway guitar/piano/violin/drums engineering/medicine/law/accounting
doctor/lawyer/teacher/engineer/nurse/pilot harvard/stanford/mit/oxford/cambridge jazz/rock/pop/blues/metal/classical
facebook/gmail/outlook/yahoo checking/savings breakfast/lunch/dinner coffee/tea/beer/wine/milk/juice
bus/train/plane/taxi/car/bike football/cricket/tennis/basketball/baseball/hockey/golf
""".split()]
CONTRACTIONS = [tuple(row.split("|")) for row in """
what is|what's;who is|who's;where is|where's;how is|how's;that is|that's;it is|it's;i am|i'm;i have|i've;i will|i'll
i would|i'd;do not|don't;does not|doesn't;did not|didn't;can not|can't;cannot|can't;could not|couldn't;is not|isn't
are not|aren't;was not|wasn't;will not|won't;would not|wouldn't;should not|shouldn't;have not|haven't;has not|hasn't
you are|you're;we are|we're;they are|they're;there is|there's;let us|let's;is not|ain't;cant|can't;dont|don't
whats|what's;im|i'm;ive|i've;doesnt|doesn't;isnt|isn't;wont|won't;going to|gonna;want to|wanna
""".replace("\n", ";").strip(";").split(";")]
BEFORE = ["please ", "can you help me? ", "hi, ", "hello! ", "hey, ", "could you please tell me: ", "quick question: ",
          "i would like to know, ", "excuse me, ", "hey there, ", "can you tell me ", "sorry, ", "good morning. ", "just wondering, "]
AFTER = [" please", " please?", " thanks", " thanks!", " thank you", " thank you in advance.", " thanks in advance", ", thank you!",
         " i appreciate it", " cheers", " pls"]
AUXILIARIES = {"can", "could", "will", "would", "should", "is", "are", "was", "were", "do", "does", "did", "has", "have", "am", "must", "may"}
SUBJECTS = {"i", "you", "we", "they", "he", "she", "it", "there", "my", "your", "the", "a", "any", "people"}


def _table(rows):
    out = {}
    for row in rows:
        for word in row:
            out.setdefault(word, set()).update(w for w in row if w != word)
    return {word: sorted(others) for word, others in out.items()}


TABLES = {"antonym": _table(ANTONYMS), "unit": _table(UNITS), "entity": _table(ENTITIES),
          "month": _table([MONTHS]), "day": _table([DAYS, RELATIVE])}


def _swap(rng, text, table):
    found = [m for m in WORD.finditer(text) if m.group().lower() in table]
    if not found:
        return None
    m = rng.choice(found)
    return text[: m.start()] + rng.choice(table[m.group().lower()]) + text[m.end():]


def number(rng, text):
    found = list(NUMBER.finditer(text))
    if not found:
        return None
    m = rng.choice(found)
    old = m.group()
    kind = rng.random()
    if kind < 0.5:
        new = str(max(0, int(old) + rng.choice([-5, -3, -2, -1, 1, 2, 3, 5, 7, 10])))
    elif kind < 0.8:
        new = "".join(rng.choice("0123456789") for _ in old).lstrip("0") or "1"
    else:
        new = rng.choice([old + "0", old[:-1] or "4", old[::-1]])
    if new == old:
        new = str(int(old) + 1)
    return text[: m.start()] + new + text[m.end():]


def negation(rng, text):
    words = text.split()
    lower = [w.lower().strip(".,?!") for w in words]
    for i, w in enumerate(lower):
        if w in ("not", "never") or w.endswith("n't"):
            kept = {"can't": "can", "won't": "will", "cannot": "can"}.get(w, w.removesuffix("n't"))
            middle = [] if w in ("not", "never") else [kept]
            return " ".join(words[:i] + middle + words[i + 1:])
    spots = []
    for i, w in enumerate(lower[:-1]):
        if w in AUXILIARIES:
            after = i + 2 if lower[i + 1] in SUBJECTS else i + 1
            spots.append(after + 1 if i + 1 < len(lower) and lower[i + 1] in ("my", "your", "the", "a", "any") else after)
    if spots:
        i = min(rng.choice(spots[:2]), len(words))
        return " ".join(words[:i] + [rng.choice(["not", "not", "not", "never"])] + words[i:])
    return "don't " + text if rng.random() < 0.5 else None


def direction(rng, text):
    m = re.search(r"\bfrom (\w+(?: \w+)?) to (\w+)", text, re.I) or re.search(r"\b(\w+) (?:vs\.?|versus|over|into|before|after|than) (\w+)\b", text, re.I)
    if not m or m.group(1).lower() == m.group(2).lower():
        return None
    (a, b), (c, d) = m.span(1), m.span(2)
    return text[:a] + text[c:d] + text[b:c] + text[a:b] + text[d:]


def polite(rng, text):
    if rng.random() < 0.5:
        return rng.choice(BEFORE) + text
    return text.rstrip(" ") + rng.choice(AFTER)


def typo(rng, text):
    found = [m for m in WORD.finditer(text) if len(m.group()) >= 5]
    if not found:
        return None
    m = rng.choice(found)
    w = m.group()
    i = rng.randrange(1, len(w) - 2)
    kind = rng.random()
    if kind < 0.55:
        new = w[:i] + w[i + 1] + w[i] + w[i + 2:]
    elif kind < 0.75:
        new = w[:i] + w[i + 1:]
    elif kind < 0.9:
        new = w[:i] + w[i] + w[i:]
    else:
        new = w[:i] + rng.choice("aeiourstln") + w[i + 1:]
    return None if new == w else text[: m.start()] + new + text[m.end():]


def contraction(rng, text):
    found = []
    for long, short in CONTRACTIONS:
        for old, new in ((long, short), (short, long)):
            m = re.search(rf"\b{re.escape(old)}\b", text, re.I)
            if m:
                found.append((m, new))
    if not found:
        return None
    m, new = rng.choice(found)
    return text[: m.start()] + new + text[m.end():]


def space(rng, text):
    changed = re.sub(r"\s*([?.!,])\s*$", r" \1", text) if rng.random() < 0.5 else text.rstrip("?.! ")
    return changed if changed != text else text + rng.choice(["?", " ?", ".", "!", "??"])


DIFFERENT = {"number": number, "negation": negation, "direction": direction,
             **{kind: (lambda rng, text, table=table: _swap(rng, text, table)) for kind, table in TABLES.items()}}
SAME = {"polite": polite, "typo": typo, "contraction": contraction, "space": space}


def pairs(rng, text):
    """At most one of each label: (kind, changed text, label)."""
    out = []
    for label, rules in ((0, DIFFERENT), (1, SAME)):
        kinds = list(rules)
        rng.shuffle(kinds)
        for kind in kinds:
            changed = rules[kind](rng, text)
            if changed and changed.lower().split() != text.lower().split():
                out.append((kind, changed, label))
                break
    # A changed question in other clothes is still another question.
    if len(out) == 2 and rng.random() < 0.3:
        dressed = SAME[out[1][0]](rng, out[0][1])
        if dressed:
            out[0] = (out[0][0], dressed, 0)
    return out
