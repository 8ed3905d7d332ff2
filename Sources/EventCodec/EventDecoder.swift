// Record value -> EventFields, Manifest: protobuf by schemas/request_event.proto, in place.
//
// As protobuf has it: unknown fields are skipped, of a field that comes twice the last counts, a field that is absent
// has its default. Beyond it: a known field of another wire type, text that is not UTF-8 and an enumeration's number
// that this program does not know are errors, since guessing would miscount; a newer producer's event waits in the
// dead letters until the consumer is newer too. An absent outcome is what the status implies.

package import Events

package enum EventDecoder {
    /// Ranges in the result are offsets in the buffer in which the value starts at `base`.
    package static func decode(_ bytes: UnsafeRawBufferPointer, base: Int) throws(EventCodecError) -> EventFields {
        guard base >= 0, base <= Int(UInt32.max) - bytes.count else {
            throw EventCodecError(code: .tooLarge, position: 0)
        }
        var reader = WireReader(bytes)
        var event = EventFields()
        var hasID = false
        var outcome: Outcome?
        while !reader.isAtEnd {
            let start = reader.position
            let (field, type) = try reader.tag()
            guard let expected = wireType(ofEventField: field) else {
                try reader.skip(type)
                continue
            }
            guard type == expected else { throw EventCodecError(code: .badWireType, position: start) }
            switch field {
            case 1:
                event.id = try id(&reader)
                hasID = true
            case 2: event.time = EventTime(microseconds: Int64(bitPattern: try reader.fixed64()))
            case 3: event.proxy = try text(&reader, base)
            case 4: event.workspace = try text(&reader, base)
            case 5: event.apiKey = try text(&reader, base)
            case 6: event.provider = try text(&reader, base)
            case 7: event.operation = try text(&reader, base)
            case 8: event.requestModel = try text(&reader, base)
            case 9: event.responseModel = try text(&reader, base)
            case 10: event.status = try integer(&reader)
            case 11:
                let number = try reader.varint()
                outcome = number == 0 ? nil : try known(number, start, Outcome.init(rawValue:))
            case 12: event.errorType = try text(&reader, base)
            case 13: event.finishReason = try text(&reader, base)
            case 14: event.streamed = try reader.varint() != 0
            case 15: event.traceID = try text(&reader, base)
            case 16: event.spanID = try text(&reader, base)
            case 17: event.parentSpanID = try text(&reader, base)
            case 20: event.inputTokens = try reader.varint()
            case 21: event.outputTokens = try reader.varint()
            case 22: event.cachedTokens = try reader.varint()
            case 23: event.reasoningTokens = try reader.varint()
            case 24: event.usageSource = try known(try reader.varint(), start, UsageSource.init(rawValue:))
            case 25:
                let bits = try reader.varint()
                event.cost = NanoUSD(Int64(bitPattern: bits >> 1) ^ -Int64(bits & 1))
            case 26: event.priceVersion = try text(&reader, base)
            case 27: event.requestBytes = try reader.varint()
            case 28: event.responseBytes = try reader.varint()
            case 30: event.latencyMicroseconds = try reader.varint()
            case 31: event.firstTokenMicroseconds = try reader.varint()
            case 32: event.upstreamMicroseconds = try reader.varint()
            case 33: event.overheadMicroseconds = try reader.varint()
            case 40: event.metadataStatus = try known(try reader.varint(), start, MetadataStatus.init(rawValue:))
            // Bits of sources yet unknown do not change what was sent.
            case 41: event.metadataSources = .init(rawValue: UInt8(truncatingIfNeeded: try reader.varint()))
            case 42: event.metadataRaw = range(try reader.content(), base)
            case 43: event.metadataRejected = range(try reader.content(), base)
            case 44: event.metadataConflicts = try integer(&reader)
            default: try reader.skip(type)
            }
        }
        guard hasID else { throw reader.failure(.badID) }
        event.outcome = outcome ?? Outcome(status: event.status)
        return event
    }

    package static func decodeManifest(_ bytes: UnsafeRawBufferPointer) throws(EventCodecError) -> Manifest {
        var reader = WireReader(bytes)
        var manifest = Manifest(
            proxy: "", minute: EventTime(microseconds: 0), accepted: 0, recorded: 0, dropped: 0)
        while !reader.isAtEnd {
            let start = reader.position
            let (field, type) = try reader.tag()
            let expected: WireType? =
                switch field {
                case 1: .bytes
                case 2: .fixed64
                case 3...7: .varint
                default: nil
                }
            guard let expected else {
                try reader.skip(type)
                continue
            }
            guard type == expected else { throw EventCodecError(code: .badWireType, position: start) }
            switch field {
            case 1: manifest.proxy = string(bytes, try reader.text())
            case 2: manifest.minute = EventTime(microseconds: Int64(bitPattern: try reader.fixed64()))
            case 3: manifest.accepted = try reader.varint()
            case 4: manifest.recorded = try reader.varint()
            case 5: manifest.dropped = try reader.varint()
            case 6: manifest.lane = try integer(&reader)
            default: manifest.serial = try reader.varint()
            }
        }
        return manifest
    }

    private static func wireType(ofEventField field: UInt32) -> WireType? {
        switch field {
        case 2: .fixed64
        case 1, 3...9, 12, 13, 15...17, 26, 42, 43: .bytes
        case 10, 11, 14, 20...25, 27, 28, 30...33, 40, 41, 44: .varint
        default: nil
        }
    }

    private static func id(_ reader: inout WireReader) throws(EventCodecError) -> EventID {
        let range = try reader.content()
        guard range.count == 16 else { throw EventCodecError(code: .badID, position: range.lowerBound) }
        return EventID(
            high: UInt64(bigEndian: reader.bytes.loadUnaligned(fromByteOffset: range.lowerBound, as: UInt64.self)),
            low: UInt64(bigEndian: reader.bytes.loadUnaligned(fromByteOffset: range.lowerBound + 8, as: UInt64.self)))
    }

    @inline(__always)
    private static func text(_ reader: inout WireReader, _ base: Int) throws(EventCodecError) -> ByteRange {
        range(try reader.text(), base)
    }

    private static func range(_ range: Range<Int>, _ base: Int) -> ByteRange {
        range.isEmpty ? .empty : ByteRange(start: base + range.lowerBound, count: range.count)
    }

    private static func integer<Value: FixedWidthInteger>(
        _ reader: inout WireReader
    ) throws(EventCodecError) -> Value {
        let start = reader.position
        guard let value = Value(exactly: try reader.varint()) else {
            throw EventCodecError(code: .outOfRange, position: start)
        }
        return value
    }

    private static func known<Value>(
        _ number: UInt64, _ position: Int, _ make: (UInt8) -> Value?
    ) throws(EventCodecError) -> Value {
        guard let raw = UInt8(exactly: number), let value = make(raw) else {
            throw EventCodecError(code: .unknownEnum, position: position)
        }
        return value
    }

    fileprivate static func string(_ bytes: UnsafeRawBufferPointer, _ range: Range<Int>) -> String {
        String(decoding: UnsafeRawBufferPointer(rebasing: bytes[range]), as: UTF8.self)
    }
}

extension RequestEvent {
    /// The event with copies of its text; for cold use. `bytes` is the buffer that the ranges point into; a range
    /// that lies outside it reads as empty.
    package init(_ fields: EventFields, in bytes: UnsafeRawBufferPointer) {
        func raw(_ range: ByteRange) -> UnsafeRawBufferPointer {
            guard range.range.upperBound <= bytes.count else { return UnsafeRawBufferPointer(start: nil, count: 0) }
            return UnsafeRawBufferPointer(rebasing: bytes[range.range])
        }
        func text(_ range: ByteRange) -> String { String(decoding: raw(range), as: UTF8.self) }
        self.init(id: fields.id, time: fields.time)
        proxy = text(fields.proxy)
        workspace = text(fields.workspace)
        apiKey = text(fields.apiKey)
        provider = text(fields.provider)
        operation = text(fields.operation)
        requestModel = text(fields.requestModel)
        responseModel = text(fields.responseModel)
        status = fields.status
        outcome = fields.outcome
        errorType = text(fields.errorType)
        finishReason = text(fields.finishReason)
        streamed = fields.streamed
        traceID = text(fields.traceID)
        spanID = text(fields.spanID)
        parentSpanID = text(fields.parentSpanID)
        inputTokens = fields.inputTokens
        outputTokens = fields.outputTokens
        cachedTokens = fields.cachedTokens
        reasoningTokens = fields.reasoningTokens
        usageSource = fields.usageSource
        cost = fields.cost
        priceVersion = text(fields.priceVersion)
        requestBytes = fields.requestBytes
        responseBytes = fields.responseBytes
        latencyMicroseconds = fields.latencyMicroseconds
        firstTokenMicroseconds = fields.firstTokenMicroseconds
        upstreamMicroseconds = fields.upstreamMicroseconds
        overheadMicroseconds = fields.overheadMicroseconds
        metadataStatus = fields.metadataStatus
        metadataSources = fields.metadataSources
        metadataRaw = [UInt8](raw(fields.metadataRaw))
        metadataRejected = [UInt8](raw(fields.metadataRejected))
        metadataConflicts = fields.metadataConflicts
    }
}
