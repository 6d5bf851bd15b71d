"""OpenAI's SDKs, unmodified, through the sealed path: edge, relay, provider.

sealed.py HEDGE FAKE_UPSTREAM sets a relay and its edge up as docs/relay.md does, before the fake upstream, and asks the
edge; then sealed.mjs does with OpenAI's Node SDK, where that is installed.
"""
import json
import os
import subprocess
import sys
import tempfile
import time

from serving import free_port, wait_ready

HEDGE, FAKE_UPSTREAM = sys.argv[1:3]
here = os.path.dirname(os.path.abspath(__file__))
EDGE, CANARY = "branch-7", "canary-4711"
# What the edge's callers name the relay's model, which is its alias of a provider's.
MODEL = "relay-hq/bench"
# A provider hears of a client that left within this. A machine with more to do than it has cores measures itself.
CANCEL_S_MAX = 0.1 if os.getloadavg()[0] < (os.cpu_count() or 1) else 5.0

fake = subprocess.Popen([FAKE_UPSTREAM, "--listen", "127.0.0.1:0", "--key", "cloud-key"],
                        stdout=subprocess.PIPE, text=True)
os.environ["CLOUD_URL"] = f"http://{fake.stdout.readline().strip()}"

import openai  # noqa: E402

from checks import Checks, raised  # noqa: E402
from clouds import counts, seen, sent  # noqa: E402

check = Checks("sealed, openai python")
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "enum": ["Lisbon", "Porto"]}},
    "required": ["city"], "additionalProperties": False}}}]


def chat(content, **more):
    messages = more.pop("messages", None) or [{"role": "user", "content": content}]
    return client.chat.completions.create(**{"model": MODEL, "messages": messages, "temperature": 0, **more})


@check
def whole_and_streamed_replies_agree_and_are_counted():
    text = f"{CANARY} [[fake tokens=12]]"
    whole = chat(text)
    assert whole.choices[0].message.content.startswith("t0 t1 t2"), whole
    chunks = list(chat(text, stream=True, stream_options={"include_usage": True}))
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert streamed == whole.choices[0].message.content
    for usage in (whole.usage, chunks[-1].usage):
        assert usage.completion_tokens == 12 and usage.total_tokens > 12, usage


@check
def the_answer_came_through_the_relay_and_only_its_key_went_on():
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=[{"role": "user", "content": "[[fake tokens=1]]"}],
        extra_headers={"Authorization": "Bearer of-the-client"})
    assert raw.headers["x-hedge-route"] == "cloud:relay-hq", raw.headers
    for request in seen():
        assert request["headers"]["authorization"] == "Bearer cloud-key", request["headers"]
        assert EDGE not in json.dumps(request) and "of-the-client" not in json.dumps(request)


@check
def a_tool_is_called_and_its_result_answered():
    text = "[[fake call=look_up]] the weather in Lisbon"
    whole = chat(text, tools=TOOLS)
    [call] = whole.choices[0].message.tool_calls
    assert whole.choices[0].finish_reason == "tool_calls" and call.function.name == "look_up", whole
    json.loads(call.function.arguments)
    with client.chat.completions.stream(
            model=MODEL, messages=[{"role": "user", "content": text}], tools=TOOLS, temperature=0) as stream:
        for _ in stream:
            pass
        [streamed] = stream.get_final_completion().choices[0].message.tool_calls
    assert streamed.function.name == "look_up" and streamed.function.arguments == call.function.arguments
    messages = [{"role": "user", "content": "the weather"}, whole.choices[0].message.model_dump(exclude_none=True),
                {"role": "tool", "tool_call_id": call.id, "content": "sunny [[fake tokens=2]]"}]
    answer = chat("", messages=messages, tools=TOOLS)
    assert answer.choices[0].message.content == "t0 t1 ", answer
    assert sent()["messages"][-1]["tool_call_id"] == call.id


@check
def embeddings_are_the_same_as_numbers_and_in_base64():
    texts = ["one", "two"]
    packed = client.embeddings.create(model=MODEL, input=texts)
    plain = client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    assert [one.embedding for one in packed.data] == [one.embedding for one in plain.data]
    assert [one.index for one in packed.data] == [0, 1] and packed.usage.prompt_tokens > 0


@check
def refusals_are_the_client_s_own_errors():
    raised(openai.RateLimitError, lambda: chat("[[fake status=429 retry-after=600]]"))
    raised(openai.BadRequestError, lambda: chat("[[fake status=400]]"))
    error = raised(openai.BadRequestError, lambda: chat("hi", temperature=9))
    assert error.param == "temperature", error.body
    # The edge's policy at the relay allows no other model.
    raised(openai.APIStatusError, lambda: client.chat.completions.create(
        model="relay-hq/other", messages=[{"role": "user", "content": "hi"}]))


@check
def a_stream_that_is_left_ends_at_the_provider():
    took = []
    for _ in range(5):
        before = counts()["abandoned"]
        stream = chat("[[fake tokens=3000 gap-ms=10]]", stream=True)
        next(iter(stream))
        assert counts()["abandoned"] == before
        left = time.monotonic()
        stream.close()
        while counts()["abandoned"] == before:
            assert time.monotonic() - left < 20, "the provider never heard of it"
            time.sleep(0.002)
        took.append(time.monotonic() - left)
    took.sort()
    print(f"        the provider heard of it after {took[2] * 1000:.0f} ms, within {CANCEL_S_MAX * 1000:.0f}")
    assert took[2] < CANCEL_S_MAX, took


def run(folder, *arguments):
    done = subprocess.run([HEDGE, *arguments], cwd=folder, env=environment, text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout


def start(folder, log, *arguments):
    return subprocess.Popen([HEDGE, *arguments], cwd=folder, env=environment, stdout=log, stderr=log)


environment = {name: value for name, value in os.environ.items() if not name.startswith("HEDGE_")}
status = 1
with tempfile.TemporaryDirectory() as folder, open(os.path.join(folder, "log"), "w+", encoding="utf-8") as log:
    environment |= {"XDG_DATA_HOME": folder, "XDG_CONFIG_HOME": folder, "CLOUD_KEY": "cloud-key"}
    relay_url = f"https://localhost:{free_port()}"
    said = run(folder, "relay", "init", "--name", "relay-hq", "--url", relay_url, "--edge", EDGE, "--model", "bench")
    [token] = [word for word in said.split() if word.startswith("hedge-join-1.")]
    admin = f"127.0.0.1:{free_port()}"
    with open(os.path.join(folder, "relay.toml"), "a", encoding="utf-8") as out:
        out.write(f"""
[aliases]
bench = "fake/big"
[admin]
listen = "{admin}"
[local]
enabled = false
[[upstreams]]
name = "fake"
base_url = "{os.environ['CLOUD_URL']}/v1"
key = "env:CLOUD_KEY"
models = ["big"]
""")
    relay = start(folder, log, "relay")
    edge = None
    try:
        wait_ready(admin, relay, seconds=60)
        run(folder, "relay", "join", relay_url, token)
        address = f"127.0.0.1:{free_port()}"
        with open(os.path.join(folder, "hedge.toml"), "r+", encoding="utf-8") as file:
            relays = file.read()
            file.seek(0)
            file.write(f"""listen = "{address}"
[admin]
listen = "127.0.0.1:{free_port()}"
[local]
enabled = false
[cache]
enabled = false
{relays}""")
        edge = start(folder, log, "serve")
        wait_ready(address, edge, seconds=60)
        url = f"http://{address}/v1"
        client = openai.OpenAI(base_url=url, api_key="unused", max_retries=0, timeout=60)
        status = check.run()
        if os.path.isdir(os.path.join(here, "node_modules", "openai")):
            node = ["node", os.path.join(here, "sealed.mjs")]
            status |= subprocess.run(node, env={**os.environ, "HEDGE_URL": url, "SEALED_MODEL": MODEL}).returncode
    finally:
        for process in (edge, relay):
            if process:
                process.terminate()
                process.wait()
        fake.kill()
        log.seek(0)
        output = log.read()
        if status:
            print("--- the output of relay and edge:\n" + output)
assert CANARY not in output and "cloud-key" not in output, "what was said, or a key, is in a log"
sys.exit(status)
