"""Reads messages, each behind its length in four bytes, from standard input; says of each what h11 makes of it.

h11_judge.py requests|answers. One JSON object a line: {"end": "message"|"more"|"refused"} and, for a message, "first"
(method and target, or status), "headers" (a list of pairs, values in Latin-1), "body" (in hexadecimal).
"""
import json
import struct
import sys

import h11


def judge(data, side):
    if side == "requests":
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        heads = (h11.Request,)
    else:
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        connection.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
        connection.send(h11.EndOfMessage())
        heads = (h11.Response,)
    out = {"end": "more"}
    body = b""
    ended = False
    connection.receive_data(data)
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                if ended or side == "requests":
                    return {"end": "more"}
                # The connection's end may be the answer's.
                ended = True
                connection.receive_data(b"")
            elif isinstance(event, heads):
                if side == "requests":
                    out["first"] = [event.method.decode("latin-1"), event.target.decode("latin-1")]
                else:
                    out["first"] = [str(event.status_code)]
                out["headers"] = [[n.decode("latin-1"), v.decode("latin-1")] for n, v in event.headers]
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                out["end"] = "message"
                out["body"] = body.hex()
                return out
            elif event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return {"end": "refused"}
    except h11.RemoteProtocolError:
        return {"end": "refused"}


stream = sys.stdin.buffer
while header := stream.read(4):
    print(json.dumps(judge(stream.read(struct.unpack(">I", header)[0]), sys.argv[1])))
