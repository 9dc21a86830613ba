// Configures a gateway, asks it something, and takes the last change back.
//
//   node dist/example.js --admin 127.0.0.1:7070 --worker http://127.0.0.1:8080 --backend http://127.0.0.1:8000

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";

import { create } from "@bufbuild/protobuf";
import { createClient, type Transport } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";

import { ConfigService, type Revision } from "./gen/ntonix/admin/v1/config_service_pb.js";
import { KeyService } from "./gen/ntonix/admin/v1/key_service_pb.js";
import { type Worker, WorkerService, WorkerState } from "./gen/ntonix/admin/v1/worker_service_pb.js";
import { type Config, ConfigSchema } from "./gen/ntonix/config/v1/config_pb.js";

// No call may hang for ever; a watch may take this long to see what it waits for.
const TIMEOUT_MS = 30_000;
// A connected worker takes a new key within a second.
const KEY_WITHIN_MS = 5_000;

/** One backend that serves one model to one tenant. */
function house(backend: string, requestsPerMinute: number): Config {
  return create(ConfigSchema, {
    pools: [{ name: "llama", backends: [{ name: "gpu-1", url: backend }] }],
    routes: [{ model: "house-model", targets: [{ pool: "llama", model: "mock-model" }] }],
    tenants: [{ name: "research", models: ["house-*"], limits: { requestsPerMinute } }],
  });
}

/** Replaces the whole configuration. With a request id it is safe to send again when the answer got lost. */
async function apply(transport: Transport, config: Config, message: string): Promise<Revision> {
  const { revision, changes } = await createClient(ConfigService, transport).apply({
    config,
    message,
    requestId: randomUUID(),
  });
  if (!revision) throw new Error("an apply answers with a revision");
  console.log(`revision ${revision.number}: ${changes.length} changes (${message})`);
  return revision;
}

/** Watches until every connected worker runs the revision, or one refuses it. */
async function waitForWorkers(transport: Transport, revision: bigint): Promise<void> {
  const states = new Map<string, Worker>();
  let hasAll = false;
  const enough = new AbortController();
  const signal = AbortSignal.any([enough.signal, AbortSignal.timeout(TIMEOUT_MS)]);
  // Without the timer of the transport, which would outlive the watch.
  for await (const { worker } of createClient(WorkerService, transport).watch({}, { signal, timeoutMs: 0 })) {
    // All are sent once, then comes a step without a worker; from there on only changes come.
    if (worker) states.set(worker.name, worker);
    else hasAll = true;
    const connected = [...states.values()].filter((worker) => worker.state !== WorkerState.DISCONNECTED);
    for (const { name, refusedRevision, faults } of connected) {
      if (refusedRevision === revision) throw new Error(`${name} refused it: ${faults.map((fault) => fault.reason)}`);
    }
    if (hasAll && connected.every((worker) => worker.runningRevision === revision)) {
      console.log(`${connected.length} workers run revision ${revision}`);
      break;
    }
  }
  enough.abort();
}

/** Streams an answer, piece by piece, over plain HTTP. */
async function* chat(url: string, key: string, question: string): AsyncGenerator<string> {
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
    body: JSON.stringify({ model: "house-model", stream: true, messages: [{ role: "user", content: question }] }),
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  if (!response.ok || !response.body) throw new HttpError(response.status, await response.text());
  let text = "";
  for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
    const events = (text + piece).split("\n\n");
    // The last one may not be whole yet.
    text = events.pop() ?? "";
    for (const event of events) {
      // A heartbeat is a comment before the next event.
      const data = event.replace(/^(:.*\n)*data: /, "");
      if (data === "[DONE]") return;
      const { error, choices } = JSON.parse(data);
      if (error) throw new Error(error.message);
      yield choices[0].delta.content ?? "";
    }
  }
  throw new Error("the stream ended before its end");
}

class HttpError extends Error {
  constructor(
    readonly status: number,
    body: string,
  ) {
    super(`${status}: ${body}`);
  }
}

/** The whole answer; waits for the worker to hear of the key. */
async function chatWithNewKey(url: string, key: string, question: string): Promise<string> {
  const deadline = Date.now() + KEY_WITHIN_MS;
  for (;;) {
    try {
      let answer = "";
      for await (const piece of chat(url, key, question)) answer += piece;
      return answer;
    } catch (error) {
      if (!(error instanceof HttpError) || error.status !== 401 || Date.now() > deadline) throw error;
      await sleep(50);
    }
  }
}

const { values: chosen } = parseArgs({
  options: {
    admin: { type: "string", default: "127.0.0.1:7070" },
    worker: { type: "string", default: "http://127.0.0.1:8080" },
    backend: { type: "string", default: "http://127.0.0.1:8000" },
  },
});

const transport = createGrpcTransport({ baseUrl: `http://${chosen.admin}`, defaultTimeoutMs: TIMEOUT_MS });

const first = await apply(transport, house(chosen.backend, 600), "open the house");
await waitForWorkers(transport, first.number);

const name = `bob-${randomUUID().slice(0, 8)}`;
const made = await createClient(KeyService, transport).create({ name, tenant: "research" });
console.log(`key ${made.key?.name} for ${made.key?.tenant}`);
console.log(`answer: ${await chatWithNewKey(chosen.worker, made.secret, "hello")}`);

const second = await apply(transport, house(chosen.backend, 6), "fewer requests");
await waitForWorkers(transport, second.number);

const { revision: third } = await createClient(ConfigService, transport).rollback({
  to: first.number,
  expectedRevision: second.number,
});
if (!third) throw new Error("a rollback answers with a revision");
console.log(`revision ${third.number} is revision ${third.rollbackOf} again`);
await waitForWorkers(transport, third.number);
// Keys live beside the revisions: a rollback does not touch them.
console.log(`answer: ${await chatWithNewKey(chosen.worker, made.secret, "hello again")}`);
