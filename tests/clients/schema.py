"""Replies of a running hedge against OpenAI's published document, whole and event by event.

schema.py HEDGE FAKE_UPSTREAM starts both programs and the clouds of `exchanges.py`. Every answer is checked for the local
model and for a cloud, and what clouds of other dialects say for each of those.
"""
import base64
import http.client
import json
import os
import struct
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

import exchanges
import published
from checks import Checks
from published import EVENTS, holds
from serving import free_port, wait_ready

HEDGE, FAKE_UPSTREAM = sys.argv[1:3]
MODELS = ["local", "fake/bench"]
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PARAMETERS = {"type": "object", "properties": {"filter": {"type": "string"}}}
FLAT_TOOL = {"type": "function", "name": "run_tests", "parameters": PARAMETERS, "strict": False}
TOOL = {"type": "function", "function": {"name": "run_tests", "parameters": PARAMETERS}}
# With an answer of one word, so that no small model talks on.
SHORT = {"type": "object", "properties": {"filter": {"enum": ["all", "slow"]}}, "required": ["filter"]}
SHORT_TOOL = {"type": "function", "function": {
    "name": "run_tests", "strict": True, "parameters": {**SHORT, "additionalProperties": False}}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
# How a cloud of ours is made to call a tool; to everybody else it is a question.
CALL = "[[fake call=run_tests]]"
ENDS = ("response.completed", "response.incomplete", "response.failed")
# What is ours in replies, or free by what it is.
UNNAMED = {
    # Thoughts, as DeepSeek and vLLM have them; and what their maker proves a call with.
    "choices.message.reasoning_content", "choices.delta.reasoning_content",
    "output.encrypted_content", "item.encrypted_content", "response.output.encrypted_content",
    "data.encrypted_content",
    # As Google's endpoint for OpenAI's clients has it.
    *(f"choices.{said}.tool_calls.extra_content{part}"
      for said in ["message", "delta"] for part in ["", ".google", ".google.thought_signature"]),
    # What OpenAI's own replies have beside what is published.
    "store", "response.store", "logprobs.bytes", "logprobs.top_logprobs.bytes",
    # As some providers have it in their lists of models.
    "context_length", "data.context_length",
}

here = os.path.dirname(os.path.abspath(__file__))
check = Checks("schema")
# Kinds of events that the model on this machine made.
local_kinds = set()


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
    except http.client.IncompleteRead as cut:
        # After an error within a stream the connection is cut.
        return 200, cut.partial.decode()


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


def chat(body):
    """The reply to a chat and the chunks of one, all held."""
    reply = whole("CreateChatCompletionResponse", "/chat/completions", body)
    chunks = datas("/chat/completions", {**body, "stream_options": {"include_usage": True}})
    for chunk in chunks:
        holds("CreateChatCompletionStreamResponse", chunk)
    assert chunks[-1]["usage"] and chunks[-1]["choices"] == [], chunks[-1]
    return reply, chunks


def deltas(chunks, name):
    """Of a stream's choices, what the fields of that name hold."""
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    held = [choice.get(name) or choice.get("delta", {}).get(name) for choice in choices]
    return [one for one in held if one]


def response_events(body):
    """Events of a response's stream, each held against its schema and all against their order."""
    events = datas("/responses", body)
    for number, event in enumerate(events):
        holds(EVENTS[event["type"]], event)
        assert event["sequence_number"] == number, event
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"], kinds
    assert sum(kind in ENDS for kind in kinds) == 1, kinds
    if body["model"] == "local":
        local_kinds.update(kinds)
    return events


def respond(body):
    """A response whole and streamed; gives both objects."""
    yield whole("Response", "/responses", body)
    last = response_events(body)[-1]
    yield holds("Response", last["response"])


def both(body):
    """A response whole and streamed, for each model; gives the objects."""
    for model in MODELS:
        yield from respond({"model": model, **body})


@check
def models_are_as_published():
    listed = whole("ListModelsResponse", "/models")
    assert {"local", "embed-tiny", "fake/bench", "gemini/text"} <= {model["id"] for model in listed["data"]}, listed
    for model in listed["data"]:
        whole("Model", f"/models/{model['id']}")


@check
def chats_are_as_published():
    cases = [
        {},
        {"max_tokens": 2},
        {"tools": [TOOL]},
        {"response_format": {"type": "json_object"}, "max_tokens": 64},
        {"metadata": {"a": "b"}, "user": "ann", "store": False, "service_tier": "auto"},
    ]
    for model in MODELS:
        for case in cases:
            text = CALL if "tools" in case else "Say hi."
            chat({"model": model, "temperature": 0, "messages": [{"role": "user", "content": text}], **case})


@check
def what_a_chat_may_ask_for_is_there_and_as_published():
    asked = [{"role": "user", "content": "Say hi."}]
    body = {"model": "local", "messages": asked, "max_tokens": 64}
    reply, chunks = chat({**body, "logprobs": True, "top_logprobs": 2})
    assert len(reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 2
    assert deltas(chunks, "logprobs")
    for several in ({**body, "n": 2, "temperature": 1}, {**body, "model": "openai/choices", "n": 3}):
        reply, chunks = chat(several)
        assert len(reply["choices"]) == several["n"]
        ends = [choice["index"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
        assert sorted(ends) == list(range(several["n"])), ends
    for model in MODELS:
        calling = {"model": model, "messages": [{"role": "user", "content": CALL}], "tools": [SHORT_TOOL]}
        reply, chunks = chat({**calling, "tool_choice": "required"})
        assert reply["choices"][0]["finish_reason"] == "tool_calls" and reply["choices"][0]["message"]["tool_calls"]
        assert deltas(chunks, "tool_calls")
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": SCHEMA}}
    reply, _ = chat({**body, "response_format": wanted})
    assert isinstance(json.loads(reply["choices"][0]["message"]["content"])["a"], bool)


@check
def chats_with_clouds_of_every_dialect_are_as_published():
    for dialect in exchanges.DIALECTS:
        for name in exchanges.EXCHANGES:
            chat({**exchanges.exchange("openai", name)["ask"], "model": f"{dialect}/{name}"})
    reply, chunks = chat({
        "model": "openai/logprobs", "messages": [{"role": "user", "content": "hi"}], "logprobs": True, "top_logprobs": 2})
    assert len(reply["choices"][0]["logprobs"]["content"]) == 2 == len(deltas(chunks, "logprobs"))
    # What a cloud wrote into its cache is told.
    for dialect in ("openai", "responses", "anthropic"):
        reply, chunks = chat({**exchanges.exchange("openai", "cached")["ask"], "model": f"{dialect}/cached"})
        for usage in (reply["usage"], chunks[-1]["usage"]):
            assert usage["prompt_tokens_details"] == {"cached_tokens": 1024, "cache_write_tokens": 100}, usage


@check
def completions_are_as_published():
    cases = [
        ("local", {}), ("local", {"logprobs": 2}), ("local", {"max_tokens": 2}), ("local", {"n": 2, "temperature": 1}),
        ("local", {"echo": True}), ("fake/bench", {}), ("openai/completion", {"logprobs": 2}),
    ]
    for model, case in cases:
        body = {"model": model, "prompt": "Once", "max_tokens": 8, "temperature": 0, **case}
        reply = whole("CreateCompletionResponse", "/completions", body)
        assert len(reply["choices"]) == case.get("n", 1) and reply["usage"]["completion_tokens"] > 0
        chunks = datas("/completions", {**body, "stream_options": {"include_usage": True}})
        for chunk in chunks:
            holds("CompletionChunk", chunk)
        assert chunks[-1]["usage"]
        if "logprobs" in case:
            assert reply["choices"][0]["logprobs"]["top_logprobs"] and deltas(chunks, "logprobs")


@check
def embeddings_are_as_published():
    for model in ("embed-tiny", "openai/embedding"):
        for case in ({"input": "a"}, {"input": ["a", "b"]}, {"input": "a", "dimensions": 2, "user": "ann"}):
            listed = whole("CreateEmbeddingResponse", "/embeddings", {"model": model, **case})
            count = len(case["input"])
            assert [one["index"] for one in listed["data"]] == list(range(count)), listed
            # The document has numbers alone for an answer, also where base64 was asked for.
            status, text = send("/embeddings", {"model": model, **case, "encoding_format": "base64"})
            assert status == 200, text
            written = json.loads(text)
            for one in written["data"]:
                vector = base64.b64decode(one["embedding"], validate=True)
                one["embedding"] = list(struct.unpack(f"<{len(vector) // 4}f", vector))
            holds("CreateEmbeddingResponse", written)
            assert written["data"][0]["embedding"] == [
                struct.unpack("<f", struct.pack("<f", number))[0] for number in listed["data"][0]["embedding"]]


@check
def responses_are_as_published():
    cases = [
        {"input": "Say hi."},
        {"input": "Say hi.", "instructions": "Be short.", "metadata": {"a": "b"}, "user": "ann", "store": False},
        {"input": "Say hi.", "temperature": 0.5, "top_p": 0.9, "truncation": "auto", "service_tier": "flex"},
        {"input": "Say hi.", "top_logprobs": 2, "include": ["message.output_text.logprobs"]},
        {"input": "Say hi.", "reasoning": {"effort": "low", "summary": "auto"}, "parallel_tool_calls": False},
        {"input": "Say hi.", "max_output_tokens": 64,
         "text": {"format": {"type": "json_object"}, "verbosity": "low"}},
        {"input": "Say hi.", "text": {"format": {
            "type": "json_schema", "name": "s", "strict": True, "schema": SCHEMA}}},
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
def responses_of_clouds_of_every_dialect_are_as_published():
    for dialect in exchanges.DIALECTS:
        for name in exchanges.EXCHANGES:
            asked = {**exchanges.exchange("responses", name)["ask"], "model": f"{dialect}/{name}"}
            for response in respond(asked):
                assert response["usage"]["output_tokens"] > 0, response
            if name == "reasoning":
                # Without a summary thoughts come as they are.
                list(respond({**asked, "reasoning": {"effort": "high"}}))
            if name == "cached" and dialect != "gemini":
                assert response["usage"]["input_tokens_details"]["cache_write_tokens"] == 100, response
    asked = {"model": "openai/logprobs", "input": "hi", "top_logprobs": 2, "include": ["message.output_text.logprobs"]}
    for response in respond(asked):
        assert len(response["output"][0]["content"][0]["logprobs"]) == 2, response


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
    asks = {
        "/chat/completions": lambda text: {"messages": [{"role": "user", "content": text}]},
        "/completions": lambda text: {"prompt": text},
        "/responses": lambda text: {"input": text},
    }
    for path, ask in asks.items():
        for status in (400, 401, 404, 429, 500, 503):
            body = {"model": "fake/bench", **ask(f"[[fake status={status}]]")}
            cases += [(path, body), (path, {**body, "stream": True})]
        cases.append((path, {"model": "fake/bench", **ask("[[fake garbage]]")}))
    for path, body in cases:
        status, text = send(path, body)
        assert 400 <= status < 600, (path, status)
        holds("ErrorResponse", json.loads(text))


@check
def streams_that_break_off_are_as_published_to_their_end():
    for path, ask, chunk in [
        ("/chat/completions", {"messages": [{"role": "user", "content": "[[fake cut-after=2]]"}]},
         "CreateChatCompletionStreamResponse"),
        ("/completions", {"prompt": "[[fake cut-after=2]]"}, "CompletionChunk"),
    ]:
        *chunks, last = datas(path, {"model": "fake/bench", **ask})
        assert chunks
        for event in chunks:
            holds(chunk, event)
        holds("ErrorResponse", last)


@check
def a_response_that_is_not_there_is_refused_as_by_openai():
    status, text = send("/responses", {"model": "local", "input": "hi", "previous_response_id": "resp_0"})
    said = json.loads(text)["error"]
    assert status == 400, text
    assert said == {
        "message": "Previous response with id 'resp_0' not found.", "type": "invalid_request_error",
        "param": "previous_response_id", "code": "previous_response_not_found"}, said


# What comes last looks back at all that was held before.


@check
def every_kind_of_event_was_held():
    names = set(EVENTS.values())
    assert names <= set(published.seen), names - set(published.seen)
    rest = {kind for kind in EVENTS if "reasoning" not in kind} - local_kinds
    # Which the model on this machine does of itself.
    assert rest == {"response.failed", "error"}, rest


@check
def a_reply_that_is_not_as_published_would_be_noticed():
    assert published.required_missed() == set()
    missed = published.faults_missed()
    assert missed <= UNNAMED, missed - UNNAMED


ADDRESS = f"127.0.0.1:{free_port()}"
UPSTREAM = f"127.0.0.1:{free_port()}"
# Every failure is to come from where it was asked for.
CONFIG = f"""
listen = "{ADDRESS}"
[breaker]
failures_max = 1000
failed_percent_max = 100
[[upstreams]]
name = "fake"
base_url = "http://{UPSTREAM}/v1"
key = "env:FAKE_KEY"
models = ["bench"]
{exchanges.upstreams(exchanges.start())}
"""


def write_embedder(path):
    """The ranker of `tests/fixtures` with another number in its header makes embeddings."""
    with open(os.path.join(here, "../fixtures/rank-tiny.gguf"), "rb") as file:
        model = bytearray(file.read())
    key = b"bert.pooling_type"
    # After the key comes the value's type, then the value: 1 is the mean.
    model[model.index(key) + len(key) + 4] = 1
    with open(path, "wb") as file:
        file.write(model)


with tempfile.TemporaryDirectory() as folder:
    config = os.path.join(folder, "hedge.toml")
    log = os.path.join(folder, "log")
    embedder = os.path.join(folder, "embed-tiny.gguf")
    write_embedder(embedder)
    with open(config, "w") as file:
        file.write(CONFIG + f"[embeddings]\nmodel = {json.dumps(embedder)}\n")
    processes = [subprocess.Popen([FAKE_UPSTREAM, "--listen", UPSTREAM], stdout=subprocess.DEVNULL)]
    try:
        with open(log, "w") as out:
            processes.append(subprocess.Popen(
                [HEDGE, "serve", "--config", config], stdout=out, stderr=out, env={**os.environ, "FAKE_KEY": "unused"}))
        wait_ready(ADDRESS, processes[-1], seconds=120)
        status = check.run()
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()
    if status:
        with open(log) as file:
            print(f"--- the server's output:\n{file.read()}", file=sys.stderr)
sys.exit(status)
