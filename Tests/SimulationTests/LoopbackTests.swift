// The stub provider on a real listener, asked through the loopback client.

import HTTPTransport
import JSONText
import Simulation
import Telemetry
import Testing

@Suite struct LoopbackTests {
    private func withProvider(
        _ options: MockProviderOptions = MockProviderOptions(), _ body: (UInt16) throws -> Void
    ) throws {
        let server = try HTTPServer(
            listen: "127.0.0.1:0", name: "mock", workers: 2, bodyLimit: 1 << 20, log: Log(role: "mock", observe: nil),
            responder: MockProvider(options).responder)
        defer { server.stop() }
        try body(server.port)
    }

    @Test("Hundreds of exchanges go over one connection, whole and streamed, delayed and not", arguments: [0, 2])
    func answersOverOneConnection(delay: Int) throws {
        var options = MockProviderOptions()
        (options.latencyMilliseconds, options.chunkIntervalMilliseconds) = (delay, delay)
        try withProvider(options) { port in
            var client = LoopbackClient(port: port)
            var traffic = DemoTraffic(seed: 6)
            var streamed = 0
            for _ in 0..<(delay == 0 ? 400 : 20) {
                let request = traffic.next()
                let response = try client.request("POST", request.path, headers: request.headers, body: request.body)
                #expect([200, 429, 500].contains(response.status))
                if response.header("content-type")?.hasPrefix("text/event-stream") == true {
                    streamed += 1
                    #expect(response.text.hasSuffix("data: [DONE]\n\n"))
                } else {
                    #expect(try JSONValue.parse(response.body).members != nil)
                }
            }
            #expect(streamed > 0)
            let seen = try JSONValue.parse(try client.request("GET", "/__requests").body)
            #expect(seen.array?.count == (delay == 0 ? 400 : 20))
        }
    }

    @Test("Leaving in mid-answer, then asking again, works; a port without a listener is named as such")
    func leavesAndComesBack() throws {
        var options = MockProviderOptions()
        options.chunkIntervalMilliseconds = 20
        var left: UInt16 = 0
        try withProvider(options) { port in
            left = port
            var client = LoopbackClient(port: port)
            let body: JSONValue = [
                "model": "gpt-4o", "stream": true, "messages": [["role": "user", "content": "Count."]],
            ]
            try client.requestAndLeave("POST", "/v1/chat/completions", body: body.bytes)
            #expect(try client.request("GET", "/v1/models").status == 200)
            let raw = try client.exchange(raw: Array("nonsense\r\n\r\n".utf8))
            #expect(String(decoding: raw, as: UTF8.self).hasPrefix("HTTP/1.1 400"))
        }
        let error = #expect(throws: LoopbackError.self) {
            var client = LoopbackClient(port: left)
            _ = try client.request("GET", "/v1/models")
        }
        #expect(error?.code == .connect)
    }
}
