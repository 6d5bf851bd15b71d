// Anthropic's Node SDK, unmodified, against a running hedge whose address is in HEDGE_URL.
//
// With SDK_TEST_KEY set, the server asks for that key and only the checks of keys run.
import assert from 'node:assert/strict';
import Anthropic from '@anthropic-ai/sdk';

// This SDK puts `/v1` before every path itself.
const baseURL = process.env.HEDGE_URL.replace(/\/v1$/, '');
const key = process.env.SDK_TEST_KEY;
const question = [{ role: 'user', content: 'What is the capital of Portugal?' }];
const fresh = { headers: { 'Cache-Control': 'no-store' } };
const tools = [
  {
    name: 'look_up',
    input_schema: { type: 'object', properties: { city: { enum: ['Lisbon', 'Porto'] } }, required: ['city'] },
  },
];

// The SDK's own retries would hide a failure.
const open = (apiKey) => new Anthropic({ baseURL, apiKey, maxRetries: 0, timeout: 60_000 });
const client = open(key ?? 'unused');
const asked = (changes) => ({ model: 'local', max_tokens: 64, messages: question, temperature: 0, ...changes });
const create = (changes = {}) => client.messages.create(asked(changes), fresh);
// What the server still had of a prompt from before is counted apart.
const promptOf = ({ usage }) => usage.input_tokens + usage.cache_read_input_tokens;
const textOf = (message) => message.content.map((block) => block.text ?? '').join('');

const withKeys = {
  async the_right_key_is_let_in() {
    assert.ok(textOf(await create()));
  },
  async a_wrong_key_is_an_authentication_error() {
    const stranger = open('wrong');
    const refused = (error) =>
      error instanceof Anthropic.AuthenticationError && error.error.error.type === 'authentication_error';
    await assert.rejects(stranger.messages.create(asked({})), refused);
    await assert.rejects(stranger.models.list(), refused);
  },
};

const withoutKeys = {
  async a_whole_message_is_right_and_counted() {
    const message = await create();
    assert.match(textOf(message), /Lisbon/);
    assert.equal(message.stop_reason, 'end_turn');
    assert.ok(promptOf(message) > 0 && message.usage.output_tokens > 0);
    assert.ok(message._request_id);
  },
  async a_streamed_message_says_the_same() {
    const whole = await create();
    let text = '';
    const stream = client.messages.stream(asked({}), fresh).on('text', (more) => (text += more));
    const final = await stream.finalMessage();
    assert.equal(text, textOf(whole));
    assert.equal(textOf(final), text);
    assert.equal(final.stop_reason, 'end_turn');
    assert.equal(final.usage.output_tokens, whole.usage.output_tokens);
  },
  async a_stop_sequence_is_named_and_not_in_the_text() {
    const whole = textOf(await create());
    const middle = Math.floor(whole.length / 2);
    const stop = whole.slice(middle, middle + 3);
    const cut = await create({ stop_sequences: ['###', '@@@', '%%%', '&&&', stop] });
    assert.equal(textOf(cut), whole.slice(0, whole.indexOf(stop)));
    assert.equal(cut.stop_reason, 'stop_sequence');
    assert.equal(cut.stop_sequence, stop);
  },
  async a_forced_tool_is_called_whole_and_streamed() {
    const forced = { tools, tool_choice: { type: 'any' }, max_tokens: 200 };
    const call = (await create(forced)).content.at(-1);
    assert.equal(call.type, 'tool_use');
    assert.equal(call.name, 'look_up');
    assert.ok(['Lisbon', 'Porto'].includes(call.input.city), JSON.stringify(call));
    const final = await client.messages.stream(asked(forced), fresh).finalMessage();
    assert.equal(final.stop_reason, 'tool_use');
    assert.deepEqual(final.content.at(-1).input, call.input);
  },
  async tokens_are_counted_as_they_are_charged() {
    const counted = await client.messages.countTokens({ model: 'local', messages: question });
    assert.equal(counted.input_tokens, promptOf(await create()));
  },
  async models_are_listed_and_each_can_be_retrieved() {
    const names = [];
    for await (const model of client.models.list()) names.push(model.id);
    assert.ok(names.includes('auto') && names.includes('local'), names.join());
    for (const name of names) assert.equal((await client.models.retrieve(name)).id, name);
  },
  async errors_have_their_classes_and_say_where() {
    const missing = (error) => error instanceof Anthropic.NotFoundError && error.message.includes('local');
    await assert.rejects(create({ model: 'locol' }), missing);
    const cases = [
      [{ temperature: 1.5 }, 'temperature'],
      [{ messages: [] }, 'messages'],
      [{ messages: [{ role: 'wizard', content: 'x' }] }, 'messages[0].role'],
    ];
    for (const [change, path] of cases) {
      const refused = (error) =>
        error instanceof Anthropic.BadRequestError && error.error.error.message.includes(`'${path}'`);
      await assert.rejects(create(change), refused);
    }
  },
  async leaving_a_stream_early_leaves_the_server_well() {
    for await (const _ of await create({ stream: true })) break;
    assert.ok(textOf(await create()));
  },
};

const claims = Object.entries(key ? withKeys : withoutKeys);
let failed = 0;
for (const [name, claim] of claims) {
  const title = `anthropic node${key ? ', keys' : ''}: ${name}`;
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
