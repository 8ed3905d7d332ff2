"""LangChain 0.0.300's `OpenAI(headers=...)` through the proxy, as its users write it.

Prints one JSON line: what the client was told. Environment: MILLRACE_BASE_URL, OPENAI_API_KEY, PORTKEY_API_KEY.
"""

import json
import os
import warnings

warnings.filterwarnings("ignore")

from langchain.llms import OpenAI  # noqa: E402

llm = OpenAI(
    temperature=0.9,
    openai_api_base=os.environ["MILLRACE_BASE_URL"],
    headers={
        "x-portkey-api-key": os.environ["PORTKEY_API_KEY"],
        "x-portkey-mode": "proxy openai",
        "x-portkey-meta": json.dumps({"foo": "abc", "bar": "def"}),
    },
)

result = llm.generate(["Name a company that makes colourful socks."])
usage = result.llm_output["token_usage"]
assert result.generations[0][0].text
print(
    json.dumps(
        {
            "requests": 1,
            "input_tokens": usage["prompt_tokens"],
            "output_tokens": usage["completion_tokens"],
        }
    )
)
