"""openai 0.28 through the proxy, as its users write it: a chat completion, a completion and a stream.

Prints one JSON line: what the client was told. Environment: MILLRACE_BASE_URL, OPENAI_API_KEY, PORTKEY_API_KEY.
"""

import json
import os

import openai

openai.api_base = os.environ["MILLRACE_BASE_URL"]
HEADERS = {
    "x-portkey-api-key": os.environ["PORTKEY_API_KEY"],
    "x-portkey-mode": "proxy openai",
    "x-portkey-meta": json.dumps({"foo": "abc", "bar": "def"}),
}

chat = openai.ChatCompletion.create(
    model="gpt-4o-mini",
    messages=[
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": "What is a millrace?"},
    ],
    headers=HEADERS,
)
completion = openai.Completion.create(
    model="gpt-3.5-turbo-instruct", prompt="A millrace is", max_tokens=20, headers=HEADERS
)
stream = openai.ChatCompletion.create(
    model="gpt-4o-mini",
    messages=[{"role": "user", "content": "Count to five."}],
    stream=True,
    stream_options={"include_usage": True},
    headers=HEADERS,
)
text = ""
usages = [chat["usage"], completion["usage"]]
for chunk in stream:
    for choice in chunk["choices"]:
        text += choice["delta"].get("content") or ""
    if chunk.get("usage"):
        usages.append(chunk["usage"])

assert chat["choices"][0]["message"]["content"] and completion["choices"][0]["text"] and text
assert len(usages) == 3
print(
    json.dumps(
        {
            "requests": 3,
            "input_tokens": sum(usage["prompt_tokens"] for usage in usages),
            "output_tokens": sum(usage["completion_tokens"] for usage in usages),
        }
    )
)
