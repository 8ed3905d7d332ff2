"""Anthropic's library through the proxy: a message, a stream of events and the stream helper.

The library adds `/v1/messages` to its base URL by itself. Prints one JSON line: what the client was told.
Environment: MILLRACE_BASE_URL, OPENAI_API_KEY, PORTKEY_API_KEY.
"""

import json
import os

from anthropic import Anthropic

client = Anthropic(
    base_url=os.environ["MILLRACE_BASE_URL"],
    api_key=os.environ["OPENAI_API_KEY"],
    default_headers={
        "x-portkey-api-key": os.environ["PORTKEY_API_KEY"],
        "x-portkey-mode": "proxy anthropic",
        "x-portkey-meta": json.dumps({"foo": "abc", "bar": "def"}),
    },
    max_retries=0,
)
request = {
    "model": "claude-3-5-haiku-20241022",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "What is a millrace?"}],
}

message = client.messages.create(**request)
texts = [message.content[0].text, "", ""]
input_tokens = message.usage.input_tokens
output_tokens = message.usage.output_tokens

for event in client.messages.create(**request, system="You are brief.", stream=True):
    if event.type == "message_start":
        input_tokens += event.message.usage.input_tokens
    elif event.type == "content_block_delta":
        texts[1] += event.delta.text
    elif event.type == "message_delta":
        output_tokens += event.usage.output_tokens

with client.messages.stream(**request) as stream:
    for text in stream.text_stream:
        texts[2] += text
    final = stream.get_final_message()
input_tokens += final.usage.input_tokens
output_tokens += final.usage.output_tokens

assert all(texts) and texts[0] == texts[2] and final.stop_reason == "end_turn"
print(json.dumps({"requests": 3, "input_tokens": input_tokens, "output_tokens": output_tokens}))
