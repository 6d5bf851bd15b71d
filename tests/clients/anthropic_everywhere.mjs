// Anthropic's Node SDK, unmodified, with the model on this machine and with clouds of two dialects.
//
// The server's address is in HEDGE_URL; `clouds.mjs` says which models there are.
import assert from 'node:assert/strict';
import Anthropic from '@anthropic-ai/sdk';
import { Checks, collect, eventually, raised } from './checks.mjs';
import {
  ANTHROPIC, BROKEN, CITY, CLOUDS, EVERYWHERE, FAULTY, LOCAL, OPENAI, PNG, counts, question, sent,
} from './clouds.mjs';

// This SDK puts `/v1` before every path itself.
const baseURL = process.env.HEDGE_URL.replace(/\/v1$/, '');
const client = new Anthropic({ baseURL, apiKey: 'unused', maxRetries: 0, timeout: 60_000 });
const checks = new Checks('anthropic node');
const input_schema = {
  type: 'object',
  properties: { city: { type: 'string', enum: [CITY, 'Porto'] } },
  required: ['city'],
};
const tools = [{ name: 'look_up', description: 'Looks up a city.', input_schema }];
const forced = { tools, tool_choice: { type: 'tool', name: 'look_up' }, max_tokens: 200 };
const schema = {
  type: 'object',
  properties: { sure: { type: 'boolean' }, city: { type: 'string', enum: [CITY, 'Porto'] } },
  required: ['sure', 'city'],
  additionalProperties: false,
};

const user = (content) => [{ role: 'user', content }];
const asked = (model, content, changes = {}) => ({
  model, max_tokens: 64, messages: user(content), temperature: 0, ...changes,
});
const create = (...what) => client.messages.create(asked(...what));
const final = (...what) => client.messages.stream(asked(...what)).finalMessage();
const textOf = (message) => message.content.map((block) => block.text ?? '').join('');
const promptOf = ({ usage }) =>
  usage.input_tokens + (usage.cache_read_input_tokens ?? 0) + (usage.cache_creation_input_tokens ?? 0);

checks.each(EVERYWHERE, {
  async whole_and_streamed_messages_agree_and_are_counted(model) {
    const [text, holds] = question(model);
    const [whole, streamed] = [await create(model, text), await final(model, text)];
    assert.ok(textOf(whole).includes(holds), textOf(whole));
    assert.equal(textOf(streamed), textOf(whole));
    for (const message of [whole, streamed]) {
      assert.equal(message.stop_reason, 'end_turn');
      assert.equal(message.usage.output_tokens, whole.usage.output_tokens);
      assert.ok(promptOf(message) > 0);
    }
  },
  async a_system_prompt_arrives(model) {
    const [text] = question(model);
    const system = [{ type: 'text', text: 'Be kind to animals.', cache_control: { type: 'ephemeral' } }];
    const plain = await create(model, text);
    assert.ok(promptOf(await create(model, text, { system })) > promptOf(plain));
    if (model === ANTHROPIC) assert.deepEqual((await sent()).system, system);
    if (model === OPENAI) assert.match(JSON.stringify((await sent()).messages[0]), /Be kind to animals\./);
  },
  async a_tool_goes_round(model) {
    const [text] = question(model);
    const message = await create(model, text, forced);
    const call = message.content.at(-1);
    assert.equal(message.stop_reason, 'tool_use');
    assert.ok([CITY, 'Porto'].includes(call.input.city), JSON.stringify(call));
    assert.deepEqual((await final(model, text, forced)).content.at(-1).input, call.input);
    const result = { type: 'tool_result', tool_use_id: call.id, content: 'sunny' };
    const messages = [
      ...user(text), { role: 'assistant', content: message.content }, { role: 'user', content: [result] },
    ];
    assert.ok(textOf(await create(model, '', { messages, tools })));
  },
  async a_reply_keeps_to_a_schema(model) {
    const output_config = { format: { type: 'json_schema', schema } };
    const answer = JSON.parse(textOf(await create(model, 'Where is Lisbon?', { output_config, max_tokens: 200 })));
    assert.equal(typeof answer.sure, 'boolean');
    assert.ok([CITY, 'Porto'].includes(answer.city), JSON.stringify(answer));
  },
  async an_image_arrives_or_is_refused(model) {
    const source = { type: 'base64', media_type: 'image/png', data: PNG };
    const content = [{ type: 'image', source }, { type: 'text', text: '[[fake tokens=2]]' }];
    if (model === LOCAL) {
      const error = await raised(Anthropic.BadRequestError, create(model, content));
      assert.match(error.message, /image/);
      return;
    }
    assert.equal(textOf(await create(model, content)), 't0 t1 ');
    assert.ok(JSON.stringify((await sent()).messages[0]).includes(PNG));
  },
  async leaving_a_stream_ends_it(model) {
    const before = (await counts()).abandoned;
    const slow = model === LOCAL ? { ignore_eos: true } : {};
    const more = { max_tokens: 1000, stream: true, ...slow };
    const stream = await create(model, '[[fake tokens=1000 gap-ms=20]]', more);
    for await (const event of stream) {
      assert.ok(event.type);
      break;
    }
    if (model !== LOCAL) await eventually(async () => (await counts()).abandoned > before);
    assert.ok(textOf(await create(model, question(model)[0])));
  },
  async tokens_are_counted(model) {
    const messages = user(question(model)[0]);
    const plain = await client.messages.countTokens({ model, messages });
    const more = await client.messages.countTokens({ model, messages, system: 'Be brief.', tools });
    assert.ok(plain.input_tokens > 0 && more.input_tokens > plain.input_tokens);
  },
});

checks.each(CLOUDS, {
  async pieces_of_arguments_are_streamed(model) {
    const events = await collect(await create(model, '[[fake call=look_up]]', { tools, stream: true }));
    const deltas = events.filter((event) => event.delta?.type === 'input_json_delta');
    assert.deepEqual(JSON.parse(deltas.map((event) => event.delta.partial_json).join('')), { city: CITY });
  },
  async the_tool_runner_runs_to_its_end(model) {
    const heard = [];
    const run = ({ city }) => {
      heard.push(city);
      return 'sunny';
    };
    const look_up = { type: 'custom', name: 'look_up', input_schema, run, parse: (input) => input };
    const messages = user('[[fake call=look_up]]');
    const last = await client.beta.messages.toolRunner({ model, max_tokens: 64, tools: [look_up], messages });
    assert.deepEqual(heard, [CITY]);
    assert.match(textOf(last), /^t0 t1 /);
  },
  async reasons_for_the_end_are_said(model) {
    assert.equal((await create(model, 'hi', { max_tokens: 2 })).stop_reason, 'max_tokens');
    const refusal = { [ANTHROPIC]: 'refusal', [OPENAI]: 'content_filter' }[model];
    assert.equal((await create(model, `[[fake tokens=1 ends=${refusal}]]`)).stop_reason, 'refusal');
    assert.equal(textOf(await create(model, 'hi', { stop_sequences: ['t2'] })), 't0 t1 ');
  },
  async thoughts_are_told_and_can_be_sent_back(model) {
    const thinking = { type: 'enabled', budget_tokens: 1024 };
    const thinks = { thinking, max_tokens: 2000, tools, temperature: undefined };
    const text = '[[fake call=look_up think=3]]';
    for (const message of [await create(model, text, thinks), await final(model, text, thinks)]) {
      assert.equal(message.content[0].thinking, 'h0 h1 h2 ');
      const result = { type: 'tool_result', tool_use_id: message.content.at(-1).id, content: 'sunny' };
      const messages = [
        ...user(text), { role: 'assistant', content: message.content }, { role: 'user', content: [result] },
      ];
      assert.match(textOf(await create(model, '', { ...thinks, messages })), /^t0 /);
    }
  },
  async the_cache_is_counted(model) {
    const { usage } = await create(model, '[[fake tokens=3 cached=5]]');
    assert.equal(usage.cache_read_input_tokens, 5);
    assert.equal(usage.output_tokens, 3);
  },
  async each_failure_has_its_class(model) {
    // A wait too long to be waited for here.
    for (const [marker, kind, status, type] of [
      ['status=400', Anthropic.BadRequestError, 400, 'invalid_request_error'],
      ['status=401', Anthropic.InternalServerError, 502, 'api_error'],
      ['status=404', Anthropic.NotFoundError, 404, 'not_found_error'],
      ['status=429 retry-after=600', Anthropic.RateLimitError, 429, 'rate_limit_error'],
      ['status=500', Anthropic.InternalServerError, 502, 'api_error'],
      ['status=529 retry-after=600', Anthropic.InternalServerError, 529, 'overloaded_error'],
    ]) {
      for (const call of [create, final]) {
        const error = await raised(kind, call(FAULTY[model], `[[fake ${marker}]]`));
        assert.equal(error.status, status, marker);
        assert.equal(error.error.error.type, type, marker);
      }
    }
  },
  async a_stream_that_breaks_is_an_error(model) {
    for (const marker of ['cut-after=2', 'error-after=2', 'end-early=2']) {
      let heard = '';
      const stream = client.messages.stream(asked(BROKEN[model], `[[fake ${marker}]]`));
      stream.on('text', (more) => (heard += more));
      await raised(Anthropic.AnthropicError, stream.finalMessage());
      assert.equal(heard, 't0 t1 ', marker);
    }
  },
});

checks.add({
  async all_models_are_listed() {
    const listed = (await collect(client.models.list())).map((model) => model.id);
    for (const model of [...EVERYWHERE, ...Object.values(FAULTY)]) assert.ok(listed.includes(model), listed.join());
  },
});

await checks.run();
