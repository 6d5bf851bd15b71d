"""OpenAI's Python SDK, unmodified, with the model on this machine and with clouds of two dialects.

The server's address is in HEDGE_URL; `clouds.py` says which models there are.
"""
import base64
import json
import os
import struct
import sys
from typing import Literal

import openai
from pydantic import BaseModel

from checks import Checks, eventually, raised
from clouds import (
    ANTHROPIC, BROKEN, CITY, CLOUDS, EVERYWHERE, FAULTY, LOCAL, OPENAI, PNG, counts, question, sent,
)

client = openai.OpenAI(base_url=os.environ["HEDGE_URL"], api_key="unused", max_retries=0, timeout=60)
check = Checks("openai python")
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "enum": [CITY, "Porto"]}},
              "required": ["city"], "additionalProperties": False}
TOOLS = [{"type": "function", "function": {
    "name": "look_up", "description": "Looks up a city's weather.", "parameters": PARAMETERS}}]
FORCED = {"type": "function", "function": {"name": "look_up"}}


class Answer(BaseModel):
    sure: bool
    city: Literal["Lisbon", "Porto"]


def user(content):
    return [{"role": "user", "content": content}]


def chat(model, content, **more):
    messages = more.pop("messages", None) or user(content)
    return client.chat.completions.create(**{"model": model, "messages": messages, "temperature": 0, **more})


def text_of(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


@check.each(*EVERYWHERE)
def whole_and_streamed_replies_agree_and_are_counted(model):
    text, holds = question(model)
    whole = chat(model, text)
    assert holds in whole.choices[0].message.content and whole.choices[0].finish_reason == "stop", whole
    chunks = list(chat(model, text, stream=True, stream_options={"include_usage": True}))
    assert text_of(chunks) == whole.choices[0].message.content
    for usage in (whole.usage, chunks[-1].usage):
        assert usage.prompt_tokens > 0 and usage.completion_tokens > 0, usage
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


@check.each(*EVERYWHERE)
def a_system_prompt_arrives(model):
    text, _ = question(model)
    plain = chat(model, text)
    turns = [{"role": "system", "content": "Be brief, and kind to animals."}, *user(text)]
    kind = chat(model, text, messages=turns)
    assert kind.usage.prompt_tokens > plain.usage.prompt_tokens, (kind.usage, plain.usage)
    if model == OPENAI:
        assert sent()["messages"] == turns, sent()
    if model == ANTHROPIC:
        assert json.dumps(turns[0]["content"]) in json.dumps(sent()["system"]), sent()
        assert [turn["role"] for turn in sent()["messages"]] == ["user"], sent()


@check.each(*EVERYWHERE)
def a_tool_goes_round(model):
    text, _ = question(model)
    forced = {"tools": TOOLS, "tool_choice": FORCED, "max_tokens": 200}
    reply = chat(model, text, **forced)
    call = reply.choices[0].message.tool_calls[0]
    assert call.function.name == "look_up" and json.loads(call.function.arguments)["city"], call
    parts = [part for chunk in chat(model, text, stream=True, **forced) if chunk.choices
             for part in chunk.choices[0].delta.tool_calls or []]
    assert parts[0].id and parts[0].function.name == "look_up", parts
    arguments = "".join(part.function.arguments or "" for part in parts)
    assert json.loads(arguments) == json.loads(call.function.arguments), arguments
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    answer = chat(model, text, messages=[*user(text), reply.choices[0].message, result], tools=TOOLS)
    assert answer.choices[0].message.content, answer
    if model == ANTHROPIC:
        block = sent()["messages"][-1]["content"][0]
        assert block["type"] == "tool_result" and block["tool_use_id"] == call.id, block


@check.each(*CLOUDS)
def several_calls_come_at_once(model):
    tools = [*TOOLS, {"type": "function", "function": {"name": "go", "parameters": PARAMETERS}}]
    asked = {"content": "[[fake call=look_up,go]]", "tools": tools}
    message = chat(model, **asked).choices[0].message
    assert [call.function.name for call in message.tool_calls] == ["look_up", "go"], message
    streamed = {}
    for chunk in chat(model, stream=True, **asked):
        for part in chunk.choices[0].delta.tool_calls or [] if chunk.choices else []:
            streamed[part.index] = streamed.get(part.index, "") + (part.function.arguments or "")
    assert [json.loads(streamed[index]) for index in (0, 1)] == [{"city": CITY}] * 2, streamed
    results = [{"role": "tool", "tool_call_id": call.id, "content": "done"} for call in message.tool_calls]
    answer = chat(model, "", messages=[*user(asked["content"]), message, *results], tools=tools)
    assert answer.choices[0].message.content, answer


@check.each(*EVERYWHERE)
def a_reply_keeps_to_a_schema(model):
    messages = user("Where is Lisbon?")
    reply = client.chat.completions.parse(model=model, messages=messages, response_format=Answer, temperature=0)
    assert isinstance(reply.choices[0].message.parsed, Answer), reply
    with client.chat.completions.stream(model=model, messages=messages, response_format=Answer) as stream:
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Answer), final


@check.each(*EVERYWHERE)
def an_image_arrives_or_is_refused(model):
    content = [{"type": "text", "text": "[[fake tokens=2]]"},
               {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}]
    if model == LOCAL:
        error = raised(openai.BadRequestError, lambda: chat(model, content))
        assert error.code == "unsupported_by_model" and "image" in error.message, error.body
        return
    assert chat(model, content).choices[0].message.content == "t0 t1 "
    assert PNG in json.dumps(sent()["messages"][0]), sent()


@check.each(*CLOUDS)
def a_stop_string_and_the_token_bound_are_kept(model):
    cut = chat(model, "hi", stop=["t3"]).choices[0]
    assert (cut.message.content, cut.finish_reason) == ("t0 t1 t2 ", "stop"), cut
    for bound in ({"max_tokens": 2}, {"max_completion_tokens": 2}):
        short = chat(model, "hi", **bound).choices[0]
        assert (short.message.content, short.finish_reason) == ("t0 t1 ", "length"), short


@check.each(*CLOUDS)
def thoughts_and_the_cache_are_counted(model):
    text = "[[fake tokens=3 think=2 cached=5]]"
    reply = chat(model, text, reasoning_effort="low", extra_body={"temperature": None})
    message, usage = reply.choices[0].message, reply.usage
    assert message.content == "t0 t1 t2 " and message.reasoning_content == "h0 h1 ", message
    assert usage.prompt_tokens_details.cached_tokens == 5 and usage.prompt_tokens >= 5, usage
    assert usage.completion_tokens == 5, usage
    chunks = list(chat(model, text, reasoning_effort="low", extra_body={"temperature": None}, stream=True))
    thoughts = [getattr(chunk.choices[0].delta, "reasoning_content", None) or "" for chunk in chunks]
    assert "".join(thoughts) == "h0 h1 " and text_of(chunks) == "t0 t1 t2 ", chunks


@check.each(*CLOUDS)
def each_failure_has_its_class(model):
    # A wait too long to be waited for here.
    for marker, kind, status in [
        ("status=400", openai.BadRequestError, 400),
        ("status=401", openai.InternalServerError, 502),
        ("status=404", openai.NotFoundError, 404),
        ("status=429 retry-after=600", openai.RateLimitError, 429),
        ("status=500", openai.InternalServerError, 502),
        ("status=529 retry-after=600", openai.InternalServerError, 503),
    ]:
        for stream in (False, True):
            ask = lambda: chat(FAULTY[model], f"[[fake {marker}]]", stream=stream)
            error = raised(kind, ask)
            assert error.status_code == status and error.body["message"], (marker, error.body)
            if "retry-after" in marker:
                assert int(error.response.headers["retry-after"]) > 0, error.response.headers


@check.each(*CLOUDS)
def a_stream_that_breaks_is_an_error(model):
    for marker in ("cut-after=2", "error-after=2", "end-early=2"):
        heard = []

        def listen():
            for chunk in chat(BROKEN[model], f"[[fake {marker}]]", stream=True):
                heard.append(chunk)

        raised(openai.APIError, listen)
        assert text_of(heard) == "t0 t1 ", (marker, heard)


@check.each(*EVERYWHERE)
def leaving_a_stream_ends_it(model):
    before = counts()["abandoned"]
    slow = {"max_tokens": 1000, "extra_body": {"ignore_eos": True}} if model == LOCAL else {}
    stream = chat(model, "[[fake tokens=1000 gap-ms=20]]", stream=True, **slow)
    assert next(iter(stream)).id
    stream.close()
    if model != LOCAL:
        eventually(lambda: counts()["abandoned"] > before)
    assert chat(model, question(model)[0]).choices[0].message.content


@check.each(*EVERYWHERE)
def responses_are_made_whole_and_streamed(model):
    text, holds = question(model)
    asked = {"model": model, "input": text, "instructions": "Be brief.", "temperature": 0}
    whole = client.responses.create(**asked)
    assert holds in whole.output_text and whole.status == "completed", whole
    assert whole.usage.input_tokens > 0 and whole.usage.output_tokens > 0, whole.usage
    events = list(client.responses.create(**asked, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type == "response.completed", events
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert said == whole.output_text == events[-1].response.output_text, said
    assert client.responses.retrieve(whole.id).output_text == whole.output_text
    more = client.responses.create(model=model, input="And now?", previous_response_id=whole.id, temperature=0)
    assert more.usage.input_tokens > whole.usage.input_tokens, more.usage
    items = client.responses.input_items.list(more.id)
    assert items.data, items
    client.responses.delete(whole.id)
    raised(openai.NotFoundError, lambda: client.responses.retrieve(whole.id))


@check.each(*EVERYWHERE)
def responses_call_tools_and_keep_to_schemas(model):
    text, _ = question(model)
    tools = [{"type": "function", "name": "look_up", "parameters": PARAMETERS, "strict": True}]
    asked = {"model": model, "tools": tools, "temperature": 0}
    first = client.responses.create(**asked, input=text, tool_choice={"type": "function", "name": "look_up"})
    call = first.output[-1]
    assert call.type == "function_call" and json.loads(call.arguments)["city"], first.output
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    second = client.responses.create(**asked, input=[result], previous_response_id=first.id)
    assert second.output_text, second
    third = client.responses.create(**asked, input=[{"role": "user", "content": text}, *first.output, result])
    assert third.output_text, third
    parsed = client.responses.parse(model=model, input="Where is Lisbon?", text_format=Answer, temperature=0)
    assert isinstance(parsed.output_parsed, Answer), parsed


@check.each(*CLOUDS)
def responses_fail_as_chats_do(model):
    raised(openai.RateLimitError, lambda: client.responses.create(
        model=FAULTY[model], input="[[fake status=429 retry-after=600]]"))
    events = []

    def listen():
        for event in client.responses.create(model=BROKEN[model], input="[[fake cut-after=2]]", stream=True):
            events.append(event)

    try:
        listen()
    except openai.APIError:
        return
    assert events[-1].type in ("response.failed", "error"), events[-1]


@check.each(LOCAL, OPENAI)
def older_completions_continue_texts(model):
    text, _ = question(model)
    asked = {"model": model, "prompt": text, "max_tokens": 6, "temperature": 0}
    whole = client.completions.create(**asked)
    assert whole.choices[0].text.strip() and whole.usage.completion_tokens > 0, whole
    chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    said = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
    assert said == whole.choices[0].text and chunks[-1].usage.completion_tokens > 0, chunks


@check
def older_completions_are_refused_for_models_that_only_chat():
    error = raised(openai.BadRequestError, lambda: client.completions.create(model=ANTHROPIC, prompt="a"))
    assert error.param == "prompt", error.body


@check
def embeddings_are_the_clouds_in_either_form():
    asked = {"model": OPENAI, "input": ["ab", "c"], "dimensions": 3}
    plain = client.embeddings.create(**asked, encoding_format="float")
    assert plain.data[0].embedding == [12.125, 12.375, 12.375] and plain.usage.prompt_tokens == 2, plain
    # The SDK asks for base64 and decodes it.
    assert client.embeddings.create(**asked).data[1].embedding == plain.data[1].embedding
    raw = client.embeddings.with_raw_response.create(**asked, encoding_format="base64").http_response.json()
    assert struct.unpack("<3f", base64.b64decode(raw["data"][0]["embedding"])) == (12.125, 12.375, 12.375)


@check.each(LOCAL, ANTHROPIC)
def embeddings_of_models_that_have_none_are_refused(model):
    error = raised(openai.APIStatusError, lambda: client.embeddings.create(model=model, input="a"))
    assert error.status_code in (400, 404) and error.body["message"], error.body


@check
def all_models_are_listed():
    listed = {model.id for model in client.models.list()}
    assert {*EVERYWHERE, *FAULTY.values()} <= listed, listed


sys.exit(check.run())
