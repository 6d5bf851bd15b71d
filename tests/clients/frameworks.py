"""Ollama's Python client, LangChain and LlamaIndex, unmodified, against a running hedge.

Its address is in HEDGE_URL. `local` is the model on this machine; `fake/big` is a cloud's, which says what
a marker in the text tells it to.
"""
import os
import sys
from typing import Literal

import ollama
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

from checks import Checks, raised

URL = os.environ["HEDGE_URL"]
HERE, CLOUD = "local", "fake/big"
QUESTION = "What is the capital of Portugal?"
SAYS = "[[fake tokens=3]]"
CALLS = "[[fake call=weather]]"
# What each of the two is asked, and what its answer holds.
ASKED = [(HERE, QUESTION, "Lisbon"), (CLOUD, SAYS, "t0 t1 t2")]
GREEDY = {"temperature": 0}

client = ollama.Client(host=URL.removesuffix("/v1"))
check = Checks("frameworks")


def said(text):
    return [{"role": "user", "content": text}]


def weather(place: str) -> str:
    """Tells the weather.

    Args:
        place: Where.
    """
    return f"sunny in {place}"


class Answer(BaseModel):
    sure: bool
    city: Literal["Lisbon", "Porto"]


@check
def ollama_chats_whole_and_streamed():
    for model, text, holds in ASKED:
        whole = client.chat(model, said(text), options=GREEDY)
        assert holds in whole.message.content and whole.done_reason == "stop", whole
        assert whole.prompt_eval_count > 0 and whole.eval_count > 0, whole
        assert 0 < whole.eval_duration <= whole.total_duration, whole
        parts = list(client.chat(model, said(text), options=GREEDY, stream=True))
        assert "".join(part.message.content for part in parts) == whole.message.content
        assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
        assert parts[-1].eval_count == whole.eval_count


@check
def ollama_generates_whole_streamed_and_raw():
    for model, text, holds in ASKED:
        whole = client.generate(f"{model}:latest", text, options=GREEDY)
        assert holds in whole.response, whole
        parts = client.generate(model, text, options=GREEDY, stream=True)
        assert "".join(part.response for part in parts) == whole.response
        raw = client.generate(model, text, raw=True, options={**GREEDY, "num_predict": 4})
        assert raw.response and raw.eval_count <= 4, raw


@check
def ollama_keeps_to_a_schema_and_gives_log_probabilities():
    reply = client.chat(HERE, said(QUESTION), format=Answer.model_json_schema(), options=GREEDY)
    Answer.model_validate_json(reply.message.content)
    reply = client.chat(HERE, said(QUESTION), logprobs=True, top_logprobs=2, options=GREEDY)
    assert "".join(token.token for token in reply.logprobs) == reply.message.content
    assert all(len(token.top_logprobs) == 2 for token in reply.logprobs)


@check
def ollama_calls_tools_and_answers_them():
    messages = said(CALLS)
    reply = client.chat(CLOUD, messages, tools=[weather])
    call = reply.message.tool_calls[0]
    assert (call.function.name, call.function.arguments) == ("weather", {"place": "Lisbon"}), call
    answer = {"role": "tool", "tool_name": "weather", "content": weather(**call.function.arguments)}
    reply = client.chat(CLOUD, [*messages, reply.message, answer, *said(SAYS)], tools=[weather])
    assert "t0" in reply.message.content, reply
    parts = client.chat(CLOUD, messages, tools=[weather], stream=True)
    calls = [call for part in parts for call in part.message.tool_calls or []]
    assert [call.function.name for call in calls] == ["weather"], calls


@check
def ollama_sees_the_models():
    listed = [model.model for model in client.list().models]
    assert HERE in listed and CLOUD in listed, listed
    for name in (HERE, CLOUD):
        shown = client.show(name)
        assert "completion" in shown.capabilities, shown
    assert client.show(HERE).details.family and "messages" in client.show(HERE).template
    assert client.generate(HERE).done_reason == "load"
    running = client.ps().models
    assert running and running[0].size > 0, running


@check
def ollama_is_told_what_is_wrong():
    for status, call in [
        (404, lambda: client.chat("nobody", said("hi"))),
        (400, lambda: client.chat(HERE, said("hi"), options={"top_p": 7})),
        (400, lambda: client.generate(HERE, "a", suffix="b")),
        (501, lambda: client.pull("x")),
        (501, lambda: client.delete("x")),
    ]:
        error = raised(ollama.ResponseError, call)
        assert error.status_code == status and error.error, (error.status_code, error.error)
    broken = client.chat(CLOUD, said("[[fake cut-after=2]]"), stream=True)
    raised(ollama.ResponseError, lambda: list(broken))


def langchain(model, **more):
    return ChatOpenAI(base_url=URL, api_key="unused", model=model, max_retries=0, **GREEDY, **more)


@check
def langchain_chats_whole_and_streamed():
    for model, text, holds in ASKED:
        whole = langchain(model).invoke(text)
        assert holds in whole.content, whole
        assert whole.usage_metadata["output_tokens"] > 0, whole
        chunks = list(langchain(model, stream_usage=True).stream(text))
        assert "".join(chunk.content for chunk in chunks) == whole.content
        assert any(chunk.usage_metadata for chunk in chunks)


@check
def langchain_calls_tools_and_keeps_to_a_schema():
    reply = langchain(CLOUD).bind_tools([tool(weather)]).invoke(CALLS)
    assert [(call["name"], call["args"]) for call in reply.tool_calls] == [("weather", {"place": "Lisbon"})], reply
    answer = langchain(HERE).with_structured_output(Answer, method="json_schema").invoke(QUESTION)
    assert isinstance(answer, Answer), answer


@check
def langchain_continues_texts():
    for model, text, _ in ASKED:
        asked = {"base_url": URL, "api_key": "unused", "model": model, "max_tokens": 6, "max_retries": 0, **GREEDY}
        whole = OpenAI(**asked).invoke(text)
        assert whole.strip(), whole
        assert "".join(OpenAI(**asked).stream(text)) == whole


def llama_index(model, **more):
    return OpenAILike(api_base=URL, api_key="unused", model=model, max_retries=0, timeout=120, context_window=4096,
                      **GREEDY, **more)


@check
def llama_index_chats_whole_and_streamed():
    for model, text, holds in ASKED:
        llm = llama_index(model, is_chat_model=True)
        whole = llm.chat([ChatMessage(role="user", content=text)]).message.content
        assert holds in whole, whole
        streamed = llm.stream_chat([ChatMessage(role="user", content=text)])
        assert "".join(part.delta or "" for part in streamed) == whole


@check
def llama_index_continues_texts():
    for model, text, _ in ASKED:
        llm = llama_index(model, is_chat_model=False, max_tokens=6)
        whole = llm.complete(text).text
        assert whole.strip(), whole
        assert "".join(part.delta or "" for part in llm.stream_complete(text)) == whole


sys.exit(check.run())
