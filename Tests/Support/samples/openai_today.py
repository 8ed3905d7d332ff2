"""Today's openai library through the proxy: a chat completion, a stream with usage, embeddings and the models.

Prints one JSON line: what the client was told. Environment: MILLRACE_BASE_URL, OPENAI_API_KEY, PORTKEY_API_KEY.
"""

import json
import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ["MILLRACE_BASE_URL"],
    default_headers={
        "x-portkey-api-key": os.environ["PORTKEY_API_KEY"],
        "x-portkey-mode": "proxy openai",
        "x-portkey-meta": json.dumps({"foo": "abc", "bar": "def"}),
    },
    max_retries=0,
)

chat = client.chat.completions.create(
    model="gpt-4o-mini", messages=[{"role": "user", "content": "What is a millrace?"}]
)
stream = client.chat.completions.create(
    model="gpt-4o-mini",
    messages=[{"role": "user", "content": "Count to five."}],
    stream=True,
    stream_options={"include_usage": True},
)
text = ""
usages = [chat.usage]
for chunk in stream:
    for choice in chunk.choices:
        text += choice.delta.content or ""
    if chunk.usage:
        usages.append(chunk.usage)
embedding = client.embeddings.create(model="text-embedding-3-small", input="a millrace", encoding_format="float")
models = client.models.list()

assert chat.choices[0].message.content and text and len(usages) == 2
assert embedding.data[0].embedding and len(list(models)) > 0
print(
    json.dumps(
        {
            "requests": 4,
            "input_tokens": sum(usage.prompt_tokens for usage in usages) + embedding.usage.prompt_tokens,
            "output_tokens": sum(usage.completion_tokens for usage in usages),
        }
    )
)
