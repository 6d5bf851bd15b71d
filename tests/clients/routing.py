"""The main job end to end: `auto` between the local model and a cloud, and the cloud's loss.

routing.py HEDGE FAKE_UPSTREAM starts both programs, asks through OpenAI's SDK, and reads the headers.
"""
import json
import os
import subprocess
import sys
import tempfile
import urllib.request

import openai

from checks import Checks
from serving import free_port, wait_ready

HEDGE, FAKE_UPSTREAM = sys.argv[1:3]
TOOLS = [{"type": "function", "function": {
    "name": "run_tests", "description": "Runs the project's tests.",
    "parameters": {"type": "object", "properties": {"filter": {"type": "string"}}}}}]
REQUIREMENT = "It must keep every invariant of the store, handle malformed input, and come with tests. "
TASK = (
    "Please refactor this Rust module and fix the race in it.\n```rust\n"
    "pub fn settle(ledger: &Ledger, hold: Hold) -> Result<Receipt, LedgerError> {\n    ledger.settle(hold)\n}\n```\n"
    + REQUIREMENT * 42
)
check = Checks("routing")


def ask(text, **more):
    """Route, reason and text of the answer to one question, never from a cache."""
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=[{"role": "user", "content": text}], extra_headers={"Cache-Control": "no-store"}, **more)
    return raw.headers["x-hedge-route"], raw.headers["x-hedge-reason"], raw.parse().choices[0].message


@check
def simple_questions_stay_on_this_machine():
    for question, holds in [
        ("hi", ""),
        ("What is the capital of Portugal?", "Lisbon"),
        ("Convert 7 km to m", "7000"),
    ]:
        route, reason, message = ask(question)
        assert route.startswith("local:") and reason, (question, route, reason)
        assert holds in message.content.replace(",", ""), (question, message.content)


@check
def a_long_coding_task_with_tools_goes_to_the_cloud():
    assert len(TASK.split()) >= 600
    route, reason, message = ask(TASK, tools=TOOLS)
    assert route == "cloud:fake" and reason, (route, reason)
    assert "fallback" not in reason, reason
    assert message.content.startswith("cloud reply"), message.content
    with urllib.request.urlopen(f"http://{fake_address}/_seen") as seen:
        sent = json.load(seen)["requests"]
    assert [request["body"]["model"] for request in sent] == ["big"], sent
    assert sent[0]["body"]["tools"] == TOOLS and sent[0]["headers"]["authorization"] == "Bearer cloud-key"


@check
def with_the_cloud_gone_the_fallback_answers_and_says_so():
    fake.terminate()
    fake.wait()
    route, reason, message = ask(TASK, tools=TOOLS)
    assert route.startswith("local:"), (route, reason)
    assert "fallback" in reason and "fake" in reason, reason
    assert message.content or message.tool_calls


fake = subprocess.Popen([FAKE_UPSTREAM, "--listen", "127.0.0.1:0", "--key", "cloud-key", "--text", "cloud reply"],
                        stdout=subprocess.PIPE, text=True)
fake_address = fake.stdout.readline().strip()
address = f"127.0.0.1:{free_port()}"
with tempfile.TemporaryDirectory() as folder:
    config = os.path.join(folder, "hedge.toml")
    with open(config, "w", encoding="utf-8") as out:
        out.write(f"""
listen = "{address}"
[[upstreams]]
name = "fake"
base_url = "http://{fake_address}/v1"
key = "env:CLOUD_KEY"
models = ["big"]
""")
    log = open(os.path.join(folder, "hedge.log"), "w+", encoding="utf-8")
    hedge = subprocess.Popen([HEDGE, "serve", "--config", config], stdout=log, stderr=log,
                             env={**os.environ, "CLOUD_KEY": "cloud-key"})
    try:
        wait_ready(address, hedge, seconds=60)
        client = openai.OpenAI(base_url=f"http://{address}/v1", api_key="unused", max_retries=0, timeout=120)
        status = check.run()
    finally:
        hedge.terminate()
        hedge.wait()
        fake.kill()
        log.seek(0)
        output = log.read()
        log.close()
if status:
    print("--- hedge's output:\n" + output)
assert "cloud-key" not in output, "the upstream's key is in the log"
sys.exit(status)
