"""Today's LangChain through the proxy: a chat model invoked and streamed.

Prints one JSON line: what the client was told. Environment: MILLRACE_BASE_URL, OPENAI_API_KEY, PORTKEY_API_KEY.
"""

import json
import os

from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

model = ChatOpenAI(
    model="gpt-4o-mini",
    base_url=os.environ["MILLRACE_BASE_URL"],
    default_headers={
        "x-portkey-api-key": os.environ["PORTKEY_API_KEY"],
        "x-portkey-mode": "proxy openai",
        "x-portkey-meta": json.dumps({"foo": "abc", "bar": "def"}),
    },
    stream_usage=True,
    max_retries=0,
)
chain = ChatPromptTemplate.from_messages([("system", "You are brief."), ("human", "{question}")]) | model

answer = chain.invoke({"question": "What is a millrace?"})
whole = None
for chunk in chain.stream({"question": "Count to five."}):
    whole = chunk if whole is None else whole + chunk

assert answer.content and whole.content
usages = [answer.usage_metadata, whole.usage_metadata]
print(
    json.dumps(
        {
            "requests": 2,
            "input_tokens": sum(usage["input_tokens"] for usage in usages),
            "output_tokens": sum(usage["output_tokens"] for usage in usages),
        }
    )
)
