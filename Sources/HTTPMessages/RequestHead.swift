// A scanned request head -> what to do with it: method, target, framing, or the refusal.

/// How a message's body is delimited.
package enum BodyFraming: Equatable, Sendable {
    case none
    case length(UInt64)
    case chunked
    /// Until the connection closes: answers only.
    case untilClose
}

package struct RequestHead: Sendable {
    package var method: Range<Int>
    /// Origin form: path and query. Of an absolute-form target, what follows the authority.
    package var target: Range<Int>
    /// The path alone.
    package var path: Range<Int>
    package var isVersion11: Bool
    package var framing: BodyFraming
    /// The client keeps the connection open after this exchange.
    package var keepsAlive: Bool
    package var expectsContinue: Bool
    package var isHEAD: Bool
    /// Names listed in `connection` beyond `close` and `keep-alive`: those headers are of this connection too.
    package var connectionOptions: [Range<Int>]

    /// Checks the rules that concern more than one line.
    package init(_ bytes: Span<UInt8>, _ scanner: borrowing HeadScanner) throws(Refusal) {
        let line = scanner.startLine
        var parts: [Range<Int>] = []
        var start = line.lowerBound
        for index in line where bytes[index] == 0x20 {
            parts.append(start..<index)
            start = index + 1
        }
        parts.append(start..<line.upperBound)
        guard parts.count == 3, !parts[0].isEmpty, !parts[1].isEmpty else { throw .badStartLine }
        method = parts[0]
        for index in method where !HeadScanner.isToken(bytes[index]) { throw .badStartLine }
        guard bytes.equalsIgnoringCase(parts[2], "http/1.1") || bytes.equalsIgnoringCase(parts[2], "http/1.0"),
            bytes[parts[2].lowerBound] == UInt8(ascii: "H")
        else { throw .badVersion }
        isVersion11 = bytes[parts[2].upperBound - 1] == UInt8(ascii: "1")
        if bytes.equalsIgnoringCase(method, "connect") { throw .connectRefused }
        isHEAD = method.count == 4 && bytes.equalsIgnoringCase(method, "head")
        guard parts[1].count <= HeadLimits.targetSize else { throw .targetTooLong }
        target = try Self.originForm(bytes, parts[1])
        var pathEnd = target.upperBound
        for index in target {
            let byte = bytes[index]
            if byte <= 0x20 || byte >= 0x7F || byte == UInt8(ascii: "#") { throw .badTarget }
            if byte == UInt8(ascii: "?"), index < pathEnd { pathEnd = index }
        }
        path = target.lowerBound..<pathEnd

        let rules = try FieldRules(bytes, scanner.fields, isVersion11: isVersion11)
        if rules.hosts > 1 { throw .hostRepeated }
        if rules.hosts == 0 && isVersion11 { throw .hostMissing }
        if rules.upgrades { throw .upgradeRefused }
        framing = rules.framing ?? .none
        keepsAlive = rules.closes ? false : isVersion11 || rules.keepsAlive
        expectsContinue = rules.expectsContinue && isVersion11
        connectionOptions = rules.options
    }

    private static func originForm(_ bytes: Span<UInt8>, _ target: Range<Int>) throws(Refusal) -> Range<Int> {
        if bytes[target.lowerBound] == UInt8(ascii: "/") { return target }
        for scheme in ["http://", "https://"] as [StaticString] {
            let count = scheme.utf8CodeUnitCount
            guard target.count > count else { continue }
            let prefix = target.lowerBound..<target.lowerBound + count
            guard bytes.equalsIgnoringCase(prefix, scheme) else { continue }
            for index in prefix.upperBound..<target.upperBound where bytes[index] == UInt8(ascii: "/") {
                // An empty authority or one with a user is an error, not a guess (RFC 9110 §4.2).
                guard isHost(bytes, prefix.upperBound..<index), index > prefix.upperBound else { throw .badTarget }
                return index..<target.upperBound
            }
        }
        throw .badTarget
    }

    /// What a host and port are made of (RFC 3986 §3.2, without a user): nothing that would end or split it.
    fileprivate static func isHost(_ bytes: Span<UInt8>, _ range: Range<Int>) -> Bool {
        for index in range {
            switch bytes[index] {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "-"), UInt8(ascii: "_"),
                UInt8(ascii: ":"), UInt8(ascii: "["), UInt8(ascii: "]"), UInt8(ascii: "~"), UInt8(ascii: "%"):
                continue
            default: return false
            }
        }
        return true
    }

    /// True where `..` segments, however they are escaped, would climb above the path's start. Escapes of escapes are
    /// undone too, and a segment's parameters (`..;x`) do not count: some server behind may read it so.
    package static func leavesBase(_ bytes: Span<UInt8>, _ path: Range<Int>) -> Bool {
        var depth = 0
        var dots = 0
        var others = 0
        var inParameters = false
        func closeSegment() {
            if others == 0 && dots == 2 { depth -= 1 } else if others > 0 || dots > 2 { depth += 1 }
            dots = 0
            others = 0
            inParameters = false
        }
        var index = path.lowerBound
        while index < path.upperBound {
            var byte = bytes[index]
            while byte == UInt8(ascii: "%"), index + 2 < path.upperBound, let high = hex(bytes[index + 1]),
                let low = hex(bytes[index + 2])
            {
                byte = high << 4 | low
                index += 2
            }
            switch byte {
            case UInt8(ascii: ";"): inParameters = true
            case _ where inParameters && byte != UInt8(ascii: "/") && byte != UInt8(ascii: "\\"): break
            case UInt8(ascii: "/"), UInt8(ascii: "\\"):
                closeSegment()
                if depth < 0 { return true }
            case UInt8(ascii: "."): dots += 1
            default: others += 1
            }
            index += 1
        }
        closeSegment()
        return depth < 0
    }

    /// The byte that `%XX` at the index stands for.
    package static func escaped(_ bytes: Span<UInt8>, _ index: Int, _ end: Int) -> UInt8? {
        guard bytes[index] == UInt8(ascii: "%"), index + 2 < end, let high = hex(bytes[index + 1]),
            let low = hex(bytes[index + 2])
        else { return nil }
        return high << 4 | low
    }

    private static func hex(_ byte: UInt8) -> UInt8? {
        switch byte {
        case 0x30...0x39: byte - 0x30
        case 0x41...0x46: byte - 0x37
        case 0x61...0x66: byte - 0x57
        default: nil
        }
    }
}

/// What an upstream's answer says of itself.
package struct ResponseHead: Sendable {
    package var status: UInt16
    package var reason: Range<Int>
    package var isVersion11: Bool
    package var framing: BodyFraming
    /// By the request's method or the status: what the fields say of a body does not count.
    package var hasNoBody: Bool
    package var keepsAlive: Bool
    package var connectionOptions: [Range<Int>]

    /// `toHEAD`: the request was a HEAD, so that no body follows whatever the fields say (RFC 9112 §6.3).
    package init(_ bytes: Span<UInt8>, _ scanner: borrowing HeadScanner, toHEAD: Bool) throws(Refusal) {
        let line = scanner.startLine
        guard line.count >= 12, bytes.equalsIgnoringCase(line.lowerBound..<line.lowerBound + 7, "http/1.") else {
            throw .badStartLine
        }
        let minor = bytes[line.lowerBound + 7]
        guard minor == UInt8(ascii: "0") || minor == UInt8(ascii: "1") else { throw .badVersion }
        isVersion11 = minor == UInt8(ascii: "1")
        guard bytes[line.lowerBound + 8] == 0x20 else { throw .badStartLine }
        var number: UInt16 = 0
        for index in line.lowerBound + 9..<line.lowerBound + 12 {
            let digit = bytes[index] &- 0x30
            guard digit < 10 else { throw .badStartLine }
            number = number * 10 + UInt16(digit)
        }
        guard number >= 100, line.count == 12 || bytes[line.lowerBound + 12] == 0x20 else { throw .badStartLine }
        status = number
        reason = min(line.lowerBound + 13, line.upperBound)..<line.upperBound
        let rules = try FieldRules(bytes, scanner.fields, isVersion11: isVersion11)
        if number == 101 { throw .upgradeRefused }
        hasNoBody = toHEAD || number < 200 || number == 204 || number == 304
        framing = hasNoBody ? .none : rules.framing ?? .untilClose
        keepsAlive = framing != .untilClose && (rules.closes ? false : isVersion11 || rules.keepsAlive)
        connectionOptions = rules.options
    }
}

/// What the lines of a head say together.
private struct FieldRules {
    var hosts = 0
    /// nil: no line said.
    var framing: BodyFraming?
    var closes = false
    var keepsAlive = false
    var upgrades = false
    var expectsContinue = false
    var options: [Range<Int>] = []

    init(_ bytes: Span<UInt8>, _ fields: [HeaderField], isVersion11: Bool) throws(Refusal) {
        var isChunked = false
        var length: UInt64?
        for field in fields {
            switch field.name {
            case .host:
                hosts += 1
                guard RequestHead.isHost(bytes, field.valueRange) else { throw .hostUnreadable }
            case .contentLength:
                guard length == nil else { throw .lengthRepeated }
                length = try Self.decimal(bytes, field.valueRange)
            case .transferEncoding:
                guard !isChunked, bytes.equalsIgnoringCase(field.valueRange, "chunked") else {
                    throw .transferCodingUnknown
                }
                guard isVersion11 else { throw .transferCodingInOldVersion }
                isChunked = true
            case .upgrade: upgrades = true
            case .expect: expectsContinue = bytes.equalsIgnoringCase(field.valueRange, "100-continue")
            case .connection:
                for option in Self.list(bytes, field.valueRange) {
                    if bytes.equalsIgnoringCase(option, "close") {
                        closes = true
                    } else if bytes.equalsIgnoringCase(option, "keep-alive") {
                        keepsAlive = true
                    } else {
                        // Dropped with its name, a length would leave the body to be read as the next message.
                        switch HeaderName(bytes, option) {
                        case .contentLength, .transferEncoding, .host: throw .connectionNamesFraming
                        default: options.append(option)
                        }
                    }
                }
            default: break
            }
        }
        if isChunked && length != nil { throw .lengthWithTransferCoding }
        if isChunked {
            framing = .chunked
        } else if let length {
            framing = length == 0 ? BodyFraming.none : .length(length)
        }
    }

    private static func decimal(_ bytes: Span<UInt8>, _ range: Range<Int>) throws(Refusal) -> UInt64 {
        guard !range.isEmpty, range.count <= 18 else { throw .lengthUnreadable }
        var value: UInt64 = 0
        for index in range {
            let digit = bytes[index] &- 0x30
            guard digit < 10 else { throw .lengthUnreadable }
            value = value * 10 + UInt64(digit)
        }
        return value
    }

    private static func list(_ bytes: Span<UInt8>, _ range: Range<Int>) -> [Range<Int>] {
        var out: [Range<Int>] = []
        var start = range.lowerBound
        for index in range.lowerBound...range.upperBound
        where index == range.upperBound || bytes[index] == UInt8(ascii: ",") {
            var from = start
            var to = index
            while from < to, bytes[from] == 0x20 || bytes[from] == 0x09 { from += 1 }
            while to > from, bytes[to - 1] == 0x20 || bytes[to - 1] == 0x09 { to -= 1 }
            if from < to { out.append(from..<to) }
            start = index + 1
        }
        return out
    }
}
