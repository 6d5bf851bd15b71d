// OpenAI's Node SDK, unmodified, with the model on this machine and with clouds of two dialects.
//
// The server's address is in HEDGE_URL; `clouds.mjs` says which models there are.
import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { Checks, collect, eventually, raised } from './checks.mjs';
import {
  ANTHROPIC, BROKEN, CITY, CLOUDS, EVERYWHERE, FAULTY, LOCAL, OPENAI, PNG, counts, question, sent,
} from './clouds.mjs';

const client = new OpenAI({ baseURL: process.env.HEDGE_URL, apiKey: 'unused', maxRetries: 0, timeout: 60_000 });
const checks = new Checks('openai node');
const parameters = {
  type: 'object',
  properties: { city: { type: 'string', enum: [CITY, 'Porto'] } },
  required: ['city'],
  additionalProperties: false,
};
const tools = [{ type: 'function', function: { name: 'look_up', description: 'Looks up a city.', parameters } }];
const user = (content) => [{ role: 'user', content }];
const chat = (model, content, changes = {}, options = undefined) =>
  client.chat.completions.create({ model, messages: user(content), temperature: 0, ...changes }, options);
const textOf = (chunks) => chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('');
const schema = {
  type: 'object',
  properties: { sure: { type: 'boolean' }, city: { type: 'string', enum: [CITY, 'Porto'] } },
  required: ['sure', 'city'],
  additionalProperties: false,
};

checks.each(EVERYWHERE, {
  async whole_and_streamed_replies_agree_and_are_counted(model) {
    const [text, holds] = question(model);
    const whole = await chat(model, text);
    assert.ok(whole.choices[0].message.content.includes(holds), whole.choices[0].message.content);
    const chunks = await collect(await chat(model, text, { stream: true, stream_options: { include_usage: true } }));
    assert.equal(textOf(chunks), whole.choices[0].message.content);
    assert.equal(chunks.at(-1).usage.completion_tokens, whole.usage.completion_tokens);
    assert.ok(whole.usage.prompt_tokens > 0 && whole.usage.completion_tokens > 0);
  },
  async a_system_prompt_arrives(model) {
    const [text] = question(model);
    const plain = await chat(model, text);
    const messages = [{ role: 'system', content: 'Be kind to animals.' }, ...user(text)];
    const kind = await chat(model, text, { messages });
    assert.ok(kind.usage.prompt_tokens > plain.usage.prompt_tokens);
    if (model === OPENAI) assert.deepEqual((await sent()).messages, messages);
    if (model === ANTHROPIC) assert.match(JSON.stringify((await sent()).system), /Be kind to animals\./);
  },
  async a_tool_goes_round(model) {
    const [text] = question(model);
    const forced = { tools, tool_choice: { type: 'function', function: { name: 'look_up' } }, max_tokens: 200 };
    const first = (await chat(model, text, forced)).choices[0];
    const call = first.message.tool_calls[0];
    const input = JSON.parse(call.function.arguments);
    assert.ok([CITY, 'Porto'].includes(input.city), call.function.arguments);
    const final = await client.chat.completions
      .stream({ model, messages: user(text), temperature: 0, ...forced })
      .finalChatCompletion();
    assert.deepEqual(JSON.parse(final.choices[0].message.tool_calls[0].function.arguments), input);
    const result = { role: 'tool', tool_call_id: call.id, content: 'sunny' };
    const answer = await chat(model, text, { messages: [...user(text), first.message, result], tools });
    assert.ok(answer.choices[0].message.content);
  },
  async a_reply_keeps_to_a_schema(model) {
    const response_format = { type: 'json_schema', json_schema: { name: 'answer', strict: true, schema } };
    const reply = await chat(model, 'Where is Lisbon?', { response_format });
    const answer = JSON.parse(reply.choices[0].message.content);
    assert.equal(typeof answer.sure, 'boolean');
    assert.ok([CITY, 'Porto'].includes(answer.city), reply.choices[0].message.content);
  },
  async an_image_arrives_or_is_refused(model) {
    const content = [
      { type: 'text', text: '[[fake tokens=2]]' },
      { type: 'image_url', image_url: { url: `data:image/png;base64,${PNG}` } },
    ];
    if (model === LOCAL) {
      const error = await raised(OpenAI.BadRequestError, chat(model, content));
      assert.equal(error.code, 'unsupported_by_model');
      assert.match(error.message, /image/);
      return;
    }
    assert.equal((await chat(model, content)).choices[0].message.content, 't0 t1 ');
    assert.ok(JSON.stringify((await sent()).messages[0]).includes(PNG));
  },
  async leaving_a_stream_ends_it(model) {
    const before = (await counts()).abandoned;
    const slow = model === LOCAL ? { max_tokens: 1000, ignore_eos: true } : {};
    const stream = await chat(model, '[[fake tokens=1000 gap-ms=20]]', { stream: true, ...slow });
    for await (const chunk of stream) {
      assert.ok(chunk.id);
      stream.controller.abort();
      break;
    }
    if (model !== LOCAL) await eventually(async () => (await counts()).abandoned > before);
    assert.ok((await chat(model, question(model)[0])).choices[0].message.content);
  },
  async responses_are_made_whole_and_streamed(model) {
    const [input, holds] = question(model);
    const asked = { model, input, temperature: 0 };
    const whole = await client.responses.create(asked);
    assert.ok(whole.output_text.includes(holds), whole.output_text);
    const events = await collect(await client.responses.create({ ...asked, stream: true }));
    assert.equal(events.at(-1).type, 'response.completed');
    const said = events.filter((event) => event.type === 'response.output_text.delta').map((event) => event.delta);
    assert.equal(said.join(''), whole.output_text);
    const final = await client.responses.stream(asked).finalResponse();
    assert.equal(final.output_text, whole.output_text);
    assert.equal((await client.responses.retrieve(whole.id)).output_text, whole.output_text);
  },
  async responses_call_tools(model) {
    const [input] = question(model);
    const asked = { model, tools: [{ type: 'function', name: 'look_up', parameters, strict: true }], temperature: 0 };
    const first = await client.responses.create({
      ...asked, input, tool_choice: { type: 'function', name: 'look_up' },
    });
    const call = first.output.at(-1);
    assert.ok(JSON.parse(call.arguments).city, JSON.stringify(first.output));
    const result = { type: 'function_call_output', call_id: call.call_id, output: 'sunny' };
    const second = await client.responses.create({ ...asked, input: [result], previous_response_id: first.id });
    assert.ok(second.output_text);
  },
});

checks.each(CLOUDS, {
  async the_tool_runner_runs_to_its_end(model) {
    const heard = [];
    const look_up = {
      type: 'function',
      function: {
        name: 'look_up', parameters, parse: JSON.parse,
        function: ({ city }) => {
          heard.push(city);
          return 'sunny';
        },
      },
    };
    const messages = user('[[fake call=look_up]]');
    const runner = client.chat.completions.runTools({ model, messages, tools: [look_up] });
    assert.match(await runner.finalContent(), /^t0 t1 /);
    assert.deepEqual(heard, [CITY]);
  },
  async a_stop_string_and_the_token_bound_are_kept(model) {
    const cut = (await chat(model, 'hi', { stop: ['t3'] })).choices[0];
    assert.deepEqual([cut.message.content, cut.finish_reason], ['t0 t1 t2 ', 'stop']);
    const short = (await chat(model, 'hi', { max_completion_tokens: 2 })).choices[0];
    assert.deepEqual([short.message.content, short.finish_reason], ['t0 t1 ', 'length']);
  },
  async thoughts_and_the_cache_are_counted(model) {
    const changes = { temperature: undefined, reasoning_effort: 'low' };
    const { choices, usage } = await chat(model, '[[fake tokens=3 think=2 cached=5]]', changes);
    assert.equal(choices[0].message.reasoning_content, 'h0 h1 ');
    assert.equal(usage.prompt_tokens_details.cached_tokens, 5);
    assert.equal(usage.completion_tokens, 5);
  },
  async each_failure_has_its_class(model) {
    // A wait too long to be waited for here.
    for (const [marker, kind, status] of [
      ['status=400', OpenAI.BadRequestError, 400],
      ['status=401', OpenAI.InternalServerError, 502],
      ['status=404', OpenAI.NotFoundError, 404],
      ['status=429 retry-after=600', OpenAI.RateLimitError, 429],
      ['status=500', OpenAI.InternalServerError, 502],
      ['status=529 retry-after=600', OpenAI.InternalServerError, 503],
    ]) {
      for (const stream of [false, true]) {
        const error = await raised(kind, chat(FAULTY[model], `[[fake ${marker}]]`, { stream }));
        assert.equal(error.status, status, marker);
        if (marker.includes('retry-after')) assert.ok(Number(error.headers.get('retry-after')) > 0);
      }
    }
  },
  async a_stream_that_breaks_is_an_error(model) {
    for (const marker of ['cut-after=2', 'error-after=2', 'end-early=2']) {
      const heard = [];
      const listen = async () => {
        const stream = await chat(BROKEN[model], `[[fake ${marker}]]`, { stream: true });
        for await (const chunk of stream) heard.push(chunk);
      };
      await raised(Error, listen());
      assert.equal(textOf(heard), 't0 t1 ', marker);
    }
  },
});

checks.each([LOCAL, OPENAI], {
  async older_completions_continue_texts(model) {
    const asked = { model, prompt: question(model)[0], max_tokens: 6, temperature: 0 };
    const whole = await client.completions.create(asked);
    assert.ok(whole.choices[0].text.trim(), whole.choices[0].text);
    const chunks = await collect(await client.completions.create({ ...asked, stream: true }));
    assert.equal(chunks.map((chunk) => chunk.choices[0]?.text ?? '').join(''), whole.choices[0].text);
  },
});

checks.each([LOCAL, ANTHROPIC], {
  async embeddings_of_models_that_have_none_are_refused(model) {
    const error = await raised(OpenAI.APIError, client.embeddings.create({ model, input: 'a' }));
    assert.ok([400, 404].includes(error.status), `${error.status}`);
  },
});

checks.add({
  async older_completions_are_refused_for_models_that_only_chat() {
    const error = await raised(OpenAI.BadRequestError, client.completions.create({ model: ANTHROPIC, prompt: 'a' }));
    assert.equal(error.param, 'prompt');
  },
  async embeddings_are_the_clouds_in_either_form() {
    const asked = { model: OPENAI, input: ['ab', 'c'], dimensions: 3 };
    const plain = await client.embeddings.create({ ...asked, encoding_format: 'float' });
    assert.deepEqual(plain.data[0].embedding, [12.125, 12.375, 12.375]);
    // The SDK asks for base64 and decodes it.
    assert.deepEqual((await client.embeddings.create(asked)).data, plain.data);
  },
  async all_models_are_listed() {
    const listed = (await collect(await client.models.list())).map((model) => model.id);
    for (const model of [...EVERYWHERE, ...Object.values(FAULTY)]) assert.ok(listed.includes(model), listed.join());
  },
});

await checks.run();
