"""Clouds of four dialects that answer as `src/wire/pairs/fixtures` says: the exchange that the model's name names.

Beside them, in OpenAI's: log probabilities, several choices, older completions and embeddings, after its API reference
(github.com/openai/openai-openapi at f85dbe2, "Chat", "Completions", "Embeddings", read 2026-11-28).
"""
import base64
import json
import os
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

here = os.path.dirname(os.path.abspath(__file__))
FIXTURES = os.path.join(here, "../../src/wire/pairs/fixtures")
EXCHANGES = ["text", "turns", "tools", "image", "length", "cached", "reasoning"]
DIALECTS = ["openai", "responses", "anthropic", "gemini"]
OPENAI_ALONE = ["logprobs", "choices", "completion", "embedding"]


def exchange(dialect, name):
    with open(os.path.join(FIXTURES, dialect, f"{name}.json")) as file:
        return json.load(file)


def token(text):
    one = {"token": text, "logprob": -0.25, "bytes": list(text.encode())}
    return {**one, "top_logprobs": [one, {"token": "<|end|>", "logprob": -9999.0, "bytes": None}]}


def head(kind):
    return {"id": "chatcmpl-1", "object": kind, "created": 1764000000, "model": "m-1", "system_fingerprint": "fp_1"}


USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}


def chat(choices, logprobs):
    """A chat of two tokens, whole and streamed."""
    tokens = ["Hello", " there"]
    said = [token(text) for text in tokens]

    def of(content):
        return {"content": content, "refusal": None} if logprobs else None

    def chunk(index, delta, content, end):
        choice = {"index": index, "delta": delta, "logprobs": content, "finish_reason": end}
        return {**head("chat.completion.chunk"), "usage": None, "choices": [choice]}

    whole = {
        **head("chat.completion"), "usage": USAGE, "service_tier": "default",
        "choices": [
            {"index": index, "message": {"role": "assistant", "content": "".join(tokens), "refusal": None},
             "logprobs": of(said), "finish_reason": "stop"} for index in range(choices)],
    }
    events = [chunk(index, {"role": "assistant", "content": ""}, None, None) for index in range(choices)]
    for text, one in zip(tokens, said):
        events += [chunk(index, {"content": text}, of([one]), None) for index in range(choices)]
    events += [chunk(index, {}, None, "stop") for index in range(choices)]
    return whole, [*events, {**head("chat.completion.chunk"), "choices": [], "usage": USAGE}, "[DONE]"]


def completion():
    top = {" a": -0.25, "\n": -2.5}
    logprobs = {"tokens": [" a"], "token_logprobs": [-0.25], "top_logprobs": [top], "text_offset": [0]}

    def part(text, logprobs, end):
        choice = {"text": text, "index": 0, "logprobs": logprobs, "finish_reason": end}
        return {**head("text_completion"), "choices": [choice]}

    whole = {**part(" a", logprobs, "stop"), "usage": USAGE}
    end = {**head("text_completion"), "choices": [], "usage": USAGE}
    return whole, [part(" a", logprobs, None), part("", None, "stop"), end, "[DONE]"]


def embeddings(body):
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    vector = [0.6, -0.8, 0.0, 0.0][:body.get("dimensions", 4)]
    if body.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(len(texts))]
    return {"object": "list", "data": data, "model": "m-1", "usage": {"prompt_tokens": 3, "total_tokens": 3}}


def dialect_of(path):
    for end, dialect in [("/chat/completions", "openai"), ("/responses", "responses"), ("/messages", "anthropic")]:
        if path.endswith(end):
            return dialect
    assert "enerateContent" in path, path
    return "gemini"


def answer(path, body):
    """The whole reply and the stream's events."""
    if path.endswith("/embeddings"):
        return embeddings(body), None
    if path.endswith("/completions") and "prompt" in body:
        return completion()
    if body.get("model") == "logprobs":
        return chat(1, logprobs=True)
    if body.get("model") == "choices":
        return chat(body["n"], logprobs=False)
    name = body.get("model") or path.split("/models/")[1].split(":")[0]
    found = exchange(dialect_of(path), name)
    return found["reply"], found["stream"]


def frame(event):
    if isinstance(event, str):
        return f"data: {event}\n\n"
    if set(event) == {"event", "data"}:
        return f"event: {event['event']}\ndata: {json.dumps(event['data'])}\n\n"
    return f"data: {json.dumps(event)}\n\n"


class Answers(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        whole, events = answer(self.path.split("?")[0], body)
        if body.get("stream") or ":stream" in self.path:
            kind, said = "text/event-stream", "".join(frame(event) for event in events)
        else:
            kind, said = "application/json", json.dumps(whole)
        said = said.encode()
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        pass


def start():
    """Their addresses' common part; they end with the process."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"127.0.0.1:{server.server_port}"


def upstreams(address):
    """What a configuration says of them."""
    base = {"openai": "/v1", "responses": "/v1", "anthropic": "", "gemini": "/v1beta"}
    told = ""
    for dialect in DIALECTS:
        models = EXCHANGES + (OPENAI_ALONE if dialect == "openai" else [])
        told += f"""
[[upstreams]]
name = "{dialect}"
dialect = "{dialect}"
base_url = "http://{address}{base[dialect]}"
key = "env:FAKE_KEY"
models = {json.dumps(models)}
"""
    return told
