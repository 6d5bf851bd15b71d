// node.mjs PEER: both directions between our codec and two implementations of HPKE, with X25519 and
// X-Wing, a byte at a time, and what bhttp-js says to our messages.

import assert from "node:assert/strict";

import { BHttpDecoder, BHttpEncoder } from "bhttp-js";
import { Identity } from "ehbp";

import { KEMS, cut, keyList, openRequest, readKeyList, sealRequest } from "./ohttp.mjs";
import { Peer, hex } from "./peer.mjs";
import { stacks } from "./stacks.mjs";

const program = process.argv[2];
const proofLabel = new TextEncoder().encode("relay/1 edge proof");
const question = "what is asked, ".repeat(300);

let passed = 0;
let failed = 0;
async function check(name, run) {
  try {
    await run();
    passed += 1;
    console.log(`ok      ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}\n${error.stack}`);
  }
}

/** The events of a stream, whose comments mean nothing. */
function events(stream) {
  const lines = stream.split("\n\n").flatMap((event) => event.split("\n"));
  return lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
}

/** What it said in `form`, as JSON, and what of its form can be seen. */
async function said(form, chunks) {
  const plain = new Uint8Array(Buffer.concat(chunks));
  const response = new BHttpDecoder().decodeResponse(plain);
  const body = await response.text();
  switch (form) {
    case "/known":
    case "/open":
      assert.equal(response.status, form === "/open" ? 201 : 200);
      assert.equal(response.headers.get("x-form"), form);
      assert.ok(plain.at(-1) === 0 && plain.at(-100) === 0, "there is padding");
      return JSON.parse(body);
    case "/cells":
    case "/constant": {
      const size = form === "/cells" ? 512 : 1024;
      assert.ok(chunks.every((chunk) => chunk.length === size), "cells are of one size");
      if (form === "/constant") {
        // Of those before the answer: an informational response in each.
        assert.deepEqual([...chunks[1].subarray(0, 2)], [0x40, 102]);
        assert.ok(chunks.at(-1).every((byte) => byte === 0), "zeros follow the end");
      }
      const [first, last] = events(body);
      assert.equal(last, "[DONE]");
      return JSON.parse(first);
    }
  }
}

async function askOurGateway(hpke, kem, form, gateway, configs) {
  const config = configs.find((config) => config.kem === kem);
  const asked = new Request(`https://relay.invalid${form}`, {
    method: "POST",
    headers: { "content-type": "text/plain", "x-from": "stranger" },
    body: question,
  });
  let proof;
  const { sealed, open } = await sealRequest(hpke, config, async (context) => {
    proof = hex(await context.export(proofLabel, 32));
    return new BHttpEncoder().encodeRequest(asked);
  });
  gateway.say("request", sealed);
  const response = await gateway.hear("response");
  const heard = await said(form, await open(response));
  assert.equal(heard.proof, proof, "both ends export the same");
  assert.deepEqual([heard.method, heard.authority, heard.path], ["POST", "relay.invalid", form]);
  assert.equal(heard.header["x-from"], "stranger");
  assert.equal(heard.content, question);
  await assert.rejects(open(response.subarray(0, -1)), "a cut answer is none");
}

async function answerOurEdge(hpke, kem, form) {
  const key = await hpke.keys();
  const edge = new Peer(program, "edge", kem, form);
  edge.say("keys", keyList({ id: 9, kem, key: key.public }));
  const sealed = await edge.hear("request");
  assert.equal(sealed[0], 9);
  const { plain, seal, context } = await openRequest(hpke, key.secret, kem, sealed);
  const request = new BHttpDecoder().decodeRequest(plain);
  assert.equal(request.method, "POST");
  assert.equal(request.url, "https://relay.invalid/v1/chat/completions");
  assert.equal(request.headers.get("x-proof"), hex(await context.export(proofLabel, 32)));
  assert.equal(await request.text(), "a question, ".repeat(2_000));
  assert.equal(plain.at(-1), 0, "there is padding");
  const answer = new Response("an answer, ".repeat(500), { status: 418, headers: { "x-from": "stranger" } });
  edge.say("response", await seal(cut(await new BHttpEncoder().encodeResponse(answer))));
  const heard = JSON.parse(await edge.line());
  await edge.end();
  assert.equal(heard.status, 418);
  assert.equal(heard.header["x-from"], "stranger");
  assert.equal(heard.content, "an answer, ".repeat(500));
}

const gateway = new Peer(program, "gateway");
const list = await gateway.hear("keys");
const configs = readKeyList(list);

for (const [name, kems] of Object.entries(stacks)) {
  for (const [kem, hpke] of Object.entries(kems)) {
    for (const form of ["/known", "/open", "/cells", "/constant"]) {
      await check(`${name}, ${kem}: asks our gateway, which answers as ${form.slice(1)}`, () =>
        askOurGateway(hpke, kem, form, gateway, configs));
    }
    for (const form of ["known", "open"]) {
      await check(`${name}, ${kem}: answers our edge, which asks with ${form} length`, () =>
        answerOurEdge(hpke, kem, form));
    }
  }
}

await check("readers of the first entry of our key list, as ehbp is, find X25519", async () => {
  assert.deepEqual(configs.map(({ kem }) => kem), ["x25519", "x-wing"]);
  assert.deepEqual(configs.map(({ suites }) => hex(suites)), ["00010002", "00010002"]);
  // ehbp reads one configuration with no length before it, and passes over what follows.
  const identity = await Identity.unmarshalPublicConfig(list.subarray(2));
  assert.equal(await identity.getPublicKeyHex(), hex(configs[0].key));
});

await check("our gateway ends when it is asked nothing more", () => gateway.end());

console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
