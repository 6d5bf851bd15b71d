// Vercel's AI SDK with its providers for OpenAI-compatible servers and for Anthropic, unmodified, with the
// model on this machine and with clouds of two dialects.
//
// The server's address is in HEDGE_URL; `clouds.mjs` says which models there are.
import assert from 'node:assert/strict';
import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, Output, embedMany, generateText, jsonSchema, stepCountIs, streamText, tool } from 'ai';
import { Checks, eventually, raised } from './checks.mjs';
import {
  ANTHROPIC, BROKEN, CITY, CLOUDS, EVERYWHERE, FAULTY, LOCAL, OPENAI, PNG, counts, question, sent,
} from './clouds.mjs';

const baseURL = process.env.HEDGE_URL;
const compatible = createOpenAICompatible({
  name: 'hedge', baseURL, includeUsage: true, supportsStructuredOutputs: true,
});
const providers = { 'openai-compatible': compatible, anthropic: createAnthropic({ baseURL, apiKey: 'unused' }) };
const settings = { temperature: 0, maxRetries: 0, maxOutputTokens: 300 };
const parameters = {
  type: 'object',
  properties: { city: { type: 'string', enum: [CITY, 'Porto'] } },
  required: ['city'],
  additionalProperties: false,
};

for (const [name, provider] of Object.entries(providers)) {
  const isAnthropic = name === 'anthropic';
  const checks = new Checks(`ai sdk, ${name}`);
  const ask = (model, more) => ({ ...settings, model: provider(model), ...more });
  const lookUp = (heard = []) =>
    tool({
      description: 'Looks up a city.',
      inputSchema: jsonSchema(parameters),
      execute: ({ city }) => {
        heard.push(city);
        return 'sunny';
      },
    });
  const textOf = async (streamed) => {
    let text = '';
    for await (const delta of streamed.textStream) text += delta;
    return text;
  };
  // Errors within a stream are parts of it or thrown, and else only printed.
  const failures = async (streamed, heard = []) => {
    const found = [];
    try {
      for await (const part of streamed.fullStream) {
        if (part.type === 'error') found.push(part.error);
        if (part.type === 'text-delta') heard.push(part.text);
      }
    } catch (error) {
      found.push(error);
    }
    return found;
  };
  const quiet = { onError: () => {} };

  checks.each(EVERYWHERE, {
    async chats_are_answered_whole_and_streamed(model) {
      const [prompt, holds] = question(model);
      const asked = ask(model, { system: 'Be brief.', prompt });
      const whole = await generateText(asked);
      assert.ok(whole.text.includes(holds), whole.text);
      assert.equal(whole.finishReason, 'stop');
      assert.ok(whole.usage.inputTokens > 0 && whole.usage.outputTokens > 0, JSON.stringify(whole.usage));
      const streamed = streamText(asked);
      assert.equal(await textOf(streamed), whole.text);
      assert.equal((await streamed.usage).outputTokens, whole.usage.outputTokens);
      if (model === ANTHROPIC) assert.match(JSON.stringify((await sent()).system), /Be brief\./);
    },
    async a_forced_tool_is_called_whole_and_streamed(model) {
      const [prompt] = question(model);
      const asked = ask(model, { prompt, tools: { look_up: lookUp() }, toolChoice: 'required' });
      const first = await generateText(asked);
      const { toolCalls, toolResults } = first;
      assert.ok([CITY, 'Porto'].includes(toolCalls[0].input.city), JSON.stringify(toolCalls));
      assert.equal(toolResults[0].output, 'sunny');
      assert.deepEqual((await streamText(asked).toolCalls)[0].input, toolCalls[0].input);
      const messages = [{ role: 'user', content: prompt }, ...first.response.messages];
      const second = await generateText(ask(model, { messages, tools: { look_up: lookUp() } }));
      assert.ok(second.text || second.toolCalls.length > 0);
    },
    async a_reply_keeps_to_a_schema(model) {
      const schema = jsonSchema({
        type: 'object',
        properties: { sure: { type: 'boolean' }, city: parameters.properties.city },
        required: ['sure', 'city'],
        additionalProperties: false,
      });
      const asked = ask(model, { prompt: 'Where is Lisbon?', output: Output.object({ schema }) });
      for (const output of [(await generateText(asked)).output, await streamText(asked).output]) {
        assert.equal(typeof output.sure, 'boolean');
        assert.ok([CITY, 'Porto'].includes(output.city), JSON.stringify(output));
      }
    },
    async an_image_arrives_or_is_refused(model) {
      const content = [
        { type: 'text', text: '[[fake tokens=2]]' },
        { type: 'image', image: PNG, mediaType: 'image/png' },
      ];
      const asked = ask(model, { messages: [{ role: 'user', content }] });
      if (model === LOCAL) {
        const error = await raised(APICallError, generateText(asked));
        assert.equal(error.statusCode, 400);
        return;
      }
      assert.equal((await generateText(asked)).text, 't0 t1 ');
      assert.ok(JSON.stringify((await sent()).messages[0]).includes(PNG));
    },
    async leaving_a_stream_ends_it(model) {
      const before = (await counts()).abandoned;
      const leave = new AbortController();
      const prompt = '[[fake tokens=1000 gap-ms=20]]';
      const streamed = streamText({
        ...ask(model, { prompt, maxOutputTokens: 1000 }), ...quiet, abortSignal: leave.signal,
      });
      for await (const part of streamed.fullStream) if (part.type === 'text-delta') leave.abort();
      if (model !== LOCAL) await eventually(async () => (await counts()).abandoned > before);
      assert.ok((await generateText(ask(model, { prompt: question(model)[0] }))).text);
    },
  });

  checks.each(CLOUDS, {
    async tools_go_round(model) {
      for (const make of [generateText, streamText]) {
        const heard = [];
        const tools = { look_up: lookUp(heard) };
        const result = await make(ask(model, { prompt: '[[fake call=look_up]]', tools, stopWhen: stepCountIs(3) }));
        assert.match(await result.text, /^t0 t1 /);
        assert.deepEqual(heard, [CITY]);
        assert.match(JSON.stringify((await sent()).messages.at(-1)), /sunny/);
      }
    },
    async stop_strings_and_bounds_are_kept(model) {
      const cut = await generateText(ask(model, { prompt: 'hi', stopSequences: ['t3'] }));
      assert.equal(cut.text, 't0 t1 t2 ');
      const short = await generateText(ask(model, { prompt: 'hi', maxOutputTokens: 2 }));
      assert.deepEqual([short.text, short.finishReason], ['t0 t1 ', 'length']);
    },
    async thoughts_are_told_and_counted(model) {
      const providerOptions = isAnthropic
        ? { anthropic: { thinking: { type: 'enabled', budgetTokens: 1024 } } }
        : { hedge: { reasoningEffort: 'low' } };
      const asked = ask(model, {
        prompt: '[[fake tokens=3 think=2 cached=5]]', providerOptions, temperature: undefined, maxOutputTokens: 2000,
      });
      const whole = await generateText(asked);
      assert.equal(whole.reasoningText, 'h0 h1 ');
      assert.equal(whole.text, 't0 t1 t2 ');
      assert.equal(whole.usage.inputTokenDetails.cacheReadTokens, 5, JSON.stringify(whole.usage));
      assert.equal(await streamText(asked).reasoningText, 'h0 h1 ');
    },
    async failures_have_their_status(model) {
      for (const [marker, status] of [
        ['status=400', 400],
        ['status=401', 502],
        ['status=404', 404],
        ['status=429 retry-after=600', 429],
        ['status=529 retry-after=600', isAnthropic ? 529 : 503],
      ]) {
        const asked = ask(FAULTY[model], { prompt: `[[fake ${marker}]]` });
        assert.equal((await raised(APICallError, generateText(asked))).statusCode, status, marker);
        const [error] = await failures(streamText({ ...asked, ...quiet }));
        assert.equal(error.statusCode, status, marker);
      }
    },
    async a_stream_that_breaks_is_an_error(model) {
      const heard = [];
      // With time to read what came before.
      const asked = ask(BROKEN[model], { prompt: '[[fake cut-after=2 gap-ms=100]]' });
      const found = await failures(streamText({ ...asked, ...quiet }), heard);
      assert.ok(found.length > 0);
      assert.equal(heard.join(''), 't0 t1 ');
    },
  });

  checks.add({
    async what_is_wrong_is_told() {
      const asked = ask('nobody', { prompt: 'hi' });
      assert.equal((await raised(APICallError, generateText(asked))).statusCode, 404);
    },
  });

  if (!isAnthropic) {
    checks.each([LOCAL, OPENAI], {
      async texts_are_continued(model) {
        const asked = {
          ...settings, model: compatible.completionModel(model), prompt: question(model)[0], maxOutputTokens: 6,
        };
        const whole = await generateText(asked);
        assert.ok(whole.text.trim(), whole.text);
        assert.equal(await textOf(streamText(asked)), whole.text);
      },
    });
    checks.add({
      async texts_are_embedded() {
        const providerOptions = { hedge: { dimensions: 3 } };
        const embed = (model) =>
          embedMany({ model: compatible.embeddingModel(model), values: ['ab', 'c'], providerOptions, maxRetries: 0 });
        assert.deepEqual((await embed(OPENAI)).embeddings[0], [12.125, 12.375, 12.375]);
        for (const model of [LOCAL, ANTHROPIC]) await raised(APICallError, embed(model));
      },
    });
  }

  await checks.run();
}
