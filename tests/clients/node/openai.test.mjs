// openai-node, unchanged, sees in the gateway what it sees in the OpenAI API.
// Run by `python tests/clients/gateway.py node --test`, which says in the environment where the gateway is.

import assert from "node:assert/strict";
import test from "node:test";
import OpenAI from "openai";

const KEYS = JSON.parse(process.env.NTONIX_KEYS);
const BROKEN = JSON.parse(process.env.NTONIX_BROKEN);
const TEXT = "t0 t1 t2 t3 t4 ";
const TEST_WITHIN_MS = 120_000;

const clientOf = (tenant, options = {}) =>
  new OpenAI({ baseURL: `${process.env.NTONIX_URL}/v1`, apiKey: KEYS[tenant], maxRetries: 0, ...options });
const client = clientOf("research");

const ask = (more = {}, by = client) =>
  by.chat.completions.create({
    model: "mock-model",
    messages: [{ role: "user", content: "hello" }],
    max_tokens: 5,
    ...more,
  });

/** Everything that an asynchronous iteration gives. */
const gather = async (iterable) => {
  const all = [];
  for await (const one of iterable) all.push(one);
  return all;
};

const bounded = (name, body) => test(name, { timeout: TEST_WITHIN_MS }, body);

// --- what fails

for (const [model, error, status, code] of [
  ["no-such-model", OpenAI.NotFoundError, 404, "model_not_found"],
  ["status-400", OpenAI.BadRequestError, 400, "mock"],
  ["status-404", OpenAI.NotFoundError, 404, "mock"],
  ["status-500", OpenAI.InternalServerError, 500, "mock"],
  ["garbage", OpenAI.InternalServerError, 502, "upstream_protocol"],
  ["gone", OpenAI.InternalServerError, 502, "upstream_connect"],
]) {
  for (const stream of [false, true]) {
    bounded(`${model}, ${stream ? "" : "not "}streamed, is ${error.name} with ${status}`, async () => {
      await assert.rejects(ask({ model, stream }), (raised) => {
        assert.ok(raised instanceof error, raised);
        assert.deepEqual([raised.status, raised.code], [status, code]);
        assert.ok(raised.requestID);
        return true;
      });
    });
  }
}

bounded("an unknown key is an authentication error", async () => {
  const nobody = clientOf("research", { apiKey: "ntx_nobody" });
  await assert.rejects(ask({}, nobody), OpenAI.AuthenticationError);
});

bounded("a model that the tenant may not use is a permission error", async () => {
  await assert.rejects(ask({ model: "gone" }, clientOf("narrow")), OpenAI.PermissionDeniedError);
});

bounded("a spent limit gets one retry after the time it names", async () => {
  const seen = [];
  const noting = async (url, init) => {
    const response = await fetch(url, init);
    seen.push([response.status, new Headers(init.headers).get("x-stainless-retry-count")]);
    return response;
  };
  const hasty = clientOf("hasty", { maxRetries: 2, fetch: noting });
  // The limit is 60 a minute, all of which may come at once; one comes back each second.
  let answer;
  for (let calls = 0; calls < 200 && seen.length < 2; calls++) {
    seen.length = 0;
    answer = await ask({}, hasty);
  }
  assert.deepEqual(seen, [[429, "0"], [200, "1"]]);
  assert.equal(answer.choices[0].message.content, TEXT);

  const impatient = clientOf("hasty");
  const exhaust = async () => {
    for (let calls = 0; calls < 200; calls++) await ask({}, impatient);
  };
  await assert.rejects(exhaust(), (raised) => {
    assert.ok(raised instanceof OpenAI.RateLimitError, raised);
    assert.deepEqual([raised.code, raised.headers.get("retry-after")], ["rate_limited", "1"]);
    return true;
  });
});

for (const [model, code] of Object.entries(BROKEN)) {
  const isTold = (raised) => raised instanceof OpenAI.APIError && String(raised.code) === code;

  bounded(`a stream that ends as ${model} raises after its last token`, async () => {
    let text = "";
    const read = async () => {
      for await (const chunk of await ask({ model, stream: true })) text += chunk.choices[0].delta.content ?? "";
    };
    await assert.rejects(read(), isTold);
    assert.equal(text, "t0 t1 t2 ");
  });

  bounded(`the stream helper raises when a stream ends as ${model}`, async () => {
    const messages = [{ role: "user", content: "hello" }];
    const runner = client.chat.completions.stream({ model, messages });
    await assert.rejects(runner.finalChatCompletion(), isTold);
  });
}

// --- what works

bounded("a chat that is not streamed", async () => {
  const answer = await ask();
  assert.equal(answer.choices[0].message.content, TEXT);
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.equal(answer.usage.completion_tokens, 5);
  assert.ok(answer._request_id);
});

bounded("a chat that is streamed has no usage unless asked", async () => {
  const chunks = await gather(await ask({ stream: true }));
  assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join(""), TEXT);
  assert.equal(chunks.at(-1).choices[0].finish_reason, "stop");
  assert.ok(chunks.every((chunk) => !chunk.usage));
});

bounded("a chat that is streamed ends with its usage when asked", async () => {
  const chunks = await gather(await ask({ stream: true, stream_options: { include_usage: true } }));
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.equal(chunks.at(-1).usage.completion_tokens, 5);
});

bounded("the stream helper gives the whole completion", async () => {
  const messages = [{ role: "user", content: "hello" }];
  const runner = client.chat.completions.stream({ model: "mock", messages, max_tokens: 5 });
  assert.equal(await runner.finalContent(), TEXT);
});

bounded("a stream that is left early leaves the client usable", async () => {
  const stream = await ask({ stream: true, max_tokens: 1_000_000, mock_pause_us: 1000 });
  for await (const _ of stream) break;
  assert.equal((await ask()).choices[0].message.content, TEXT);
});

bounded("embeddings", async () => {
  const answer = await client.embeddings.create({ model: "mock-model", input: "hello", encoding_format: "float" });
  assert.deepEqual(answer.data[0].embedding, [0.25, -0.5, 1.0]);
});

bounded("models are those that the tenant may use", async () => {
  const ids = async (by) => (await gather(await by.models.list())).map((model) => model.id);
  assert.ok((await ids(client)).includes("gone"));
  assert.ok(!(await ids(clientOf("narrow"))).includes("gone"));
  await assert.rejects(client.models.retrieve("no-such-model"), OpenAI.NotFoundError);
});

bounded("many streams at once", async () => {
  const text = async () =>
    (await gather(await ask({ stream: true }))).map((chunk) => chunk.choices[0].delta.content ?? "").join("");
  assert.deepEqual(await Promise.all(Array.from({ length: 32 }, text)), Array(32).fill(TEXT));
});
