"""Replies of a running hedge against OpenAI's published document, whole and event by event.

schema.py HEDGE FAKE_UPSTREAM starts both programs. Every answer is checked for the local model and for a cloud.
"""
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import jsonschema

from checks import Checks

HEDGE, FAKE_UPSTREAM = sys.argv[1:3]
MODELS = ["local", "fake/bench"]
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PARAMETERS = {"type": "object", "properties": {"filter": {"type": "string"}}}
FLAT_TOOL = {"type": "function", "name": "run_tests", "parameters": PARAMETERS, "strict": False}
TOOL = {"type": "function", "function": {"name": "run_tests", "parameters": PARAMETERS}}
# How a cloud of ours is made to call a tool; to everybody else it is a question.
CALL = "[[fake call=run_tests]]"
ENDS = ("response.completed", "response.incomplete", "response.failed")

here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, "../fixtures/openai/openapi_trimmed.json")) as file:
    DOCUMENT = json.load(file)
SCHEMAS = DOCUMENT["components"]["schemas"]
check = Checks("schema")


def validator(name):
    return jsonschema.Draft202012Validator({"$ref": f"#/components/schemas/{name}", **DOCUMENT})


def name_of(reference):
    return reference["$ref"].rsplit("/", 1)[1]


VALIDATORS = {name: validator(name) for name in SCHEMAS}
# By their `type`, so that a fault names the field and not all kinds of events.
EVENTS = {
    SCHEMAS[name_of(one)]["properties"]["type"]["enum"][0]: name_of(one)
    for one in SCHEMAS["ResponseStreamEvent"]["anyOf"]
}


def holds(name, value):
    """Fails with every place where `value` is not what the document calls `name`."""
    faults = [f"{fault.json_path}: {fault.message[:300]}" for fault in VALIDATORS[name].iter_errors(value)]
    assert not faults, f"not a {name}:\n" + "\n".join(faults) + f"\n{json.dumps(value)[:2000]}"
    return value


def send(path, body=None, method=None):
    """Status and text of an answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://{ADDRESS}/v1{path}", data=data, method=method,
        headers={"content-type": "application/json", "cache-control": "no-store"})
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def whole(schema, path, body=None, method=None):
    status, text = send(path, body, method)
    assert status == 200, text
    return holds(schema, json.loads(text))


def datas(path, body):
    """The events of a stream, without comments and the end's mark."""
    status, text = send(path, {**body, "stream": True})
    assert status == 200, text
    lines = [line[len("data: "):] for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def response_events(body):
    """Events of a response's stream, each held against its schema and all against their order."""
    events = datas("/responses", body)
    for number, event in enumerate(events):
        holds(EVENTS[event["type"]], event)
        assert event["sequence_number"] == number, event
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"], kinds
    assert sum(kind in ENDS for kind in kinds) == 1, kinds
    return events


def both(body):
    """A response whole and streamed, for each model; gives the objects."""
    for model in MODELS:
        yield whole("Response", "/responses", {"model": model, **body})
        last = response_events({"model": model, **body})[-1]
        yield holds("Response", last["response"])


@check
def models_are_as_published():
    listed = whole("ListModelsResponse", "/models")
    for model in listed["data"]:
        whole("Model", f"/models/{model['id']}")


@check
def chats_are_as_published():
    cases = [
        {},
        {"logprobs": True, "top_logprobs": 2},
        {"max_tokens": 2},
        {"n": 2, "temperature": 1},
        {"tools": [TOOL]},
        {"response_format": {"type": "json_object"}},
    ]
    for model in MODELS:
        for case in cases:
            text = CALL if "tools" in case else "Say hi."
            body = {"model": model, "temperature": 0, "messages": [{"role": "user", "content": text}], **case}
            whole("CreateChatCompletionResponse", "/chat/completions", body)
            chunks = datas("/chat/completions", {**body, "stream_options": {"include_usage": True}})
            for chunk in chunks:
                holds("CreateChatCompletionStreamResponse", chunk)


@check
def completions_are_as_published():
    for model in MODELS:
        for case in ({}, {"logprobs": 2}, {"max_tokens": 2}):
            body = {"model": model, "prompt": "Once", "max_tokens": 8, "temperature": 0, **case}
            status, text = send("/completions", body)
            if status == 200:
                holds("CreateCompletionResponse", json.loads(text))
                for chunk in datas("/completions", body):
                    holds("CreateCompletionResponse", chunk)
            else:
                holds("ErrorResponse", json.loads(text))


@check
def responses_are_as_published():
    cases = [
        {"input": "Say hi."},
        {"input": "Say hi.", "instructions": "Be short.", "metadata": {"a": "b"}, "user": "ann", "store": False},
        {"input": "Say hi.", "temperature": 0.5, "top_p": 0.9, "truncation": "auto", "service_tier": "flex"},
        {"input": "Say hi.", "top_logprobs": 2, "include": ["message.output_text.logprobs"]},
        {"input": "Say hi.", "reasoning": {"effort": "low", "summary": "auto"}, "parallel_tool_calls": False},
        {"input": "Say hi.", "text": {"format": {"type": "json_object"}, "verbosity": "low"}},
        {"input": "Say hi.", "text": {"format": {
            "type": "json_schema", "name": "s", "strict": True, "schema": {
                "type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
                "additionalProperties": False}}}},
        {"input": CALL, "tools": [FLAT_TOOL], "tool_choice": "auto"},
        {"input": CALL, "tools": [{"type": "function", "name": "run_tests"}],
         "tool_choice": {"type": "function", "name": "run_tests"}},
    ]
    for case in cases:
        for response in both(case):
            assert response["status"] in ("completed", "incomplete"), response
            for name in set(case) - {"input", "include", "text", "tools"}:
                assert response[name] == case[name], (name, response[name])


@check
def a_response_cut_by_its_bound_is_as_published():
    for response in both({"input": "Count to a hundred.", "max_output_tokens": 2}):
        if response["model"] != "bench":
            assert response["status"] == "incomplete", response
            assert response["incomplete_details"] == {"reason": "max_output_tokens"}


@check
def a_response_that_breaks_off_is_as_published():
    events = response_events({"model": "fake/bench", "input": "[[fake cut-after=2]]"})
    assert [event["type"] for event in events[-2:]] == ["response.failed", "error"], events[-2:]
    kept = whole("Response", f"/responses/{events[-2]['response']['id']}")
    assert kept == events[-2]["response"]


@check
def what_is_kept_is_as_published():
    items = [
        {"role": "user", "content": "Run the tests."},
        {"role": "developer", "content": [{"type": "input_text", "text": "Be short."}]},
        {"role": "assistant", "content": "I will."},
        {"type": "message", "role": "assistant", "status": "completed", "id": "msg_x",
         "content": [{"type": "output_text", "text": "Now.", "annotations": []}]},
        {"type": "reasoning", "id": "rs_x", "summary": [{"type": "summary_text", "text": "Hm."}]},
        {"type": "function_call", "call_id": "call_1", "name": "run_tests", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "3 passed"},
    ]
    for model in MODELS:
        made = whole("Response", "/responses", {"model": model, "input": items, "tools": [FLAT_TOOL]})
        path = f"/responses/{made['id']}"
        assert whole("Response", path) == made
        page = whole("ResponseItemList", f"{path}/input_items?limit=4&order=asc")
        rest = whole("ResponseItemList", f"{path}/input_items?order=asc&after={page['last_id']}")
        assert page["has_more"] and not rest["has_more"]
        kinds = [item["type"] for item in page["data"] + rest["data"]]
        assert kinds == ["message"] * 4 + ["reasoning", "function_call", "function_call_output"], kinds
        assert whole("ResponseItemList", f"{path}/input_items?order=asc&after={rest['last_id']}")["data"] == []
        # What was listed and answered can be sent again.
        listed = page["data"] + rest["data"] + made["output"]
        again = {"model": model, "input": [*listed, {"role": "user", "content": "And now?"}]}
        whole("Response", "/responses", again)
        references = [{"type": "item_reference", "id": item["id"]} for item in made["output"]]
        again = {"model": model, "input": [*references, {"role": "user", "content": "And now?"}]}
        whole("Response", "/responses", again)
        following = {"model": model, "input": "And now?", "previous_response_id": made["id"]}
        assert whole("Response", "/responses", following)["previous_response_id"] == made["id"]
        assert send(path, method="DELETE")[0] == 200


@check
def an_image_is_listed_as_published():
    content = [{"type": "input_text", "text": "Hi."}, {"type": "input_image", "image_url": PIXEL}]
    made = whole("Response", "/responses", {"model": "fake/bench", "input": [{"role": "user", "content": content}]})
    listed = whole("ResponseItemList", f"/responses/{made['id']}/input_items")
    assert listed["data"][0]["content"][1]["detail"] == "auto"


@check
def refusals_are_as_published():
    cases = [
        ("/responses", {"model": "local"}),
        ("/responses", {"model": "local", "input": "hi", "tools": [{"type": "web_search"}]}),
        ("/responses", {"model": "none/such", "input": "hi"}),
        ("/responses", {"model": "local", "input": "hi", "previous_response_id": "resp_0"}),
        ("/responses", {"model": "fake/bench", "input": "[[fake status=500]]"}),
        ("/chat/completions", {"model": "local", "messages": []}),
        ("/embeddings", {"model": "none/such", "input": "hi"}),
        ("/responses/resp_0", None),
        ("/models/none", None),
        ("/nowhere", None),
    ]
    for path, body in cases:
        status, text = send(path, body)
        assert 400 <= status < 600, (path, status)
        holds("ErrorResponse", json.loads(text))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_ready(process):
    for _ in range(600):
        assert process.poll() is None, "hedge ended before it was ready"
        try:
            with urllib.request.urlopen(f"http://{ADDRESS}/readyz", timeout=2) as reply:
                if all(backend["state"] == "ready" for backend in json.load(reply)["backends"]):
                    return
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError("hedge did not become ready")


ADDRESS = f"127.0.0.1:{free_port()}"
UPSTREAM = f"127.0.0.1:{free_port()}"
CONFIG = f"""
listen = "{ADDRESS}"
[[upstreams]]
name = "fake"
base_url = "http://{UPSTREAM}/v1"
key = "env:FAKE_KEY"
models = ["bench"]
"""
with tempfile.TemporaryDirectory() as folder:
    config = os.path.join(folder, "hedge.toml")
    log = os.path.join(folder, "log")
    with open(config, "w") as file:
        file.write(CONFIG)
    processes = [subprocess.Popen([FAKE_UPSTREAM, "--listen", UPSTREAM], stdout=subprocess.DEVNULL)]
    try:
        with open(log, "w") as out:
            processes.append(subprocess.Popen(
                [HEDGE, "serve", "--config", config], stdout=out, stderr=out, env={**os.environ, "FAKE_KEY": "unused"}))
        wait_ready(processes[-1])
        status = check.run()
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()
    if status:
        with open(log) as file:
            print(f"--- the server's output:\n{file.read()}", file=sys.stderr)
sys.exit(status)
