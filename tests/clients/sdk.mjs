// OpenAI's Node SDK, unmodified, against a running hedge whose address is in HEDGE_URL.
//
// With SDK_TEST_KEY set, the server asks for that key and only the checks of keys run.
import assert from 'node:assert/strict';
import OpenAI from 'openai';

const url = process.env.HEDGE_URL;
const key = process.env.SDK_TEST_KEY;
const question = [{ role: 'user', content: 'What is the capital of Portugal?' }];
// A cached reply would make any repetition equal, whatever the seed does.
const fresh = { headers: { 'Cache-Control': 'no-store' } };

// The SDK's own retries would hide a failure.
const open = (apiKey) => new OpenAI({ baseURL: url, apiKey, maxRetries: 0, timeout: 60_000 });
const client = open(key ?? 'unused');
const chat = (changes = {}) =>
  client.chat.completions.create({ model: 'local', messages: question, temperature: 0, ...changes }, fresh);

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}
const textOf = (chunks) => chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('');

const withKeys = {
  async the_right_key_is_let_in() {
    assert.ok((await chat()).choices[0].message.content);
  },
  async a_wrong_key_is_an_authentication_error() {
    const stranger = open('wrong');
    const refused = (error) => error instanceof OpenAI.AuthenticationError && error.code === 'invalid_api_key';
    await assert.rejects(stranger.chat.completions.create({ model: 'local', messages: question }), refused);
    await assert.rejects(stranger.models.list(), refused);
  },
};

const withoutKeys = {
  async models_are_listed_and_each_can_be_retrieved() {
    const listed = (await collect(await client.models.list())).map((model) => model.id);
    assert.ok(listed.includes('auto') && listed.includes('local'), listed.join());
    for (const name of listed) assert.equal((await client.models.retrieve(name)).id, name);
  },
  async an_unknown_model_is_not_found_and_the_nearest_is_named() {
    const refused = (error) =>
      error instanceof OpenAI.NotFoundError && error.code === 'model_not_found' && error.message.includes('local');
    await assert.rejects(chat({ model: 'locol' }), refused);
  },
  async a_whole_reply_is_right_and_counted() {
    const reply = await chat();
    assert.match(reply.choices[0].message.content, /Lisbon/);
    assert.equal(reply.choices[0].finish_reason, 'stop');
    assert.ok(reply.usage.prompt_tokens > 0 && reply.usage.completion_tokens > 0);
    assert.equal(reply.usage.total_tokens, reply.usage.prompt_tokens + reply.usage.completion_tokens);
  },
  async a_streamed_reply_says_the_same_with_usage_last() {
    const chunks = await collect(await chat({ stream: true, stream_options: { include_usage: true } }));
    assert.equal(textOf(chunks), (await chat()).choices[0].message.content);
    const last = chunks.at(-1);
    assert.equal(last.choices.length, 0);
    assert.ok(last.usage.completion_tokens > 0);
    assert.equal(chunks.at(-2).choices[0].finish_reason, 'stop');
  },
  async a_stop_string_ends_the_reply_and_is_not_in_it() {
    const whole = (await chat()).choices[0].message.content;
    const middle = Math.floor(whole.length / 2);
    const stop = whole.slice(middle, middle + 3);
    const cut = (await chat({ stop: [stop] })).choices[0];
    assert.equal(cut.message.content, whole.slice(0, whole.indexOf(stop)));
    assert.equal(cut.finish_reason, 'stop');
  },
  async one_seed_gives_one_reply_and_several_give_several() {
    const say = async (seed) => (await chat({ seed, temperature: 2, max_tokens: 24 })).choices[0].message.content;
    assert.equal(await say(7), await say(7));
    const others = new Set();
    for (let seed = 0; seed < 8; seed += 1) others.add(await say(seed));
    assert.ok(others.size > 1, 'eight seeds at temperature 2 all gave the same');
  },
  async the_token_bound_is_kept_and_said() {
    const reply = await chat({ max_tokens: 2 });
    assert.equal(reply.choices[0].finish_reason, 'length');
    assert.equal(reply.usage.completion_tokens, 2);
  },
  async a_bad_parameter_is_a_bad_request_with_its_path() {
    const cases = [
      [{ temperature: 9 }, 'temperature'],
      [{ messages: [] }, 'messages'],
      [{ messages: [...question, { role: 'wizard', content: 'x' }] }, 'messages[1].role'],
    ];
    for (const [change, path] of cases) {
      await assert.rejects(chat(change), (error) => error instanceof OpenAI.BadRequestError && error.param === path);
    }
  },
  async leaving_a_stream_early_leaves_the_server_well() {
    for await (const _ of await chat({ stream: true })) break;
    assert.ok((await chat()).choices[0].message.content);
  },
};

const claims = Object.entries(key ? withKeys : withoutKeys);
let failed = 0;
for (const [name, claim] of claims) {
  const title = `node${key ? ', keys' : ''}: ${name}`;
  try {
    await claim();
    console.log(`ok      ${title}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${title}`);
    console.log(error);
  }
}
console.log(`${claims.length - failed} passed, ${failed} failed`);
process.exitCode = failed ? 1 : 0;
