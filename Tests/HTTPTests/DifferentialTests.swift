// Generated and mutated messages, read here and by h11: what we take, it takes, and alike. We may refuse more.

import Foundation
import HTTPMessages
import HTTPTransport
import Testing

/// Same seed, same messages.
private struct Generator {
    private var state: UInt64
    init(seed: UInt64) { state = seed }

    mutating func next(_ bound: Int) -> Int {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return Int((state >> 33) % UInt64(bound))
    }

    mutating func pick(_ choices: [String]) -> String { choices[next(choices.count)] }

    private static let usual = [
        "content-type: application/json\r\n", "Connection: close\r\n", "connection: keep-alive, x-a\r\n", "x-a: b\r\n",
        "x-empty:\r\n", "x-wide: \t a b \t\r\n", "x-latin: \u{e9}\r\n", "expect: 100-continue\r\n", "te: trailers\r\n",
    ]
    private static let odd = [
        "content-length: 5\r\n", "content-length: 05\r\n", "content-length: 5, 5\r\n", "content-length: +5\r\n",
        "content-length: 5 5\r\n", "content-length:\r\n", "transfer-encoding: chunked\r\n",
        "Transfer-Encoding: CHUNKED\r\n", "transfer-encoding: chunked, chunked\r\n", "transfer-encoding: gzip\r\n",
        "transfer-encoding: chunked;q=1\r\n", "transfer-encoding:\r\n", "host: b\r\n", "a : b\r\n", " folded\r\n",
        "\tfolded\r\n", "a: b\n", "a: b\r", "nocolon\r\n", ": b\r\n", "a: b\u{0}c\r\n", "a: b\u{7f}\r\n",
        "a\u{e9}: b\r\n",
        "upgrade: h2c\r\n", "connection: upgrade\r\n",
    ]
    private static let bodies = [
        "hello", "", "5\r\nhello\r\n0\r\n\r\n", "5;a=b\r\nhello\r\n0\r\nx: y\r\n\r\n", "A\r\n0123456789\r\n00\r\n\r\n",
        "5\r\nhello\r\n", "5\nhello\n0\n\n", "5 \r\nhello\r\n0\r\n\r\n", "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX0\r\n\r\n", "-5\r\nhello\r\n0\r\n\r\n", "0x5\r\nhello\r\n0\r\n\r\n", "fffffffffffffffff\r\nhello",
        "0\r\n\n", "0\r\nx y: z\r\n\r\n", "0\r\n\r\nGET / HTTP/1.1\r\nhost: z\r\n\r\n",
    ]

    private mutating func fields() -> String {
        var out = ""
        for _ in 0..<next(4) { out += pick(Self.usual) }
        if next(3) == 0 { out += pick(Self.odd) }
        if next(8) == 0 { out += pick(Self.odd) }
        return out
    }

    mutating func message(isRequest: Bool) -> [UInt8] {
        var text: String
        if isRequest {
            // Most first lines are in order, so that the rest is reached.
            let isOdd = next(4) == 0
            let method = isOdd ? pick(["get", "G T", "", "OPTIONS"]) : pick(["GET", "POST", "PUT", "HEAD", "DELETE"])
            let target =
                next(4) == 0
                ? pick(["*", "a", "/a b", "/\u{e9}", "/#f", "http://a", "http://u@a/x"])
                : pick(["/", "/v1/x?a=b", "/a/../b", "/%2e", "http://a/x", "//", "HTTP://a:80/"])
            let version = isOdd ? pick(["HTTP/1.0", "HTTP/2.0", "http/1.1", ""]) : "HTTP/1.1"
            text = "\(method) \(target) \(version)" + (next(10) == 0 ? "\n" : "\r\n")
            text += next(8) == 0 ? "" : pick(["host: a\r\n", "Host: a:80\r\n"])
        } else {
            text = pick(["HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2", "http/1.1"])
            text += pick([
                " 200 OK", " 200 OK", " 200", " 204 No Content", " 304 Not Modified", " 500 \u{e9}", " 20 OK",
                " 2000 OK", " 99 x",
            ])
            text += pick(["\r\n", "\r\n", "\r\n", "\n"])
        }
        text += fields()
        // Most have a body that fits what they say.
        switch next(4) {
        case 0: text += "content-length: 5\r\n\r\nhello"
        case 1: text += "transfer-encoding: chunked\r\n\r\n" + pick(Self.bodies)
        case 2: text += "\r\n"
        default: text += "\r\n" + pick(Self.bodies)
        }
        var bytes = Array(text.utf8)
        for _ in 0..<[0, 0, 0, 1, 1, 2][next(6)] where !bytes.isEmpty { mutate(&bytes) }
        return bytes
    }

    private static let telling: [UInt8] = [0, 9, 10, 11, 13, 32, 44, 48, 53, 58, 59, 65, 97, 127, 128, 255]

    private mutating func mutate(_ bytes: inout [UInt8]) {
        let index = next(bytes.count)
        let byte = Self.telling[next(Self.telling.count)]
        switch next(4) {
        case 0: bytes[index] = byte
        case 1: bytes.insert(byte, at: index)
        case 2: bytes.remove(at: index)
        default: bytes.insert(contentsOf: bytes[index..<min(bytes.count, index + next(12) + 1)], at: index)
        }
    }
}

/// What our two readers make of a message.
private final class Reading: MessageSink {
    private let parser: MessageParser
    private let isRequest: Bool
    private var first: [String] = []
    private var headers: [[String]] = []
    private var body: [UInt8] = []
    private var isInterim = false
    private(set) var isWhole = false
    private(set) var isRefused = false

    init(isRequest: Bool, _ bytes: [UInt8]) {
        self.isRequest = isRequest
        parser = MessageParser(answers: !isRequest)
        parser.sink = self
        bytes.withUnsafeBytes { all in
            var rest = all
            while !isWhole, !isRefused, !rest.isEmpty {
                switch parser.consume(rest) {
                case .needsMore: rest = UnsafeRawBufferPointer(rebasing: rest[rest.count...])
                case .ended(let consumed): rest = UnsafeRawBufferPointer(rebasing: rest[consumed...])
                case .refused: isRefused = true
                }
            }
        }
        if !isWhole, !isRefused, !isRequest { _ = parser.connectionEnded() }
        parser.sink = nil
    }

    func headParsed(_ bytes: Span<UInt8>) -> MessageParser.Verdict {
        func text(_ range: Range<Int>) -> String {
            String(String.UnicodeScalarView(range.map { Unicode.Scalar(bytes[$0]) }))
        }
        do throws(Refusal) {
            let framing: BodyFraming
            var hasNoBody = false
            if isRequest {
                let head = try RequestHead(bytes, parser.scanner)
                first = [text(head.method), text(head.target)]
                framing = head.framing
            } else {
                let head = try ResponseHead(bytes, parser.scanner, toHEAD: false)
                isInterim = head.status < 200
                first = [String(head.status)]
                (framing, hasNoBody) = (head.framing, head.hasNoBody)
            }
            headers = parser.scanner.fields.map { [text($0.nameRange).lowercased(), text($0.valueRange)] }
            return hasNoBody ? .withoutBody : framing == .chunked ? .chunked : .proceed
        } catch { return .refuse(error) }
    }

    func bodyParsed(_ bytes: UnsafeRawBufferPointer) { body += bytes }
    func messageEnded(bytesFollow: Bool) { isWhole = !isInterim }

    /// nil where it is the same as what h11 says, else how it differs.
    func difference(from judged: [String: Any]) -> String? {
        guard isWhole else {
            // A message for h11 and none for us would be another framing, unless we refused it outright.
            return !isRefused && judged["end"] as? String == "message" ? "h11 has a whole message, we wait" : nil
        }
        guard judged["end"] as? String == "message" else { return "we take it, h11 says \(judged["end"] ?? "")" }
        var theirs = judged["first"] as? [String] ?? []
        if isRequest, theirs.count == 2, let scheme = theirs[1].range(of: "://") {
            // Of an absolute-form target we keep what follows the authority.
            theirs[1] = theirs[1][scheme.upperBound...].firstIndex(of: "/").map { String(theirs[1][$0...]) } ?? ""
        }
        if theirs != first { return "\(first) here, \(theirs) there" }
        let hex = body.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
        if judged["body"] as? String != hex { return "another body: \(hex) here" }
        // h11 gives transfer-encoding in lower case.
        let pairs = headers.map { $0[0] == "transfer-encoding" ? [$0[0], $0[1].lowercased()] : $0 }
        return (judged["headers"] as? [[String]]).map { $0 == pairs ? nil : "\(pairs) here, \($0) there" }
            ?? "no headers"
    }
}

@Suite(.timeLimit(.minutes(2))) struct DifferentialTests {
    @Test(arguments: [("requests", UInt64(1)), ("requests", 2), ("answers", 3), ("answers", 4)])
    func whatIsTakenHereIsTakenByH11AndAlike(_ side: String, _ seed: UInt64) throws {
        var generator = Generator(seed: seed)
        let messages = (0..<4_000).map { _ in generator.message(isRequest: side == "requests") }
        let judged = try judge(messages, side)
        #expect(judged.count == messages.count)
        var taken = 0
        for (message, judgement) in zip(messages, judged) {
            let reading = Reading(isRequest: side == "requests", message)
            if reading.isWhole { taken += 1 }
            if let difference = reading.difference(from: judgement) {
                Issue.record("\(difference): \(String(decoding: message, as: UTF8.self).debugDescription)")
            }
        }
        // The generator makes enough of both.
        #expect(taken > messages.count / 10 && taken < messages.count * 9 / 10, "\(taken)")
    }

    private func judge(_ messages: [[UInt8]], _ side: String) throws -> [[String: Any]] {
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let directory = FileManager.default.temporaryDirectory.appendingPathComponent(
            "millrace-h11-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: directory) }
        var input = Data()
        for message in messages {
            withUnsafeBytes(of: UInt32(message.count).bigEndian) { input.append(contentsOf: $0) }
            input.append(contentsOf: message)
        }
        let (inputFile, outputFile) = (directory.appendingPathComponent("in"), directory.appendingPathComponent("out"))
        try input.write(to: inputFile)
        try Data().write(to: outputFile)
        let process = Process()
        process.executableURL = root.appendingPathComponent(".venv/openai-today/bin/python")
        process.arguments = [root.appendingPathComponent("Tests/Support/h11_judge.py").path, side]
        process.standardInput = try FileHandle(forReadingFrom: inputFile)
        process.standardOutput = try FileHandle(forWritingTo: outputFile)
        try process.run()
        process.waitUntilExit()
        #expect(process.terminationStatus == 0)
        return try Data(contentsOf: outputFile).split(separator: UInt8(ascii: "\n")).map {
            try JSONSerialization.jsonObject(with: Data($0)) as? [String: Any] ?? [:]
        }
    }
}
