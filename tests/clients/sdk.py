"""OpenAI's Python SDK, unmodified, against a running hedge whose address is in HEDGE_URL.

With SDK_TEST_KEY set, the server asks for that key and only the checks of keys run.
"""
import os
import sys

import openai

from checks import Checks, raised

URL = os.environ["HEDGE_URL"]
KEY = os.environ.get("SDK_TEST_KEY")
QUESTION = [{"role": "user", "content": "What is the capital of Portugal?"}]
# A cached reply would make any repetition equal, whatever the seed does.
FRESH = {"Cache-Control": "no-store"}

# The SDK's own retries would hide a failure.
client = openai.OpenAI(base_url=URL, api_key=KEY or "unused", max_retries=0, timeout=60)
check = Checks("python, keys" if KEY else "python")


def chat(**changes):
    asked = {"model": "local", "messages": QUESTION, "temperature": 0, "extra_headers": FRESH}
    return client.chat.completions.create(**{**asked, **changes})


if KEY:
    @check
    def the_right_key_is_let_in():
        assert chat().choices[0].message.content

    @check
    def a_wrong_key_is_an_authentication_error():
        stranger = openai.OpenAI(base_url=URL, api_key="wrong", max_retries=0)
        error = raised(openai.AuthenticationError, lambda: stranger.chat.completions.create(model="local", messages=QUESTION))
        assert error.status_code == 401 and error.code == "invalid_api_key", error.body
        raised(openai.AuthenticationError, stranger.models.list)

else:
    @check
    def models_are_listed_and_each_can_be_retrieved():
        listed = [model.id for model in client.models.list()]
        assert "auto" in listed and "local" in listed, listed
        for name in listed:
            assert client.models.retrieve(name).id == name

    @check
    def an_unknown_model_is_not_found_and_the_nearest_is_named():
        error = raised(openai.NotFoundError, lambda: chat(model="locol"))
        assert error.code == "model_not_found" and "local" in error.message, error.body
        raised(openai.NotFoundError, lambda: client.models.retrieve("locol"))

    @check
    def a_whole_reply_is_right_and_counted():
        reply = chat()
        choice = reply.choices[0]
        assert "Lisbon" in choice.message.content, choice.message.content
        assert choice.message.role == "assistant" and choice.finish_reason == "stop"
        usage = reply.usage
        assert usage.prompt_tokens > 0 and usage.completion_tokens > 0
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens

    @check
    def a_streamed_reply_says_the_same_with_usage_last():
        chunks = list(chat(stream=True, stream_options={"include_usage": True}))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == chat().choices[0].message.content, text
        reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
        assert reasons[-1] == "stop" and not any(reasons[:-1]), reasons
        last = chunks[-1]
        assert not last.choices and last.usage.completion_tokens > 0
        assert all(chunk.usage is None for chunk in chunks[:-1])
        assert len({chunk.id for chunk in chunks}) == 1

    @check
    def a_stream_has_no_usage_unless_asked():
        assert all(chunk.usage is None and chunk.choices for chunk in chat(stream=True))

    @check
    def a_stop_string_ends_the_reply_and_is_not_in_it():
        whole = chat().choices[0].message.content
        stop = whole[len(whole) // 2:len(whole) // 2 + 3]
        cut = chat(stop=[stop]).choices[0]
        assert cut.message.content == whole[:whole.index(stop)], (cut.message.content, stop)
        assert cut.finish_reason == "stop"
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chat(stop=stop, stream=True))
        assert streamed == cut.message.content, streamed

    @check
    def one_seed_gives_one_reply_and_several_give_several():
        hot = {"temperature": 2, "max_tokens": 24}
        replies = [chat(seed=7, **hot).choices[0].message.content for _ in range(3)]
        assert len(set(replies)) == 1, replies
        others = {chat(seed=seed, **hot).choices[0].message.content for seed in range(8)}
        assert len(others) > 1, "eight seeds at temperature 2 all gave the same"

    @check
    def log_probabilities_spell_the_reply_whole_and_streamed():
        choice = chat(logprobs=True, top_logprobs=3).choices[0]
        tokens = choice.logprobs.content
        assert "".join(token.token for token in tokens) == choice.message.content
        # At temperature 0 the token drawn is the likeliest.
        assert all(token.top_logprobs[0].logprob == token.logprob for token in tokens), tokens
        assert all(bytes(token.bytes).decode(errors="replace") == token.token for token in tokens)
        chunks = [chunk.choices[0] for chunk in chat(logprobs=True, top_logprobs=3, stream=True)]
        streamed = [token for chunk in chunks if chunk.logprobs for token in chunk.logprobs.content]
        assert [token.token for token in streamed] == [token.token for token in tokens]
        assert chat().choices[0].logprobs is None

    @check
    def several_choices_differ_and_count_the_prompt_once():
        hot = {"temperature": 2, "max_tokens": 12, "seed": 7}
        several, one = chat(n=8, **hot), chat(**hot)
        assert [choice.index for choice in several.choices] == list(range(8))
        assert len({choice.message.content for choice in several.choices}) > 1
        assert several.usage.prompt_tokens == one.usage.prompt_tokens
        assert several.usage.completion_tokens <= 8 * 12
        streamed = {}
        for chunk in chat(n=3, stream=True, **hot):
            for choice in chunk.choices:
                streamed[choice.index] = streamed.get(choice.index, "") + (choice.delta.content or "")
        assert len(streamed) == 3 and all(streamed.values()), streamed

    @check
    def an_ignored_end_runs_to_the_bound():
        reply = chat(max_tokens=60, extra_body={"ignore_eos": True})
        assert reply.choices[0].finish_reason == "length"
        assert reply.usage.completion_tokens == 60, reply.usage

    @check
    def the_token_bound_is_kept_and_said():
        for bound in ({"max_tokens": 2}, {"max_completion_tokens": 2}):
            reply = chat(**bound)
            assert reply.choices[0].finish_reason == "length", bound
            assert reply.usage.completion_tokens == 2, reply.usage

    @check
    def a_bad_parameter_is_a_bad_request_with_its_path():
        cases = [
            ({"temperature": 9}, "temperature"),
            ({"top_p": -1}, "top_p"),
            ({"max_tokens": -5}, "max_tokens"),
            ({"top_logprobs": 2}, "top_logprobs"),
            ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
            ({"n": 9}, "n"),
            ({"extra_body": {"mirostat": 3}}, "mirostat"),
            ({"messages": []}, "messages"),
            ({"messages": [*QUESTION, {"role": "wizard", "content": "x"}]}, "messages[1].role"),
        ]
        for change, path in cases:
            error = raised(openai.BadRequestError, lambda change=change: chat(**change))
            assert error.param == path, (change, error.body)
            assert error.type == "invalid_request_error", error.body

    @check
    def a_response_is_right_kept_listed_and_forgotten():
        made = client.responses.create(model="local", input="What is the capital of Portugal?", metadata={"a": "b"})
        assert "Lisbon" in made.output_text and made.status == "completed", made
        assert made.metadata == {"a": "b"} and made.usage.output_tokens > 0, made
        assert client.responses.retrieve(made.id) == made
        [item] = client.responses.input_items.list(made.id)
        assert item.content[0].text == "What is the capital of Portugal?", item
        assert client.responses.delete(made.id) is None
        for call in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
            raised(openai.NotFoundError, lambda call=call: call(made.id))

    @check
    def a_response_goes_on_from_one_that_is_kept():
        first = client.responses.create(model="local", input="What is the capital of Portugal?")
        ask = {"model": "local", "input": "And of France?", "temperature": 0}
        second = client.responses.create(previous_response_id=first.id, **ask)
        assert second.previous_response_id == first.id
        assert second.usage.input_tokens > first.usage.input_tokens, (second.usage, first.usage)
        # The same, with everything sent again by its caller, and by reference.
        question = {"role": "user", "content": "What is the capital of Portugal?"}
        last = {"role": "user", "content": ask["input"]}
        sent = client.responses.create(**{**ask, "input": [question, *first.output, last]})
        assert sent.usage.input_tokens == second.usage.input_tokens, (sent.usage, second.usage)
        references = [{"type": "item_reference", "id": item.id} for item in first.output]
        named = client.responses.create(**{**ask, "input": [question, *references, last]})
        assert named.output_text == sent.output_text == second.output_text
        error = raised(openai.BadRequestError, lambda: client.responses.create(previous_response_id="resp_0", **ask))
        assert error.code == "previous_response_not_found" and error.param == "previous_response_id", error.body
        lost = client.responses.create(store=False, **ask)
        raised(openai.NotFoundError, lambda: client.responses.retrieve(lost.id))

    @check
    def a_streamed_response_says_the_same_as_its_events():
        ask = {"model": "local", "input": "What is the capital of Portugal?", "temperature": 0, "extra_headers": FRESH}
        with client.responses.stream(**ask) as stream:
            events = list(stream)
            final = stream.get_final_response()
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert text == final.output_text == client.responses.create(**ask).output_text, text
        assert [event.sequence_number for event in events if event.type != "response.output_text.delta"] == sorted(
            event.sequence_number for event in events if event.type != "response.output_text.delta")
        assert client.responses.retrieve(final.id).output_text == text

    @check
    def a_response_calls_a_tool_and_takes_its_answer():
        tools = [{"type": "function", "name": "get_weather", "strict": False, "parameters": {
            "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}]
        ask = {"model": "local", "tools": tools, "temperature": 0}
        made = client.responses.create(
            input="What is the weather in Lisbon?", tool_choice={"type": "function", "name": "get_weather"}, **ask)
        [call] = [item for item in made.output if item.type == "function_call"]
        assert call.name == "get_weather" and "city" in call.arguments, call
        answer = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
        answered = client.responses.create(input=[answer], previous_response_id=made.id, tool_choice="none", **ask)
        assert answered.status == "completed", answered

    @check
    def a_bad_response_is_a_bad_request_with_its_path():
        for change, path in [
            ({"background": True}, "background"),
            ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
            ({"input": [{"type": "item_reference", "id": "msg_0"}]}, "input[0].id"),
            ({"temperature": 9}, "temperature"),
        ]:
            ask = {"model": "local", "input": "hi", **change}
            error = raised(openai.BadRequestError, lambda ask=ask: client.responses.create(**ask))
            assert error.param == path, (change, error.body)

    @check
    def the_reply_says_where_it_came_from():
        # A response asked the same, and would answer it from the cache.
        raw = client.chat.completions.with_raw_response.create(
            model="local", messages=QUESTION, extra_headers=FRESH)
        assert raw.headers["x-hedge-route"].startswith("local:"), raw.headers
        assert raw.headers["x-request-id"]


sys.exit(check.run())
