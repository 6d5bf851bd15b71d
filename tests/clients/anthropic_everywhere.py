"""Anthropic's Python SDK, unmodified, with the model on this machine and with clouds of two dialects.

The server's address is in HEDGE_URL; `clouds.py` says which models there are.
"""
import json
import os
import sys
from typing import Literal

import anthropic
from pydantic import BaseModel

from checks import Checks, eventually, raised
from clouds import (
    ANTHROPIC, BROKEN, CITY, CLOUDS, EVERYWHERE, FAULTY, LOCAL, OPENAI, PNG, counts, question, sent,
)

# This SDK puts `/v1` before every path itself.
URL = os.environ["HEDGE_URL"].removesuffix("/v1")
client = anthropic.Anthropic(base_url=URL, api_key="unused", max_retries=0, timeout=60)
check = Checks("anthropic python")
TOOLS = [{
    "name": "look_up",
    "description": "Looks up a city's weather.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": [CITY, "Porto"]}},
        "required": ["city"],
    },
}]
FORCED = {"tools": TOOLS, "tool_choice": {"type": "tool", "name": "look_up"}, "max_tokens": 200}
GREEDY = {"temperature": 0}


class Answer(BaseModel):
    sure: bool
    city: Literal["Lisbon", "Porto"]


def asked(model, content, **more):
    messages = more.pop("messages", None) or [{"role": "user", "content": content}]
    base = {"model": model, "max_tokens": 64, "messages": messages, "extra_body": GREEDY}
    return {**base, **more}


def create(model, content, **more):
    return client.messages.create(**asked(model, content, **more))


def final(model, content, **more):
    with client.messages.stream(**asked(model, content, **more)) as stream:
        return stream.get_final_message()


def text_of(message):
    return "".join(block.text for block in message.content if block.type == "text")


def prompt_of(usage):
    return usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)


@check.each(*EVERYWHERE)
def whole_and_streamed_messages_agree_and_are_counted(model):
    text, holds = question(model)
    whole, streamed = create(model, text), final(model, text)
    assert holds in text_of(whole) and text_of(streamed) == text_of(whole), (whole, streamed)
    for message in (whole, streamed):
        assert message.type == "message" and message.stop_reason == "end_turn", message
        assert prompt_of(message.usage) > 0, message.usage
        assert message.usage.output_tokens == whole.usage.output_tokens > 0, message.usage
    assert prompt_of(streamed.usage) == prompt_of(whole.usage)


@check.each(*EVERYWHERE)
def events_keep_their_grammar(model):
    kinds = [event.type for event in create(model, question(model)[0], stream=True) if event.type != "ping"]
    assert kinds[:2] == ["message_start", "content_block_start"], kinds
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"], kinds
    assert set(kinds[2:-3]) == {"content_block_delta"}, kinds


@check.each(*EVERYWHERE)
def a_system_prompt_arrives(model):
    text, _ = question(model)
    system = [{"type": "text", "text": "Be kind to animals.", "cache_control": {"type": "ephemeral"}}]
    kind = create(model, text, system=system)
    assert prompt_of(kind.usage) > prompt_of(create(model, text).usage), kind.usage
    create(model, text, system=system)
    if model == ANTHROPIC:
        assert sent()["system"] == system, sent()
    if model == OPENAI:
        first = sent()["messages"][0]
        assert first["role"] == "system" and "Be kind to animals." in json.dumps(first["content"]), first


@check.each(*EVERYWHERE)
def a_tool_goes_round(model):
    text, _ = question(model)
    message = create(model, text, **FORCED)
    call = message.content[-1]
    assert message.stop_reason == "tool_use" and call.type == "tool_use", message
    assert call.name == "look_up" and call.input["city"] in (CITY, "Porto"), call
    streamed = final(model, text, **FORCED)
    assert streamed.stop_reason == "tool_use" and streamed.content[-1].input == call.input, streamed
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "no such city", "is_error": True}
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": message.content},
             {"role": "user", "content": [result]}]
    answer = create(model, "", messages=turns, tools=TOOLS)
    assert text_of(answer) and answer.stop_reason in ("end_turn", "max_tokens"), answer
    if model == ANTHROPIC:
        assert sent()["messages"][-1]["content"] == [result], sent()
    if model == OPENAI:
        last = sent()["messages"][-1]
        assert last["role"] == "tool" and last["tool_call_id"] == call.id, last
        assert "no such city" in json.dumps(last["content"]), last


@check.each(*CLOUDS)
def pieces_of_arguments_are_streamed(model):
    text = "[[fake call=look_up]]"
    events = list(create(model, text, tools=TOOLS, stream=True))
    pieces = [event.delta.partial_json for event in events
              if event.type == "content_block_delta" and event.delta.type == "input_json_delta"]
    assert json.loads("".join(pieces)) == {"city": CITY}, pieces
    assert len([piece for piece in pieces if piece]) > 1, pieces


@check.each(*CLOUDS)
def the_tool_runner_runs_to_its_end(model):
    heard = []

    @anthropic.beta_tool
    def look_up(city: str) -> str:
        """Looks up a city's weather.

        Args:
            city: Which.
        """
        heard.append(city)
        return "sunny"

    turns = [{"role": "user", "content": "[[fake call=look_up]]"}]
    runner = client.beta.messages.tool_runner(model=model, max_tokens=64, tools=[look_up], messages=turns)
    last = runner.until_done()
    assert heard == [CITY] and last.stop_reason == "end_turn", (heard, last)
    assert last.content[0].text.startswith("t0 t1"), last


@check.each(*EVERYWHERE)
def a_reply_keeps_to_a_schema(model):
    message = client.messages.parse(**asked(model, "Where is Lisbon?", output_format=Answer, max_tokens=200))
    assert isinstance(message.parsed_output, Answer), message


@check.each(*EVERYWHERE)
def an_image_arrives_or_is_refused(model):
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    content = [image, {"type": "text", "text": "[[fake tokens=2]]"}]
    if model == LOCAL:
        error = raised(anthropic.BadRequestError, lambda: create(model, content))
        assert "image" in error.message, error.body
        return
    assert text_of(create(model, content)) == "t0 t1 "
    assert PNG in json.dumps(sent()["messages"][0]), sent()


@check.each(*CLOUDS)
def reasons_for_the_end_are_said(model):
    short = create(model, "hi", max_tokens=2)
    assert (text_of(short), short.stop_reason) == ("t0 t1 ", "max_tokens"), short
    refusal = {ANTHROPIC: "refusal", OPENAI: "content_filter"}[model]
    refused = create(model, f"[[fake tokens=1 ends={refusal}]]")
    assert refused.stop_reason == "refusal", refused
    cut = create(model, "hi", stop_sequences=["t2"])
    assert text_of(cut) == "t0 t1 ", cut
    # OpenAI does not say which string it stopped at, nor whether it was one.
    if model == ANTHROPIC:
        assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", "t2"), cut


@check.each(*CLOUDS)
def thoughts_are_told_and_can_be_sent_back(model):
    thinks = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000, "extra_body": {}}
    text = "[[fake call=look_up think=3]]"
    message = create(model, text, tools=TOOLS, **thinks)
    thought, call = message.content[0], message.content[-1]
    assert thought.type == "thinking" and thought.thinking == "h0 h1 h2 ", message
    streamed = final(model, text, tools=TOOLS, **thinks)
    assert streamed.content[0].thinking == "h0 h1 h2 ", streamed
    assert streamed.content[0].signature == thought.signature, streamed
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    for first in (message, streamed):
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": first.content},
                 {"role": "user", "content": [result]}]
        assert text_of(create(model, "", messages=turns, tools=TOOLS, **thinks)).startswith("t0 ")
    if model == ANTHROPIC:
        back = sent()["messages"][1]["content"][0]
        assert back == {"type": "thinking", "thinking": "h0 h1 h2 ", "signature": thought.signature}, back


@check.each(*CLOUDS)
def the_cache_is_counted(model):
    text = "[[fake tokens=3 cached=5 written=4]]"
    written = 4 if model == ANTHROPIC else 0
    for usage in (create(model, text).usage, final(model, text).usage):
        assert usage.cache_read_input_tokens == 5, usage
        assert (usage.cache_creation_input_tokens or 0) == written, usage
        assert usage.input_tokens == 4 and usage.output_tokens == 3, usage


@check.each(*CLOUDS)
def each_failure_has_its_class(model):
    # A wait too long to be waited for here.
    for marker, kind, name in [
        ("status=400", anthropic.BadRequestError, "invalid_request_error"),
        ("status=401", anthropic.InternalServerError, "api_error"),
        ("status=404", anthropic.NotFoundError, "not_found_error"),
        ("status=429 retry-after=600", anthropic.RateLimitError, "rate_limit_error"),
        ("status=500", anthropic.InternalServerError, "api_error"),
        ("status=529 retry-after=600", anthropic.OverloadedError, "overloaded_error"),
    ]:
        for call in (create, final):
            error = raised(kind, lambda: call(FAULTY[model], f"[[fake {marker}]]"))
            assert error.type == name and error.request_id, (marker, error.body)
            if "retry-after" in marker:
                assert int(error.response.headers["retry-after"]) > 0, error.response.headers


@check.each(*CLOUDS)
def a_stream_that_breaks_is_an_error(model):
    for marker in ("cut-after=2", "error-after=2", "end-early=2"):
        heard = []

        def listen():
            with client.messages.stream(**asked(BROKEN[model], f"[[fake {marker}]]")) as stream:
                for text in stream.text_stream:
                    heard.append(text)

        raised(anthropic.APIError, listen)
        assert "".join(heard) == "t0 t1 ", (marker, heard)


@check.each(*EVERYWHERE)
def leaving_a_stream_ends_it(model):
    before = counts()["abandoned"]
    more = {"max_tokens": 1000, "extra_body": {**GREEDY, "ignore_eos": True}} if model == LOCAL else {"max_tokens": 1000}
    with client.messages.stream(**asked(model, "[[fake tokens=1000 gap-ms=20]]", **more)) as stream:
        next(iter(stream))
    if model != LOCAL:
        eventually(lambda: counts()["abandoned"] > before)
    assert text_of(create(model, question(model)[0]))


@check.each(*EVERYWHERE)
def tokens_are_counted(model):
    text, _ = question(model)
    turns = [{"role": "user", "content": text}]
    raw = client.messages.with_raw_response.count_tokens(model=model, messages=turns)
    assert raw.headers["x-hedge-tokens"] == ("counted" if model == LOCAL else "estimated"), raw.headers
    plain = raw.parse().input_tokens
    more = client.messages.count_tokens(model=model, messages=turns, system="Be brief.", tools=TOOLS)
    assert 0 < plain < more.input_tokens, (plain, more)


@check
def all_models_are_listed():
    listed = {model.id for model in client.models.list()}
    assert {*EVERYWHERE, *FAULTY.values()} <= listed, listed
    for model in EVERYWHERE:
        assert client.models.retrieve(model).id == model


sys.exit(check.run())
