"""Today's openai library through the proxy: chat completions and responses, whole and streamed, embeddings
and the models.

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

response = client.responses.create(
    model="gpt-4o-mini", instructions="You are brief.", input="What does a millrace carry?"
)
response_text = ""
response_usages = [response.usage]
for event in client.responses.create(model="gpt-4o-mini", input="Say it again, slowly.", stream=True):
    if event.type == "response.output_text.delta":
        response_text += event.delta
    elif event.type == "response.completed":
        response_usages.append(event.response.usage)

assert response.output_text and response_text and len(response_usages) == 2
assert chat.choices[0].message.content and text and len(usages) == 2
assert embedding.data[0].embedding and len(list(models)) > 0
print(
    json.dumps(
        {
            "requests": 6,
            "input_tokens": sum(usage.prompt_tokens for usage in usages)
            + embedding.usage.prompt_tokens
            + sum(usage.input_tokens for usage in response_usages),
            "output_tokens": sum(usage.completion_tokens for usage in usages)
            + sum(usage.output_tokens for usage in response_usages),
        }
    )
)
