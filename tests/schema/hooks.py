"""What schemathesis is told beside the document.

Bodies are made from the document's schemas, and a schema cannot say which models there are, that the
reply's length costs time, or that one field is only for requests with another. So three of four bodies
are *settled* before they are sent: what would get them refused at the door is put right, and whatever
else the generator put there, right or wrong, stays. The fourth goes as it was made.

Lines of JSON, which a schema for a whole body says nothing about, are held to that of one line here.
Everything that was sent is counted, by operation and status, into $SCHEMA_COUNTS, and what failed is
written beside it at once: schemathesis itself tells of it at its end, which a long run may not see.
"""

import atexit
import collections
import copy
import itertools
import json
import os
import threading
import time
import urllib.request
import zlib

import hypothesis.internal.lambda_sources as lambda_sources
import jsonschema_rs
import schemathesis

CHAT_MODEL = os.environ.get("SCHEMA_MODEL", "local")
EMBED_MODEL = os.environ.get("SCHEMA_EMBED_MODEL", "embed-tiny")
RANK_MODEL = os.environ.get("SCHEMA_RANK_MODEL", "rank-tiny")
# Where chats are asked, also while the admin listener is.
API = os.environ["SCHEMA_API"]
ADMIN = os.environ.get("SCHEMA_ADMIN", "")
KEY = os.environ.get("SCHEMA_KEY", "")
# Keys and teams that this process made, to be asked about: so many of each, so that none ever finds the node full.
NAMES_MAX = 16
NAMED = ("/admin/v1/keys", "/admin/v1/teams")
OUTPUT_TOKENS_MAX = 4
CHOICES_MAX = 2
# Of the responses that were made last, to be asked about and gone on from.
KEPT_MAX = 64
# How often the request that feedback and explanations are about is made anew: of the latest 4,096 alone
# something is remembered.
ANSWERED_EVERY = 256
# So that a run that is cut off leaves its counts.
WRITE_EVERY = 250

# Hypothesis parses its own source to describe a lambda, and Python 3.11 cannot always do so deep within
# calls ("AST constructor recursion depth mismatch"). The words are for people alone.
describe = lambda_sources._lambda_description


def describe_or_not(function):
    try:
        return describe(function)
    except SystemError:
        return "lambda ...: ..."


lambda_sources._lambda_description = describe_or_not

lock = threading.Lock()
counts = collections.defaultdict(collections.Counter)
kept = collections.deque(maxlen=KEPT_MAX)
answered = {"id": None, "uses": 0}
made = collections.defaultdict(list)
numbers = itertools.count()


def chance(case) -> int:
    """A number that the case alone decides."""
    said = json.dumps([case.path, case.path_parameters, case.body], default=repr, sort_keys=True)
    return zlib.crc32(said.encode(errors="replace"))


def kept_id(number: int, leaves: bool = False) -> str | None:
    """One that is to be deleted is not asked for again, and the last few stay."""
    with lock:
        if leaves:
            return kept.popleft() if len(kept) > KEPT_MAX // 2 else None
        return kept[number % len(kept)] if kept else None


def answered_id() -> str:
    """A request that the cache had a part in."""
    with lock:
        if answered["uses"] % ANSWERED_EVERY == 0:
            body = {"model": "target", "max_tokens": OUTPUT_TOKENS_MAX, "messages": [{"role": "user", "content": "hi"}]}
            head = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
            asked = urllib.request.Request(f"{API}/v1/chat/completions", json.dumps(body).encode(), head)
            with urllib.request.urlopen(asked, timeout=60) as reply:
                answered["id"] = reply.headers["x-request-id"]
        answered["uses"] += 1
        return answered["id"]


def made_name(place: str, leaves: bool) -> str:
    """A key or team that there is. One that is to be deleted is not asked for again."""
    with lock:
        names = made[place]
        if len(names) < NAMES_MAX or leaves:
            name = fresh_name()
            body = {"name": name} | ({"team": "default"} if place.endswith("keys") else {})
            head = {"content-type": "application/json"}
            urllib.request.urlopen(
                urllib.request.Request(ADMIN + place, json.dumps(body).encode(), head), timeout=60
            ).close()
            if leaves:
                return name
            names.append(name)
        return names[len(names) // 2]


def fresh_name() -> str:
    return f"n-{os.getpid()}-{next(numbers)}"


@schemathesis.hook
def before_call(context, case, kwargs):
    number = chance(case)
    if number % 4 == 0:
        return
    # The generator may make further cases of the same objects.
    case.path_parameters = copy.deepcopy(case.path_parameters)
    case.body = copy.deepcopy(case.body)
    settle_path(case, number)
    settle_headers(case)
    if case.path.startswith(NAMED):
        settle_named(case, number)
    elif isinstance(case.body, dict):
        settle_body(case.path, case.body, number)


def settle_named(case, number: int) -> None:
    """Keys and teams: one that there is, and words that could be somebody's."""
    place = next(place for place in NAMED if case.path.startswith(place))
    if isinstance(case.path_parameters, dict) and "name" in case.path_parameters:
        case.path_parameters["name"] = made_name(place, leaves=case.method.upper() == "DELETE")
    body = case.body
    if not isinstance(body, dict) or number % 8 == 1:
        return
    if case.path == place and "name" in body:
        # As many as are made, so many are taken away at once.
        body["name"] = fresh_name()
    if "team" in body:
        body["team"] = "default"
    if body.get("networks") is not None and "networks" in body:
        body["networks"] = ["10.0.0.0/8"]
    for name in ("limits", "user_limits"):
        if body.get(name):
            body[name] = [{"count": "requests", "amount": 5 + number % 100, "per": "day"}]
    if "expires_in" in body:
        body.pop("expires_at", None)
        body["expires_in"] = "30d"
    elif body.get("expires_at") is not None and "expires_at" in body:
        body["expires_at"] = int(time.time()) + 3600
    if "overlap" in body:
        body["overlap"] = "0s"


def settle_path(case, number: int) -> None:
    if not isinstance(case.path_parameters, dict) or "id" not in case.path_parameters:
        return
    if case.path.startswith("/v1/responses/"):
        found = kept_id(number, leaves=case.method.upper() == "DELETE")
        if found is not None:
            case.path_parameters["id"] = found
    elif case.path.startswith(("/admin/v1/cache/requests/", "/admin/v1/records/")):
        case.path_parameters["id"] = answered_id()
    elif case.path.startswith("/v1beta/"):
        # A name with a slash is one segment of this path, so the one alias without is asked.
        case.path_parameters["id"] = "target"
    else:
        case.path_parameters["id"] = CHAT_MODEL


# What a header says is held against its rules before the body is: so that bodies are asked about, it goes.
RULED_HEADERS = ("x-hedge-priority", "x-hedge-cache-tags")


def settle_headers(case) -> None:
    case.headers = copy.deepcopy(case.headers)
    for name in RULED_HEADERS:
        if case.headers and name in case.headers:
            case.headers.pop(name)


def settle_body(path: str, body: dict, number: int) -> None:
    for name in ("model", "name"):
        if isinstance(body.get(name), str):
            body[name] = model_for(path)
    for place in (body, body.get("options"), body.get("generationConfig")):
        if isinstance(place, dict):
            settle_numbers(place)
            settle_pairs(place)
    settle_tools(body)
    if path == "/v1/feedback" and isinstance(body.get("request_id"), str):
        body["request_id"] = answered_id()
    if isinstance(body.get("previous_response_id"), str):
        body["previous_response_id"] = kept_id(number)
    if number % 8 < 6:
        for name in ("messages", "contents", "input"):
            only_text(body.get(name))
        body.pop("images", None)


def model_for(path: str) -> str:
    if "embed" in path:
        return EMBED_MODEL
    if "rank" in path:
        return RANK_MODEL
    if "tokenize" in path or "template" in path:
        return "local"
    return CHAT_MODEL


def is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def settle_numbers(place: dict) -> None:
    """Replies are short and few."""
    for name in ("max_tokens", "max_completion_tokens", "num_predict", "maxOutputTokens"):
        if is_count(place.get(name)) and (place[name] > OUTPUT_TOKENS_MAX or place[name] < 0):
            place[name] = OUTPUT_TOKENS_MAX
    for name in ("n", "best_of", "candidateCount"):
        if is_count(place.get(name)) and place[name] > CHOICES_MAX:
            place[name] = CHOICES_MAX
    if is_count(place.get("max_tokens")) and "max_completion_tokens" in place:
        place["max_completion_tokens"] = place["max_tokens"]
    if "best_of" in place:
        place["best_of"] = place.get("n", 1)


def settle_pairs(place: dict) -> None:
    """Fields that are only for requests with another."""
    if place.get("stream") is not True:
        place.pop("stream_options", None)
    if place.get("logprobs") is not True and not is_count(place.get("logprobs")):
        place.pop("top_logprobs", None)
    if place.get("responseLogprobs") is not True and is_count(place.get("logprobs")):
        if "responseMimeType" in place or "topK" in place or "topP" in place:
            place.pop("logprobs", None)
    if place.get("echo") is True:
        place.pop("logprobs", None)
    if "repetition_penalty" in place and "repeat_penalty" in place:
        place["repeat_penalty"] = place["repetition_penalty"]
    if isinstance(place.get("response_format"), dict):
        place.pop("structured_outputs", None)
    if isinstance(place.get("responseSchema"), dict):
        place.pop("responseJsonSchema", None)
    if place.get("raw") is True:
        place.pop("system", None)


def settle_tools(body: dict) -> None:
    """A choice is of the tools that there are."""
    tools = body.get("tools")
    named = body.get("tool_choice")
    if not (isinstance(tools, list) and tools and isinstance(tools[0], dict)):
        if isinstance(named, (dict, str)):
            body.pop("tool_choice")
        body.pop("toolConfig", None)
        return
    first = tools[0].get("function") if isinstance(tools[0].get("function"), dict) else tools[0]
    if isinstance(named, dict) and isinstance(first.get("name"), str):
        if isinstance(named.get("function"), dict):
            named["function"]["name"] = first["name"]
        elif "name" in named:
            named["name"] = first["name"]


# Nor is there a call before each of the results that the generator makes.
MEDIA = ("functionResponse", "image_url", "input_audio", "file", "image", "document", "inlineData", "fileData",
         "input_image", "input_file")


def only_text(messages) -> None:
    """Neither the model on this machine nor the other one sees pictures."""
    if not isinstance(messages, list):
        return
    for message in messages:
        if not isinstance(message, dict):
            continue
        message.pop("images", None)
        for name in ("content", "parts"):
            parts = message.get(name)
            if isinstance(parts, list):
                message[name] = [text_of(part, name) for part in parts]


def text_of(part, name: str):
    if not isinstance(part, dict):
        return part
    if part.get("type") in MEDIA or any(key in part for key in MEDIA):
        return {"text": "a"} if name == "parts" else {"type": "text", "text": "a"}
    if isinstance(part.get("content"), list):
        part["content"] = [text_of(inner, "content") for inner in part["content"]]
    return part


@schemathesis.hook
def after_call(context, case, response):
    label = f"{case.operation.method.upper()} {case.operation.path}"
    if case.method.upper() != case.operation.method.upper():
        label = "other methods"
    with lock:
        counts[label][response.status_code] += 1
        count = sum(by.total() for by in counts.values())
    if count % WRITE_EVERY == 0:
        write_counts()
    if case.path in NAMED and response.status_code == 201:
        take_away(case.path, response)
    if case.path == "/v1/responses" and response.status_code == 200:
        try:
            made = response.json()
        except ValueError:
            return
        if isinstance(made, dict) and made.get("store") is True:
            with lock:
                kept.append(made["id"])


def take_away(place: str, response) -> None:
    """What a case made goes again, so that a long run does not find the node full."""
    told = response.json()
    name = told["key"]["name"] if "key" in told else told["name"]
    path = f"{ADMIN}{place}/{name}"
    urllib.request.urlopen(urllib.request.Request(path, method="DELETE"), timeout=60).close()


@schemathesis.hook
def after_validate(context, case, response, results):
    path = os.environ.get("SCHEMA_COUNTS")
    failed = [result for result in results if result.failure is not None]
    if not failed or not path:
        return
    with lock, open(path + ".failed", "a", encoding="utf-8") as file:
        for result in failed:
            asked = f"{case.method} {case.path} {json.dumps(case.body, default=repr)[:2000]}"
            file.write(f"{result.name}: {response.status_code}, {result.failure}\n    {asked}\n")


LINES = {"/api/chat": "OllamaChat", "/api/generate": "OllamaGenerated"}


def line_validator(name: str):
    with open(os.environ["SCHEMA_DOCUMENT"], encoding="utf-8") as file:
        components = json.load(file)["components"]
    line = {"anyOf": [{"$ref": f"#/components/schemas/{name}"}, {"$ref": "#/components/schemas/OllamaError"}]}
    return jsonschema_rs.validator_for({**line, "components": components})


validators = {path: line_validator(name) for path, name in LINES.items()}


@schemathesis.check
def ndjson_lines_conformance(context, response, case):
    kind = response.headers.get("content-type", [""])[0]
    if kind != "application/x-ndjson":
        return
    lines = response.text.split("\n")
    assert lines.pop() == "", "the last line has no end"
    for line in lines:
        fault = next(iter(validators[case.operation.path].iter_errors(json.loads(line))), None)
        assert fault is None, f"{fault} in {line}"
    last = json.loads(lines[-1])
    assert last.get("done") is True or "error" in last, f"no last line: {lines[-1]}"


@atexit.register
def write_counts() -> None:
    path = os.environ.get("SCHEMA_COUNTS")
    if path and counts:
        with open(path, "w", encoding="utf-8") as file:
            json.dump({name: dict(sorted(by.items())) for name, by in sorted(counts.items())}, file)
