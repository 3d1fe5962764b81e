// `replicate` 1.4.0 for JavaScript acts out scenes against a server; talk.py starts this.

const { createHash } = require("node:crypto");
const { readFileSync } = require("node:fs");
const Replicate = require("replicate");
const { validateWebhook } = Replicate;

const about = JSON.parse(readFileSync(0, "utf8"));
const baseUrl = `${about.url}/v1`;
const client = new Replicate({ auth: about.token, baseUrl });
const version = about.version.split(":")[1];
const video = readFileSync(about.video);
const inputs = (more = {}) => ({ ...about.input, ...more });
const digest = (bytes) => createHash("sha256").update(bytes).digest("hex");

async function frames(output) {
  const seen = { files: true, sha256: [], names: [] };
  for (const item of output) {
    seen.files &&= item instanceof ReadableStream;
    if (!(item instanceof ReadableStream)) continue;
    seen.names.push(item.url().pathname.split("/").pop());
    seen.sha256.push(digest(Buffer.from(await (await item.blob()).arrayBuffer())));
  }
  return seen;
}

const run = (more = {}, options = {}, ref = about.version) =>
  client.run(ref, { input: inputs({ input_video: video, ...more }), ...options });

async function refused(action) {
  await action();
}

const scenes = {
  run_version: async () => frames(await run()),
  run_model: async () => frames(await run({}, {}, "meta/sam-2-video")),
  run_inline: async () => frames(await run({ input_video: `data:video/mp4;base64,${video.toString("base64")}` })),
  run_polling: async () => frames(await run({}, { wait: { mode: "poll", interval: 50 } })),
  run_longer_than_the_wait: async () =>
    frames(await run({ click_object_ids: "fault-slow" }, { wait: { mode: "block", timeout: 1 } })),
  run_film: async () => frames(await run({ output_video: true })),

  create_get_list_cancel: async () => {
    const input_video = (await client.files.create(video)).urls.get;
    const made = await client.predictions.create({ version, input: inputs({ input_video, click_object_ids: "fault-slow" }) });
    const got = await client.predictions.get(made.id);
    const listed = [];
    for await (const page of client.paginate(client.predictions.list)) listed.push(...page.map((each) => each.id));
    const cancelled = await client.predictions.cancel(made.id);
    return {
      created: made.id === got.id && got.input.input_video === input_video,
      listed: listed.includes(made.id),
      cancelled: cancelled.status,
      end: (await client.wait(made, { interval: 50 })).status,
    };
  },

  wait_for_what_runs_out_of_time: async () => {
    const prediction = await client.predictions.get(about.expired);
    return { end: (await client.wait(prediction, { interval: 50 })).status };
  },

  stream: async () => {
    const input_video = (await client.files.create(video)).urls.get;
    const seen = { kinds: [], outputs: [], logs: "", files: true };
    for await (const { event, data } of client.stream(about.version, { input: inputs({ input_video }) })) {
      seen.kinds.push(event);
      if (event === "logs") seen.logs += data;
      if (event === "output") {
        seen.files &&= data instanceof ReadableStream;
        seen.outputs.push(data.toString());
      }
    }
    return seen;
  },

  files: async () => {
    const made = await client.files.create(new File([video], "square.mp4", { type: "video/mp4" }), { take: 2 });
    const got = await client.files.get(made.id);
    const listed = async () => (await client.files.list()).results.some((each) => each.id === made.id);
    const before = await listed();
    const removed = await client.files.delete(made.id);
    return {
      name: got.name,
      size: got.size,
      sha256: got.checksums.sha256,
      metadata: got.metadata,
      listed: before,
      gone: removed && !(await listed()),
    };
  },

  catalogue: async () => {
    const found = await client.models.versions.get("meta", "sam-2-video", version);
    return {
      models: (await client.models.list()).results.map((each) => `${each.owner}/${each.name}`),
      found: (await client.models.search("nano")).results.map((each) => each.name),
      version: found.id,
      inputs: Object.keys(found.openapi_schema.components.schemas.Input.properties),
      account: (await client.accounts.current()).username,
      hardware: (await client.hardware.list()).map((each) => each.sku),
      collections: (await client.collections.list()).results.map((each) => each.slug),
    };
  },

  bad_input: () => refused(() => run({ video_fps: 99 })),
  bad_token: () => refused(() => new Replicate({ auth: "wrong-".repeat(4), baseUrl }).predictions.list()),
  nothing_there: () => refused(() => client.predictions.get("a".repeat(26))),
  bad_version: () => refused(() => client.predictions.create({ version: "0".repeat(64), input: {} })),
  failed: () => refused(() => run({ click_frames: "77" })),

  webhook: async () => {
    const { key } = await client.webhooks.default.secret.get();
    const { headers, body } = about.webhook;
    return {
      good: await validateWebhook({ headers, body }, key),
      tampered: await validateWebhook({ headers, body: `${body} ` }, key),
    };
  },

  // Version 1.4.0 sends itself, token and all, in place of the input.
  send_itself: () => {
    const broken = new Replicate({ auth: about.token, baseUrl, fileEncodingStrategy: "data-uri" });
    return refused(() => broken.run(about.version, { input: inputs({ input_video: video }) }));
  },
};

(async () => {
  for (const scene of about.scenes) {
    let line;
    try {
      line = { scene, value: (await scenes[scene]()) ?? null };
    } catch (error) {
      line = { scene, raised: `${error.name}: ${error.message}` };
    }
    console.log(JSON.stringify(line));
  }
})();
