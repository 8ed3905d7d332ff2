import EventCodec
import Events
import Foundation
import Testing

@Suite struct EventCodecTests {
    private func encoded(_ event: RequestEvent) -> [UInt8] {
        var bytes: [UInt8] = []
        EventEncoder.encode(event, into: &bytes)
        return bytes
    }

    private func decoded(_ value: [UInt8]) throws -> RequestEvent {
        try value.withUnsafeBytes { RequestEvent(try EventDecoder.decode($0, base: 0), in: $0) }
    }

    private func failure(_ value: [UInt8]) -> EventCodecError.Code? {
        value.withUnsafeBytes { bytes -> EventCodecError.Code? in
            do throws(EventCodecError) {
                _ = try EventDecoder.decode(bytes, base: 0)
                return nil
            } catch { return error.code }
        }
    }

    @Test func whatIsEncodedIsDecoded() throws {
        var random = SeededRandom()
        for _ in 0..<2_000 {
            let event = random.event()
            #expect(try decoded(encoded(event)) == event)
        }
    }

    @Test func rangesAreOffsetsInTheWholeChunk() throws {
        var random = SeededRandom()
        let event = random.event()
        let front = random.bytes(upTo: 50)
        let value = encoded(event)
        let chunk = front + value + random.bytes(upTo: 50)
        try chunk.withUnsafeBytes { bytes in
            let part = UnsafeRawBufferPointer(rebasing: bytes[front.count..<front.count + value.count])
            let fields = try EventDecoder.decode(part, base: front.count)
            #expect(RequestEvent(fields, in: bytes) == event)
        }
    }

    @Test func manifestsGoBothWays() throws {
        var random = SeededRandom()
        for _ in 0..<200 {
            let manifest = Manifest(
                proxy: random.text(upTo: 9), minute: EventTime(microseconds: Int64(bitPattern: random.count())),
                lane: UInt32(truncatingIfNeeded: random.count()), serial: random.count(),
                accepted: random.count(), recorded: random.count(), dropped: random.count())
            var bytes: [UInt8] = []
            EventEncoder.encode(manifest, into: &bytes)
            #expect(try bytes.withUnsafeBytes { try EventDecoder.decodeManifest($0) } == manifest)
            let text = ProtoText.manifest(manifest)
            #expect(try Protoc.run("--decode=millrace.v1.Manifest", bytes) == text)
        }
    }

    @Test func protocReadsWhatWeWrite() throws {
        var random = SeededRandom()
        for _ in 0..<60 {
            let event = random.event()
            let text = try Protoc.run("--decode=millrace.v1.RequestEvent", encoded(event))
            #expect(String(decoding: text, as: UTF8.self) == String(decoding: ProtoText.event(event), as: UTF8.self))
        }
    }

    @Test func weReadWhatProtocWrites() throws {
        var random = SeededRandom()
        for _ in 0..<60 {
            let event = random.event()
            let bytes = try Protoc.run("--encode=millrace.v1.RequestEvent", ProtoText.event(event))
            #expect(try decoded(bytes) == event)
            #expect(bytes == encoded(event))
        }
    }

    @Test func fieldsOfANewerSchemaAreSkipped() throws {
        var random = SeededRandom()
        let folder = FileManager.default.temporaryDirectory.appending(path: "millrace-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        let schema = try String(
            contentsOf: Protoc.repository.appending(path: "schemas/request_event.proto"), encoding: .utf8)
        let newer = schema.replacingOccurrences(
            of: "message RequestEvent {",
            with: """
                message Inner { string a = 1; }
                message RequestEvent {
                  repeated uint64 new_packed = 18; fixed32 new_fixed = 29; double new_double = 45;
                  repeated Inner new_inner = 500; map<string, int32> new_map = 536870911;
                """)
        try newer.write(to: folder.appending(path: "newer.proto"), atomically: true, encoding: .utf8)
        let added = """
            new_packed: 1 new_packed: 99999999999 new_fixed: 7 new_double: 1.5 new_inner { a: "x" } new_inner {}
            new_map { key: "k" value: -1 }
            """
        for _ in 0..<20 {
            let event = random.event()
            let bytes = try Protoc.run(
                "--encode=millrace.v1.RequestEvent", schema: "newer.proto", in: folder,
                ProtoText.event(event) + Array(added.utf8))
            #expect(bytes.count > encoded(event).count)
            #expect(try decoded(bytes) == event)
        }
    }

    @Test func ofAFieldThatComesTwiceTheLastCounts() throws {
        var random = SeededRandom()
        var first = random.event()
        var second = first
        first.requestModel = "one"
        second.requestModel = "two"
        #expect(try decoded(encoded(first) + encoded(second)).requestModel == "two")
    }

    @Test func anOutcomeThatIsAbsentIsWhatTheStatusImplies() throws {
        let id = [0x0A, 16] + [UInt8](repeating: 1, count: 16)
        #expect(try decoded(id + [0x50, 0xF4, 0x03]).outcome == .providerError)
        #expect(try decoded(id + [0x50, 0xF4, 0x03, 0x58, 5]).outcome == .cancelled)
    }

    @Test(
        arguments: [
            ([], .badID),
            ([0x0A], .truncated),
            ([0x0A, 15] + [UInt8](repeating: 1, count: 15), .badID),
            ([0x0A, 16, 1], .truncated),
            ([0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1], .truncated),
            ([0xA0], .truncated),
            ([0xA0, 1] + [UInt8](repeating: 0xFF, count: 10), .overlongVarint),
            ([0xA0, 1] + [UInt8](repeating: 0x80, count: 9) + [2], .overlongVarint),
            ([0x00, 0], .badFieldNumber),
            ([0x80, 0x80, 0x80, 0x80, 0x10, 0], .badFieldNumber),
            ([0x0B], .badWireType), ([0x0C], .badWireType), ([0x0E], .badWireType), ([0x0F], .badWireType),
            ([0x10, 0], .badWireType), ([0x18, 0], .badWireType),
            ([0x11, 1, 2, 3], .truncated),
            ([0x1A, 1, 0xFF], .invalidText), ([0x1A, 2, 0xC0, 0x80], .invalidText),
            ([0x1A, 3, 0xED, 0xA0, 0x80], .invalidText),
            ([0x50, 0x80, 0x80, 0x04], .outOfRange),
            ([0x58, 6], .unknownEnum), ([0xC0, 0x02, 6], .unknownEnum), ([0xC0, 0x01, 3], .unknownEnum),
            ([0xF5, 0x07, 1, 2, 3], .truncated),
        ] as [([UInt8], EventCodecError.Code)])
    func brokenValuesAreNamed(_ value: [UInt8], _ code: EventCodecError.Code) {
        #expect(failure(value) == code)
    }

    @Test func aValueBeyondTheReachOfRangesIsRefused() {
        #expect(throws: EventCodecError(code: .tooLarge, position: 0)) {
            try [UInt8](repeating: 0, count: 8).withUnsafeBytes {
                try EventDecoder.decode($0, base: Int(UInt32.max) - 4)
            }
        }
    }

    @Test func noBytesWhateverTrap() {
        var random = SeededRandom()
        var read = 0
        for _ in 0..<500 {
            let value = encoded(random.event())
            for _ in 0..<200 {
                var mutant = value
                switch Int.random(in: 0..<4, using: &random) {
                case 0: mutant.removeLast(Int.random(in: 0...mutant.count, using: &random))
                case 1: mutant.insert(contentsOf: random.bytes(upTo: 6), at: Int(random.next() % UInt64(value.count)))
                case 2: mutant = random.bytes(upTo: 40)
                default: break
                }
                for _ in 0..<Int.random(in: 0...4, using: &random) where !mutant.isEmpty {
                    mutant[Int(random.next() % UInt64(mutant.count))] = UInt8(truncatingIfNeeded: random.next())
                }
                mutant.withUnsafeBytes { bytes in
                    if let fields = try? EventDecoder.decode(bytes, base: 0) {
                        read += RequestEvent(fields, in: bytes).metadataRaw.count & 1
                    }
                    if let manifest = try? EventDecoder.decodeManifest(bytes) { read += Int(manifest.accepted & 1) }
                }
            }
        }
        #expect(read > 0)
    }
}

/// protoc's text form of our messages, byte for byte as `--decode` prints it.
private enum ProtoText {
    static func event(_ event: RequestEvent) -> [UInt8] {
        var out = ""
        func text(_ name: String, _ value: some Collection<UInt8>) {
            if !value.isEmpty { out += "\(name): \"\(escaped(value))\"\n" }
        }
        func number(_ name: String, _ value: UInt64) { if value != 0 { out += "\(name): \(value)\n" } }
        func optional(_ name: String, _ value: UInt64?) { if let value { out += "\(name): \(value)\n" } }
        text("id", event.id.bytes)
        if event.time.microseconds != 0 { out += "time_us: \(event.time.microseconds)\n" }
        text("proxy", event.proxy.utf8)
        text("workspace", event.workspace.utf8)
        text("api_key_id", event.apiKey.utf8)
        text("provider", event.provider.utf8)
        text("operation", event.operation.utf8)
        text("request_model", event.requestModel.utf8)
        text("response_model", event.responseModel.utf8)
        number("status", UInt64(event.status))
        out += "outcome: OUTCOME_\(event.outcome.name.uppercased())\n"
        text("error_type", event.errorType.utf8)
        text("finish_reason", event.finishReason.utf8)
        if event.streamed { out += "streamed: true\n" }
        text("trace_id", event.traceID.utf8)
        text("span_id", event.spanID.utf8)
        text("parent_span_id", event.parentSpanID.utf8)
        number("input_tokens", event.inputTokens)
        number("output_tokens", event.outputTokens)
        number("cached_tokens", event.cachedTokens)
        number("reasoning_tokens", event.reasoningTokens)
        switch event.usageSource {
        case .none: break
        case .response: out += "usage_source: USAGE_SOURCE_RESPONSE\n"
        case .unreadable: out += "usage_source: USAGE_SOURCE_UNREADABLE\n"
        }
        if let cost = event.cost { out += "cost_nano_usd: \(cost.amount)\n" }
        text("price_version", event.priceVersion.utf8)
        number("request_bytes", event.requestBytes)
        number("response_bytes", event.responseBytes)
        optional("latency_us", event.latencyMicroseconds)
        optional("first_token_us", event.firstTokenMicroseconds)
        optional("upstream_us", event.upstreamMicroseconds)
        optional("overhead_us", event.overheadMicroseconds)
        if event.metadataStatus != .absent {
            out += "metadata_status: METADATA_STATUS_\(event.metadataStatus.name.uppercased())\n"
        }
        number("metadata_sources", UInt64(event.metadataSources.rawValue))
        text("metadata_raw", event.metadataRaw)
        text("metadata_rejected", event.metadataRejected)
        number("metadata_conflicts", UInt64(event.metadataConflicts))
        return Array(out.utf8)
    }

    static func manifest(_ manifest: Manifest) -> [UInt8] {
        var out = ""
        if !manifest.proxy.isEmpty { out += "proxy: \"\(escaped(manifest.proxy.utf8))\"\n" }
        if manifest.minute.microseconds != 0 { out += "minute_us: \(manifest.minute.microseconds)\n" }
        for (name, value) in [
            ("accepted", manifest.accepted), ("recorded", manifest.recorded), ("dropped", manifest.dropped),
            ("lane", UInt64(manifest.lane)), ("serial", manifest.serial),
        ] where value != 0 { out += "\(name): \(value)\n" }
        return Array(out.utf8)
    }

    private static func escaped(_ bytes: some Collection<UInt8>) -> String {
        var out = ""
        for byte in bytes {
            switch byte {
            case 0x0A: out += "\\n"
            case 0x0D: out += "\\r"
            case 0x09: out += "\\t"
            case 0x22: out += "\\\""
            case 0x27: out += "\\'"
            case 0x5C: out += "\\\\"
            case 0x20..<0x7F: out.unicodeScalars.append(Unicode.Scalar(byte))
            default:
                let octal = String(byte, radix: 8)
                out += "\\" + String(repeating: "0", count: 3 - octal.count) + octal
            }
        }
        return out
    }
}
