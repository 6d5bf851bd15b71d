"""OpenAI's published document, as what replies are held against: `tests/fixtures/openai`.

It allows fields that it does not name, so a field of ours is no fault. What it does say of a reply is tried out on every
reply: `faults_missed` breaks each one in every place and says which breaks nobody would have noticed.
"""
import copy
import json
import os

import jsonschema

here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, "../fixtures/openai/openapi_trimmed.json")) as file:
    DOCUMENT = json.load(file)
SCHEMAS = DOCUMENT["components"]["schemas"]
# `Model` leaves out that it is an object, and would let anything else be in its place.
for described in SCHEMAS.values():
    if isinstance(described, dict) and "properties" in described:
        described.setdefault("type", "object")


def chunk_of_a_completion():
    """The document has one shape for older completions, whole and streamed, in which the end of a choice and the usage
    cannot be null. Its example of a stream has a null end, and its words on `include_usage` want a null usage."""
    schema = copy.deepcopy(SCHEMAS["CreateCompletionResponse"])
    choice = schema["properties"]["choices"]["items"]["properties"]
    for fields, name in [(choice, "finish_reason"), (schema["properties"], "usage")]:
        fields[name] = {"anyOf": [fields[name], {"type": "null"}]}
    return schema


SCHEMAS["CompletionChunk"] = chunk_of_a_completion()
VALIDATORS = {
    name: jsonschema.Draft202012Validator({"$ref": f"#/components/schemas/{name}", **DOCUMENT}) for name in SCHEMAS
}
# Names of schemas by their events' `type`, so that a fault names the field and not all kinds of events.
EVENTS = {}
for one in SCHEMAS["ResponseStreamEvent"]["anyOf"]:
    schema_name = one["$ref"].rsplit("/", 1)[1]
    EVENTS[SCHEMAS[schema_name]["properties"]["type"]["enum"][0]] = schema_name
# Schemas of callers' own making, which the document lets say anything.
CALLERS_OWN = {"parameters", "schema"}
# What was held against which schema, each shape once.
seen = {}


def shape(value):
    """Names and types, without what is said."""
    if isinstance(value, dict):
        return tuple((name, shape(inner)) for name, inner in sorted(value.items()))
    if isinstance(value, list):
        return tuple(sorted({shape(inner) for inner in value}, key=repr))
    return type(value).__name__


def holds(name, value):
    """Fails with every place where `value` is not what the document calls `name`."""
    faults = [f"{fault.json_path}: {fault.message[:300]}" for fault in VALIDATORS[name].iter_errors(value)]
    assert not faults, f"not a {name}:\n" + "\n".join(faults) + f"\n{json.dumps(value)[:2000]}"
    seen.setdefault(name, {}).setdefault(shape(value), value)
    return value


def breaks(value, at=()):
    """Every place within `value`, and `value` with something impossible there."""
    if isinstance(value, dict):
        places = value.items()
    elif isinstance(value, list):
        # The first of a kind stands for the rest.
        places = {shape(inner): (index, inner) for index, inner in reversed(list(enumerate(value)))}.values()
    else:
        return
    for place, inner in places:
        broken = copy.copy(value)
        broken[place] = {"impossible": None} if isinstance(inner, list) else [None]
        yield (*at, place), broken
        if place in CALLERS_OWN:
            continue
        for path, deeper in breaks(inner, (*at, place)):
            broken = copy.copy(value)
            broken[place] = deeper
            yield path, broken


def faults_missed():
    """Fields that may hold anything, because the document does not name them."""
    missed = set()
    for name, values in seen.items():
        for value in values.values():
            for path, broken in breaks(value):
                if VALIDATORS[name].is_valid(broken):
                    missed.add(".".join(str(step) for step in path if isinstance(step, str)))
    return missed


def required_missed():
    """Required fields at the top of what was seen whose loss nobody would notice."""
    missed = set()
    for name, values in seen.items():
        schema = SCHEMAS[name]
        required = {field for part in schema.get("allOf", [schema]) for field in part.get("required", [])}
        assert required, name
        for value in values.values():
            for field in required:
                lost = {member: inner for member, inner in value.items() if member != field}
                if VALIDATORS[name].is_valid(lost):
                    missed.add(f"{name}.{field}")
    return missed
