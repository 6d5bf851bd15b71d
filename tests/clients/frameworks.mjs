// Vercel's AI SDK, unmodified, against a running hedge whose address is in HEDGE_URL. `local` is the model on
// this machine; `fake/big` is a cloud's, which says what a marker in the text tells it to.
import assert from 'node:assert/strict';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, generateText, jsonSchema, streamText, tool } from 'ai';

const provider = createOpenAICompatible({ name: 'hedge', baseURL: process.env.HEDGE_URL, includeUsage: true });
const asked = [
  ['local', 'What is the capital of Portugal?', 'Lisbon'],
  ['fake/big', '[[fake tokens=3]]', 't0 t1 t2'],
];
const settings = { temperature: 0, maxRetries: 0 };

const checks = {
  async chats_are_answered_whole_and_streamed() {
    for (const [model, prompt, holds] of asked) {
      const whole = await generateText({ ...settings, model: provider(model), prompt });
      assert.ok(whole.text.includes(holds), whole.text);
      assert.equal(whole.finishReason, 'stop');
      const streamed = streamText({ ...settings, model: provider(model), prompt });
      let text = '';
      for await (const delta of streamed.textStream) text += delta;
      assert.equal(text, whole.text);
      assert.ok((await streamed.usage).outputTokens > 0);
    }
  },
  async tools_are_called() {
    const weather = tool({
      description: 'Tells the weather.',
      inputSchema: jsonSchema({ type: 'object', properties: { place: { type: 'string' } }, required: ['place'] }),
    });
    const ask = { ...settings, model: provider('fake/big'), prompt: '[[fake call=weather]]', tools: { weather } };
    const { toolCalls, finishReason } = await generateText(ask);
    assert.equal(finishReason, 'tool-calls');
    assert.deepEqual([toolCalls[0].toolName, toolCalls[0].input], ['weather', { place: 'Lisbon' }]);
    const streamed = await streamText(ask).toolCalls;
    assert.deepEqual(streamed[0].input, { place: 'Lisbon' });
  },
  async texts_are_continued() {
    for (const [model, prompt] of asked) {
      const ask = { ...settings, model: provider.completionModel(model), prompt, maxOutputTokens: 6 };
      const whole = await generateText(ask);
      assert.ok(whole.text.trim(), whole.text);
      let text = '';
      for await (const delta of streamText(ask).textStream) text += delta;
      assert.equal(text, whole.text);
    }
  },
  async what_is_wrong_is_told() {
    const refused = (error) => APICallError.isInstance(error) && error.statusCode === 404;
    await assert.rejects(generateText({ ...settings, model: provider('nobody'), prompt: 'hi' }), refused);
  },
};

let failed = 0;
for (const [claim, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`ok      ai sdk: ${claim}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ai sdk: ${claim}`);
    console.log(error);
  }
}
console.log(`${Object.keys(checks).length - failed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
