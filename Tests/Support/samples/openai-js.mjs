// OpenAI's JavaScript library 3.x through the proxy, as its users write it: a chat completion and a completion, each whole
// and streamed.
// Prints one JSON line: what the client was told. Environment: MILLRACE_BASE_URL, MILLRACE_TEST_CLIENTS.
import { createRequire } from "node:module";

const require = createRequire(`${process.env.MILLRACE_TEST_CLIENTS}/openai-js-3/package.json`);
const { Configuration, OpenAIApi } = require("openai");

const configuration = new Configuration({
  apiKey: process.env.OPENAI_API_KEY,
  basePath: process.env.MILLRACE_BASE_URL,
  baseOptions: {
    headers: {
      "x-portkey-api-key": process.env.PORTKEY_API_KEY,
      "x-portkey-mode": "proxy openai",
      "x-portkey-meta": JSON.stringify({ foo: "abc", bar: "def" }),
    },
  },
});
const openai = new OpenAIApi(configuration);

const chat = await openai.createChatCompletion({
  model: "gpt-4o-mini",
  messages: [{ role: "user", content: "What is a millrace?" }],
});
const completion = await openai.createCompletion({
  model: "gpt-3.5-turbo-instruct",
  prompt: "A millrace is",
  max_tokens: 20,
});

// The library hands out the bytes of a stream; the lines are its user's.
async function readEvents(response) {
  let text = "";
  let usage = null;
  let rest = "";
  for await (const bytes of response.data) {
    const lines = (rest + bytes.toString()).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const event = JSON.parse(line.slice("data: ".length));
      for (const choice of event.choices) text += choice.delta?.content ?? choice.text ?? "";
      usage = event.usage ?? usage;
    }
  }
  return { text, usage };
}

const options = { stream: true, stream_options: { include_usage: true } };
const chatStream = await readEvents(
  await openai.createChatCompletion(
    { model: "gpt-4o-mini", messages: [{ role: "user", content: "Count to five." }], ...options },
    { responseType: "stream" },
  ),
);
const completionStream = await readEvents(
  await openai.createCompletion(
    { model: "gpt-3.5-turbo-instruct", prompt: "A millrace was", max_tokens: 20, ...options },
    { responseType: "stream" },
  ),
);

const usages = [chat.data.usage, completion.data.usage, chatStream.usage, completionStream.usage];
const texts = [
  chat.data.choices[0].message.content,
  completion.data.choices[0].text,
  chatStream.text,
  completionStream.text,
];
if (!texts.every(Boolean)) process.exit(1);
console.log(
  JSON.stringify({
    requests: usages.length,
    input_tokens: usages.reduce((sum, usage) => sum + usage.prompt_tokens, 0),
    output_tokens: usages.reduce((sum, usage) => sum + usage.completion_tokens, 0),
  }),
);
