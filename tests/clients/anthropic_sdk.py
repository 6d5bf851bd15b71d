"""Anthropic's Python SDK, unmodified, against a running hedge whose address is in HEDGE_URL.

With SDK_TEST_KEY set, the server asks for that key and only the checks of keys run.
"""
import os
import sys

import anthropic

from checks import Checks, raised

# This SDK puts `/v1` before every path itself.
URL = os.environ["HEDGE_URL"].removesuffix("/v1")
KEY = os.environ.get("SDK_TEST_KEY")
QUESTION = [{"role": "user", "content": "What is the capital of Portugal?"}]
FRESH = {"Cache-Control": "no-store"}
TOOLS = [{
    "name": "look_up",
    "description": "Looks up a city's weather.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Lisbon", "Porto"]}},
        "required": ["city"],
    },
}]

# The SDK's own retries would hide a failure.
client = anthropic.Anthropic(base_url=URL, api_key=KEY or "unused", max_retries=0, timeout=60)
check = Checks("anthropic python, keys" if KEY else "anthropic python")


def asked(**changes):
    """Claude's newer models take no temperature, so this SDK has no word for it; the API still has."""
    body = {"temperature": 0, **changes.pop("extra_body", {})}
    base = {"model": "local", "max_tokens": 64, "messages": QUESTION, "extra_headers": FRESH, "extra_body": body}
    return {**base, **changes}


def create(**changes):
    return client.messages.create(**asked(**changes))


def prompt_of(message):
    """All of a prompt's tokens: those that the server still had from before are counted apart."""
    usage = message.usage
    return usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens


if KEY:
    @check
    def the_right_key_is_let_in_by_either_header():
        assert create().content[0].text
        bearer = anthropic.Anthropic(base_url=URL, auth_token=KEY, max_retries=0)
        assert bearer.messages.create(**asked()).content[0].text

    @check
    def a_wrong_key_is_an_authentication_error():
        stranger = anthropic.Anthropic(base_url=URL, api_key="wrong", max_retries=0)
        error = raised(anthropic.AuthenticationError, lambda: stranger.messages.create(**asked()))
        assert error.body["error"]["type"] == "authentication_error", error.body
        raised(anthropic.AuthenticationError, stranger.models.list)
        count = stranger.messages.count_tokens
        raised(anthropic.AuthenticationError, lambda: count(model="local", messages=QUESTION))

else:
    @check
    def a_whole_message_is_right_and_counted():
        message = create()
        assert message.type == "message" and message.role == "assistant", message
        assert message.id.startswith("msg_") and message.stop_reason == "end_turn", message
        assert "Lisbon" in message.content[0].text, message.content
        assert prompt_of(message) > 0 and message.usage.output_tokens > 0
        assert message._request_id, "the request's id is under the name this SDK looks for"

    @check
    def a_streamed_message_says_the_same():
        whole = create()
        with client.messages.stream(**asked()) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
        assert text == whole.content[0].text, text
        assert final.content[0].text == text
        assert final.stop_reason == "end_turn"
        assert prompt_of(final) == prompt_of(whole), final.usage
        assert final.usage.output_tokens == whole.usage.output_tokens, final.usage

    @check
    def raw_events_come_in_order():
        kinds = [event.type for event in create(stream=True)]
        assert kinds[:2] == ["message_start", "content_block_start"], kinds
        assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"], kinds
        assert set(kinds[2:-3]) == {"content_block_delta"}, kinds

    @check
    def a_stop_sequence_is_named_and_not_in_the_text():
        whole = create().content[0].text
        stop = whole[len(whole) // 2:len(whole) // 2 + 3]
        others = ["###", "@@@", "%%%", "&&&"]
        cut = create(stop_sequences=[*others, stop])
        assert cut.content[0].text == whole[:whole.index(stop)], (cut.content, stop)
        assert cut.stop_reason == "stop_sequence" and cut.stop_sequence == stop, cut
        with client.messages.stream(**asked(stop_sequences=[stop])) as stream:
            final = stream.get_final_message()
        assert final.stop_reason == "stop_sequence" and final.stop_sequence == stop, final

    @check
    def the_token_bound_is_kept_and_said():
        message = create(max_tokens=2)
        assert message.stop_reason == "max_tokens" and message.usage.output_tokens == 2, message

    @check
    def a_system_prompt_and_blocks_are_taken():
        system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
        blocks = [{"role": "user", "content": [{"type": "text", "text": QUESTION[0]["content"]}]}]
        assert create(system=system, messages=blocks).content[0].text
        plain = create(system="Be brief.", messages=QUESTION)
        assert prompt_of(plain) > prompt_of(create())

    @check
    def a_forced_tool_is_called_whole_and_streamed():
        forced = {"tools": TOOLS, "tool_choice": {"type": "tool", "name": "look_up"}, "max_tokens": 200}
        message = create(**forced)
        call = message.content[-1]
        assert message.stop_reason == "tool_use" and call.type == "tool_use", message
        assert call.name == "look_up" and call.input["city"] in ("Lisbon", "Porto"), call
        with client.messages.stream(**asked(**forced)) as stream:
            final = stream.get_final_message()
        assert final.stop_reason == "tool_use", final
        assert final.content[-1].input == call.input, final.content
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "Sunny.", "is_error": False}
        turns = [*QUESTION, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
        answer = create(messages=turns, tools=TOOLS)
        assert prompt_of(answer) > prompt_of(message), answer

    @check
    def tokens_are_counted_as_they_are_charged():
        counted = client.messages.count_tokens(model="local", messages=QUESTION)
        assert counted.input_tokens == prompt_of(create()), counted
        with_system = client.messages.count_tokens(model="local", messages=QUESTION, system="Be brief.", tools=TOOLS)
        assert with_system.input_tokens > counted.input_tokens
        raw = client.messages.with_raw_response.count_tokens(model="local", messages=QUESTION)
        assert raw.headers["x-hedge-tokens"] == "counted", raw.headers

    @check
    def models_are_listed_and_each_can_be_retrieved():
        listed = [model for model in client.models.list()]
        names = [model.id for model in listed]
        assert "auto" in names and "local" in names, names
        assert all(model.type == "model" and model.created_at.year >= 2025 for model in listed), listed
        for name in names:
            assert client.models.retrieve(name).id == name

    @check
    def errors_have_their_classes_and_say_where():
        missing = raised(anthropic.NotFoundError, lambda: create(model="locol"))
        assert missing.body["error"]["type"] == "not_found_error", missing.body
        assert "local" in missing.message and missing.request_id, missing.body
        for change, path in [
            ({"extra_body": {"temperature": 1.5}}, "temperature"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"messages": []}, "messages"),
            ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
            ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name"),
            ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "thinking.budget_tokens"),
        ]:
            error = raised(anthropic.BadRequestError, lambda change=change: create(**change))
            assert error.body["error"]["type"] == "invalid_request_error", error.body
            assert f"'{path}'" in error.body["error"]["message"], error.body

    @check
    def the_beta_client_is_served_too():
        message = client.beta.messages.create(**asked(betas=["interleaved-thinking-2025-05-14"]))
        assert "Lisbon" in message.content[0].text, message

    @check
    def a_stream_left_early_leaves_the_server_well():
        with client.messages.stream(**asked()) as stream:
            next(iter(stream))
        assert create().content[0].text


sys.exit(check.run())
