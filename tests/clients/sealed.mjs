// OpenAI's Node SDK, unmodified, through an edge and a relay that sealed.py has started: the edge is at HEDGE_URL, and
// SEALED_MODEL is answered by the relay.
import assert from 'node:assert/strict';
import OpenAI from 'openai';

import { Checks, collect, eventually, raised } from './checks.mjs';
import { counts, sent } from './clouds.mjs';

const model = process.env.SEALED_MODEL;
const client = new OpenAI({ baseURL: process.env.HEDGE_URL, apiKey: 'unused', maxRetries: 0, timeout: 60_000 });
const checks = new Checks('sealed, openai node');
const parameters = { type: 'object', properties: { city: { type: 'string', enum: ['Lisbon'] } }, required: ['city'] };
const tools = [{ type: 'function', function: { name: 'look_up', parameters } }];

const chat = (content, more = {}) =>
  client.chat.completions.create({ model, temperature: 0, messages: [{ role: 'user', content }], ...more });

checks.add({
  async whole_and_streamed_replies_agree_and_are_counted() {
    const text = 'node [[fake tokens=5]]';
    const whole = await chat(text);
    assert.equal(whole.choices[0].message.content, 't0 t1 t2 t3 t4 ');
    const chunks = await collect(await chat(text, { stream: true, stream_options: { include_usage: true } }));
    const streamed = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('');
    assert.equal(streamed, whole.choices[0].message.content);
    assert.equal(chunks.at(-1).usage.completion_tokens, 5);
  },
  async a_tool_is_called() {
    const { choices } = await chat('node [[fake call=look_up]]', { tools });
    const [call] = choices[0].message.tool_calls;
    assert.equal(call.function.name, 'look_up');
    JSON.parse(call.function.arguments);
    assert.deepEqual((await sent()).tools, tools);
  },
  async embeddings_are_the_same_in_either_form() {
    const asked = { model, input: ['ab', 'c'] };
    const plain = await client.embeddings.create({ ...asked, encoding_format: 'float' });
    assert.deepEqual((await client.embeddings.create(asked)).data, plain.data);
  },
  async a_refusal_has_its_class() {
    const error = await raised(OpenAI.RateLimitError, chat('[[fake status=429 retry-after=600]]'));
    assert.equal(error.status, 429);
  },
  async a_stream_that_is_left_ends_at_the_provider() {
    const before = (await counts()).abandoned;
    const stream = await chat('node [[fake tokens=3000 gap-ms=10]]', { stream: true });
    for await (const chunk of stream) {
      assert.ok(chunk);
      break;
    }
    await eventually(async () => (await counts()).abandoned > before);
  },
});

await checks.run();
