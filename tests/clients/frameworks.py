"""Ollama's Python client, LangChain and LlamaIndex, unmodified, with the model on this machine and with
clouds of two dialects.

The server's address is in HEDGE_URL; `clouds.py` says which models there are.
"""
import asyncio
import json
import os
import sys
from typing import Literal

import ollama
import openai
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

from checks import Checks, eventually, raised
from clouds import ANTHROPIC, BROKEN, CLOUDS, EVERYWHERE, FAULTY, LOCAL, OPENAI, PNG, counts, question, sent

URL = os.environ["HEDGE_URL"]
SAYS, CALLS, SLOW = "[[fake tokens=3]]", "[[fake call=weather]]", "[[fake tokens=1000 gap-ms=20]]"
GREEDY = {"temperature": 0}
# What each cloud refuses with, and the status that a client sees. The wait is too long to be waited for.
REFUSALS = [("status=400", 400), ("status=404", 404), ("status=429 retry-after=600", 429), ("status=500", 502)]

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


@check.each(*EVERYWHERE)
def ollama_chats_whole_and_streamed(model):
    text, holds = question(model)
    whole = client.chat(model, said(text), options=GREEDY)
    assert holds in whole.message.content and whole.done_reason == "stop", whole
    assert whole.prompt_eval_count > 0 and whole.eval_count > 0, whole
    assert 0 < whole.eval_duration <= whole.total_duration, whole
    parts = list(client.chat(model, said(text), options=GREEDY, stream=True))
    assert "".join(part.message.content for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == whole.eval_count


@check.each(LOCAL, OPENAI)
def ollama_generates_whole_streamed_and_raw(model):
    text, holds = question(model)
    whole = client.generate(f"{model}:latest", text, system="Be brief.", options=GREEDY)
    assert holds in whole.response, whole
    parts = client.generate(model, text, system="Be brief.", options=GREEDY, stream=True)
    assert "".join(part.response for part in parts) == whole.response
    raw = client.generate(model, text, raw=True, options={**GREEDY, "num_predict": 4})
    assert raw.response and raw.eval_count <= 4, raw


@check
def ollama_generates_with_a_cloud_that_only_chats():
    whole = client.generate(ANTHROPIC, SAYS, system="Be brief.", options=GREEDY)
    assert whole.response == "t0 t1 t2 " and "Be brief." in json.dumps(sent()["system"]), whole
    error = raised(ollama.ResponseError, lambda: client.generate(ANTHROPIC, SAYS, raw=True))
    assert error.status_code == 400, error


@check.each(*EVERYWHERE)
def ollama_keeps_to_a_schema(model):
    asked = said("What is the capital of Portugal?")
    reply = client.chat(model, asked, format=Answer.model_json_schema(), options=GREEDY)
    Answer.model_validate_json(reply.message.content)


@check
def ollama_gives_log_probabilities():
    reply = client.chat(LOCAL, said(question(LOCAL)[0]), logprobs=True, top_logprobs=2, options=GREEDY)
    assert "".join(token.token for token in reply.logprobs) == reply.message.content
    assert all(len(token.top_logprobs) == 2 for token in reply.logprobs)


@check.each(*CLOUDS)
def ollama_calls_tools_and_answers_them(model):
    messages = said(CALLS)
    reply = client.chat(model, messages, tools=[weather])
    call = reply.message.tool_calls[0]
    assert (call.function.name, call.function.arguments) == ("weather", {"place": "Lisbon"}), call
    answer = {"role": "tool", "tool_name": "weather", "content": weather(**call.function.arguments)}
    reply = client.chat(model, [*messages, reply.message, answer], tools=[weather])
    assert "t0" in reply.message.content and "sunny in Lisbon" in json.dumps(sent()["messages"][-1]), reply
    parts = client.chat(model, messages, tools=[weather], stream=True)
    calls = [call for part in parts for call in part.message.tool_calls or []]
    assert [call.function.name for call in calls] == ["weather"], calls


@check
def ollama_tells_the_local_model_what_a_tool_said():
    call = {"function": {"name": "weather", "arguments": {"place": "Lisbon"}}}
    turns = [*said(question(LOCAL)[0]), {"role": "assistant", "content": "", "tool_calls": [call]},
             {"role": "tool", "tool_name": "weather", "content": "sunny"}]
    reply = client.chat(LOCAL, turns, tools=[weather], options=GREEDY)
    assert reply.message.content or reply.message.tool_calls, reply


@check.each(*CLOUDS)
def ollama_keeps_stop_strings_and_bounds(model):
    cut = client.chat(model, said("hi"), options={**GREEDY, "stop": ["t3"]})
    assert (cut.message.content, cut.done_reason) == ("t0 t1 t2 ", "stop"), cut
    short = client.chat(model, said("hi"), options={**GREEDY, "num_predict": 2})
    assert (short.message.content, short.done_reason) == ("t0 t1 ", "length"), short


@check.each(*CLOUDS)
def ollama_thinks_aloud(model):
    for stream in (False, True):
        reply = client.chat(model, said("[[fake tokens=3 think=2]]"), think=True, stream=stream)
        parts = list(reply) if stream else [reply]
        assert "".join(part.message.thinking or "" for part in parts) == "h0 h1 ", parts
        assert "".join(part.message.content for part in parts) == "t0 t1 t2 ", parts


@check.each(*EVERYWHERE)
def ollama_shows_images_or_is_refused(model):
    asked = [{"role": "user", "content": SAYS, "images": [PNG]}]
    if model == LOCAL:
        error = raised(ollama.ResponseError, lambda: client.chat(model, asked))
        assert error.status_code == 400 and "image" in error.error, error.error
        return
    assert client.chat(model, asked).message.content == "t0 t1 t2 "
    assert PNG in json.dumps(sent()["messages"][0]), sent()


@check
def ollama_embeds():
    vectors = client.embed(OPENAI, ["ab", "c"], dimensions=3)
    assert list(vectors.embeddings[0]) == [12.125, 12.375, 12.375] and len(vectors.embeddings) == 2, vectors
    for model in (LOCAL, ANTHROPIC):
        error = raised(ollama.ResponseError, lambda: client.embed(model, "a"))
        assert error.status_code in (400, 404), error


@check.each(*EVERYWHERE)
def ollama_leaves_a_stream(model):
    before = counts()["abandoned"]
    options = {**GREEDY, "num_predict": 1000}
    stream = client.chat(model, said(SLOW), stream=True, options=options)
    next(stream)
    stream.close()
    if model != LOCAL:
        eventually(lambda: counts()["abandoned"] > before)
    assert client.chat(model, said(question(model)[0])).message.content


@check
def ollama_sees_the_models():
    listed = [model.model for model in client.list().models]
    assert {*EVERYWHERE} <= {*listed}, listed
    for name in EVERYWHERE:
        shown = client.show(name)
        assert "completion" in shown.capabilities, shown
    assert client.show(LOCAL).details.family and "messages" in client.show(LOCAL).template
    assert client.generate(LOCAL).done_reason == "load"
    running = client.ps().models
    assert running and running[0].size > 0, running


@check
def ollama_is_told_what_is_wrong():
    for status, call in [
        (404, lambda: client.chat("nobody", said("hi"))),
        (400, lambda: client.chat(LOCAL, said("hi"), options={"top_p": 7})),
        (400, lambda: client.generate(LOCAL, "a", suffix="b")),
        (501, lambda: client.pull("x")),
        (501, lambda: client.delete("x")),
    ]:
        error = raised(ollama.ResponseError, call)
        assert error.status_code == status and error.error, (error.status_code, error.error)


@check.each(*CLOUDS)
def ollama_is_told_of_failures(model):
    for marker, status in REFUSALS:
        error = raised(ollama.ResponseError, lambda: client.chat(FAULTY[model], said(f"[[fake {marker}]]")))
        assert error.status_code == status and error.error, (marker, error)
    broken = client.chat(BROKEN[model], said("[[fake cut-after=2]]"), stream=True)
    raised(ollama.ResponseError, lambda: list(broken))


def langchain(model, **more):
    return ChatOpenAI(base_url=URL, api_key="unused", model=model, max_retries=0, **GREEDY, **more)


@check.each(*EVERYWHERE)
def langchain_chats_whole_and_streamed(model):
    text, holds = question(model)
    whole = langchain(model).invoke([SystemMessage("Be brief."), HumanMessage(text)])
    assert holds in whole.content, whole
    assert whole.usage_metadata["input_tokens"] > 0 and whole.usage_metadata["output_tokens"] > 0, whole
    chunks = list(langchain(model, stream_usage=True).stream([SystemMessage("Be brief."), HumanMessage(text)]))
    assert "".join(chunk.content for chunk in chunks) == whole.content
    assert any(chunk.usage_metadata for chunk in chunks)
    if model == ANTHROPIC:
        assert "Be brief." in json.dumps(sent()["system"]), sent()


@check.each(*EVERYWHERE)
def langchain_asks_by_responses(model):
    text, holds = question(model)
    whole = langchain(model, use_responses_api=True).invoke(text)
    assert holds in whole.text, whole
    chunks = list(langchain(model, use_responses_api=True).stream(text))
    assert "".join(chunk.text for chunk in chunks) == whole.text, chunks


@check.each(*EVERYWHERE)
def langchain_takes_tools_round(model):
    text, _ = question(model)
    bound = langchain(model, max_tokens=200).bind_tools([tool(weather)], tool_choice="weather")
    for reply in (bound.invoke(text), None):
        if reply is None:
            for chunk in bound.stream(text):
                reply = chunk if reply is None else reply + chunk
        call = reply.tool_calls[0]
        assert call["name"] == "weather" and call["args"]["place"], reply
    turns = [HumanMessage(text), reply, ToolMessage("sunny", tool_call_id=call["id"])]
    assert langchain(model).bind_tools([tool(weather)]).invoke(turns).content


@check.each(*CLOUDS)
def langchain_keeps_stop_strings_and_tells_what_was_cached(model):
    assert langchain(model).invoke("hi", stop=["t3"]).content == "t0 t1 t2 "
    assert langchain(model, max_tokens=2).invoke("hi").response_metadata["finish_reason"] == "length"
    usage = langchain(model).invoke("[[fake tokens=3 cached=5]]").usage_metadata
    assert usage["input_token_details"]["cache_read"] == 5, usage


@check.each(*EVERYWHERE)
def langchain_keeps_to_a_schema(model):
    for method in ("json_schema", "function_calling"):
        kept = langchain(model, max_tokens=200).with_structured_output(Answer, method=method)
        answer = kept.invoke("Where is Lisbon?")
        assert isinstance(answer, Answer), (method, answer)


@check.each(*EVERYWHERE)
def langchain_shows_images_or_is_refused(model):
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    asked = [HumanMessage([{"type": "text", "text": SAYS}, image])]
    if model == LOCAL:
        raised(openai.BadRequestError, lambda: langchain(model).invoke(asked))
        return
    assert langchain(model).invoke(asked).content == "t0 t1 t2 "
    assert PNG in json.dumps(sent()["messages"][0]), sent()


@check.each(LOCAL, OPENAI)
def langchain_continues_texts(model):
    text, _ = question(model)
    asked = {"base_url": URL, "api_key": "unused", "model": model, "max_tokens": 6, "max_retries": 0, **GREEDY}
    whole = OpenAI(**asked).invoke(text)
    assert whole.strip(), whole
    assert "".join(OpenAI(**asked).stream(text)) == whole


@check
def langchain_embeds():
    # It sends tokens by itself, of which only OpenAI's models know the words.
    asked = {"base_url": URL, "api_key": "unused", "dimensions": 3, "max_retries": 0,
             "check_embedding_ctx_length": False}
    assert OpenAIEmbeddings(model=OPENAI, **asked).embed_query("ab") == [12.125, 12.375, 12.375]
    for model in (LOCAL, ANTHROPIC):
        raised(openai.APIStatusError, lambda: OpenAIEmbeddings(model=model, **asked).embed_query("ab"))


@check.each(*CLOUDS)
def langchain_is_told_of_failures(model):
    for marker, status in REFUSALS:
        error = raised(openai.APIStatusError, lambda: langchain(FAULTY[model]).invoke(f"[[fake {marker}]]"))
        assert error.status_code == status, (marker, error)
    raised(openai.APIError, lambda: list(langchain(BROKEN[model]).stream("[[fake cut-after=2]]")))


@check.each(*EVERYWHERE)
def langchain_leaves_a_stream(model):
    before = counts()["abandoned"]

    async def leave():
        async for _ in langchain(model, max_tokens=1000).astream(SLOW):
            break

    asyncio.run(leave())
    if model != LOCAL:
        eventually(lambda: counts()["abandoned"] > before)
    assert langchain(model).invoke(question(model)[0]).content


def llama_index(model, **more):
    return OpenAILike(api_base=URL, api_key="unused", model=model, max_retries=0, timeout=120, context_window=4096,
                      **{"is_chat_model": True, "is_function_calling_model": True, **GREEDY, **more})


@check.each(*EVERYWHERE)
def llama_index_chats_whole_and_streamed(model):
    text, holds = question(model)
    turns = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content=text)]
    whole = llama_index(model).chat(turns)
    assert holds in whole.message.content and whole.raw.usage.completion_tokens > 0, whole
    streamed = llama_index(model).stream_chat(turns)
    assert "".join(part.delta or "" for part in streamed) == whole.message.content
    if model == ANTHROPIC:
        assert "Be brief." in json.dumps(sent()["system"]), sent()


@check.each(*CLOUDS)
def llama_index_takes_tools_round(model):
    llm, tools = llama_index(model), [FunctionTool.from_defaults(weather)]
    reply = llm.chat_with_tools(tools, user_msg=CALLS)
    call = llm.get_tool_calls_from_response(reply)[0]
    assert (call.tool_name, call.tool_kwargs) == ("weather", {"place": "Lisbon"}), call
    result = ChatMessage(role="tool", content="sunny", additional_kwargs={"tool_call_id": call.tool_id})
    turns = [ChatMessage(role="user", content=CALLS), reply.message, result]
    assert "t0" in llm.chat_with_tools(tools, chat_history=turns).message.content
    assert "sunny" in json.dumps(sent()["messages"][-1]), sent()
    # This runs the tool by itself.
    answered = llm.predict_and_call(tools, user_msg=CALLS)
    assert answered.response == "sunny in Lisbon", answered


@check
def llama_index_takes_tools_round_with_the_local_model():
    text, _ = question(LOCAL)
    llm, tools = llama_index(LOCAL, max_tokens=200), [FunctionTool.from_defaults(weather)]
    reply = llm.chat_with_tools(tools, user_msg=text, tool_required=True)
    call = llm.get_tool_calls_from_response(reply)[0]
    assert call.tool_name == "weather" and call.tool_kwargs["place"], call
    result = ChatMessage(role="tool", content="sunny", additional_kwargs={"tool_call_id": call.tool_id})
    turns = [ChatMessage(role="user", content=text), reply.message, result]
    assert llm.chat_with_tools(tools, chat_history=turns).message.blocks


@check.each(*CLOUDS)
def llama_index_keeps_stop_strings_and_tells_what_was_cached(model):
    assert llama_index(model).complete("hi", stop=["t3"]).text == "t0 t1 t2 "
    usage = llama_index(model).complete("[[fake tokens=3 cached=5]]").raw.usage
    assert usage.prompt_tokens_details.cached_tokens == 5, usage


@check.each(*EVERYWHERE)
def llama_index_keeps_to_a_schema(model):
    llm = llama_index(model, should_use_structured_outputs=True, max_tokens=200)
    answer = llm.as_structured_llm(Answer).chat([ChatMessage(role="user", content="Where is Lisbon?")])
    assert isinstance(answer.raw, Answer), answer


@check.each(*EVERYWHERE)
def llama_index_shows_images_or_is_refused(model):
    image = ImageBlock(image=PNG, image_mimetype="image/png")
    asked = [ChatMessage(role="user", blocks=[TextBlock(text=SAYS), image])]
    if model == LOCAL:
        raised(openai.BadRequestError, lambda: llama_index(model).chat(asked))
        return
    assert llama_index(model).chat(asked).message.content == "t0 t1 t2 "
    assert PNG in json.dumps(sent()["messages"][0]), sent()


@check.each(LOCAL, OPENAI)
def llama_index_continues_texts(model):
    text, _ = question(model)
    llm = llama_index(model, is_chat_model=False, max_tokens=6)
    whole = llm.complete(text).text
    assert whole.strip(), whole
    assert "".join(part.delta or "" for part in llm.stream_complete(text)) == whole


@check
def llama_index_embeds():
    asked = {"api_base": URL, "api_key": "unused", "dimensions": 3, "max_retries": 0}
    assert OpenAILikeEmbedding(OPENAI, **asked).get_text_embedding("ab") == [12.125, 12.375, 12.375]
    for model in (LOCAL, ANTHROPIC):
        raised(openai.APIStatusError, lambda: OpenAILikeEmbedding(model, **asked).get_text_embedding("ab"))


@check.each(*CLOUDS)
def llama_index_is_told_of_failures(model):
    for marker, status in REFUSALS:
        error = raised(openai.APIStatusError, lambda: llama_index(FAULTY[model]).complete(f"[[fake {marker}]]"))
        assert error.status_code == status, (marker, error)
    raised(openai.APIError, lambda: list(llama_index(BROKEN[model]).stream_complete("[[fake cut-after=2]]")))


@check.each(*EVERYWHERE)
def llama_index_leaves_a_stream(model):
    before = counts()["abandoned"]

    async def leave():
        stream = await llama_index(model, max_tokens=1000).astream_complete(SLOW)
        async for _ in stream:
            break
        await stream.aclose()

    asyncio.run(leave())
    if model != LOCAL:
        eventually(lambda: counts()["abandoned"] > before)
    assert llama_index(model).complete(question(model)[0]).text


sys.exit(check.run())
