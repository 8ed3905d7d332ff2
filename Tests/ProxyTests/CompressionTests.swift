import CZlib
import CaptureProxy
import Events
import HTTPTransport
import Testing

/// `windowBits`: 31 for gzip, 15 for what HTTP calls deflate.
private func compressed(_ text: [UInt8], windowBits: Int32 = 31) throws -> [UInt8] {
    struct NotCompressed: Error {}
    var stream = z_stream()
    let size = Int32(MemoryLayout<z_stream>.size)
    guard deflateInit2_(&stream, 9, Z_DEFLATED, windowBits, 8, Z_DEFAULT_STRATEGY, ZLIB_VERSION, size) == Z_OK else {
        throw NotCompressed()
    }
    defer { deflateEnd(&stream) }
    var text = text
    var out = [UInt8](repeating: 0, count: text.count + 1_024)
    let status = text.withUnsafeMutableBufferPointer { source in
        out.withUnsafeMutableBufferPointer { target in
            stream.next_in = source.baseAddress
            stream.avail_in = UInt32(source.count)
            stream.next_out = target.baseAddress
            stream.avail_out = UInt32(target.count)
            return deflate(&stream, Z_FINISH)
        }
    }
    guard status == Z_STREAM_END else { throw NotCompressed() }
    return Array(out[..<(out.count - Int(stream.avail_out))])
}

private let json = Array(
    #"{"model":"gpt-4o","choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":3}}"#.utf8)
private let ask =
    "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-portkey-provider: openai\r\ncontent-length: 2\r\n\r\n{}"

@Suite(.timeLimit(.minutes(2))) struct CompressionTests {
    private func event(_ body: [UInt8], coding: String, type: String = "application/json") throws -> RequestEvent {
        let hop = try Hop { _ in
            HTTPResponse(
                status: 200, headers: [("content-type", type), ("content-encoding", coding)], body: body)
        }
        let client = try RawClient(port: hop.proxy.port)
        client.send(ask)
        let head = try #require(client.head())
        #expect(head.lowercased().contains("content-encoding: \(coding.lowercased())"))
        // Untouched, to the byte.
        #expect(client.raw(body.count) == body)
        return try #require(try hop.finish().first)
    }

    @Test(arguments: [("gzip", 31), ("x-gzip", 31), ("GZip", 31), ("deflate", 15)])
    func aCompressedAnswerIsReadAndPassesUntouched(_ coding: String, _ windowBits: Int32) throws {
        let event = try event(try compressed(json, windowBits: windowBits), coding: coding)
        #expect(event.usageSource == .response && event.inputTokens == 12 && event.outputTokens == 3)
        #expect(event.responseModel == "gpt-4o" && event.cost != nil)
    }

    @Test func twoMembersAreOneText() throws {
        let event = try event(
            try compressed(Array(json[..<20])) + compressed(Array(json[20...])), coding: "gzip")
        #expect(event.inputTokens == 12)
    }

    @Test func compressedEventsAreRead() throws {
        let body = try compressed(Array("data: ".utf8) + json + Array("\n\ndata: [DONE]\n\n".utf8))
        let event = try event(body, coding: "gzip", type: "text/event-stream")
        #expect(event.streamed && event.inputTokens == 12 && event.firstTokenMicroseconds != nil)
    }

    @Test(arguments: ["br", "zstd", "gzip, br"]) func anotherCodingPassesUnreadAndTheEventSaysSo(_ coding: String)
        throws
    {
        let event = try event(Array("not looked at".utf8), coding: coding)
        #expect(event.usageSource == .unreadable && event.inputTokens == 0 && event.cost == nil)
    }

    @Test func whatIsNotWhatItSaysPassesAndTheEventSaysSo() throws {
        let event = try event(Array("not gzip at all".utf8), coding: "gzip")
        #expect(event.usageSource == .unreadable)
    }

    @Test func anAnswerThatSaysNothingHasNoUsage() throws {
        let event = try event(try compressed(Array("{}".utf8)), coding: "gzip")
        #expect(event.usageSource == .none)
    }

    @Test func theInflaterSaysTheSameWhereverItIsCutAndIsReused() throws {
        let text = Array((0..<3_000).map { "\($0 % 97) " }.joined().utf8)
        let bytes = try compressed(text)
        let inflater = try #require(Inflater())
        for cut in stride(from: 0, through: bytes.count, by: 7) {
            inflater.reset()
            var out: [UInt8] = []
            for piece in [bytes[..<cut], bytes[cut...]] {
                piece.withUnsafeBytes { inflater.feed($0) { out += $0 } }
            }
            #expect(out == text && !inflater.hasFailed)
        }
    }

    @Test func aBombIsReadToTheLimitInOnePieceOfMemory() throws {
        // 1 MiB of zeros a member, as many members as reach the limit and one more.
        let member = try compressed([UInt8](repeating: 0, count: 1 << 20))
        let inflater = try #require(Inflater())
        var total = 0
        var largest = 0
        for _ in 0...(Inflater.plainLimit >> 20) {
            member.withUnsafeBytes {
                inflater.feed($0) {
                    total += $0.count
                    largest = max(largest, $0.count)
                }
            }
        }
        #expect(inflater.hasFailed && largest <= Inflater.pieceSize)
        #expect(total <= Inflater.plainLimit + Inflater.pieceSize)
    }
}
