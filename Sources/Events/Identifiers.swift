// The identities and units that must not mix.

/// The identity of one request event: a UUID, version 7 (RFC 9562 §5.7), as two big-endian halves.
///
/// It is made once, before the event enters the journal, and is the key of the event's record: copies of one
/// event carry the same id and are counted once.
package struct EventID: Hashable, Comparable, Sendable {
    package var high: UInt64
    package var low: UInt64

    package init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// Version 7: 48 bits of Unix milliseconds, then 74 random bits. `random` supplies 128 bits, of which 74 are used.
    package init(time: EventTime, random: (UInt64, UInt64)) {
        let milliseconds = UInt64(clamping: time.microseconds / 1000) & 0xFFFF_FFFF_FFFF
        high = milliseconds << 16 | 0x7000 | (random.0 & 0x0FFF)
        low = 0x8000_0000_0000_0000 | (random.1 & 0x3FFF_FFFF_FFFF_FFFF)
    }

    /// Exactly 16 bytes, big-endian; nil for any other length.
    package init?(bytes: Span<UInt8>) {
        guard bytes.count == 16 else { return nil }
        var halves: (UInt64, UInt64) = (0, 0)
        for index in 0..<8 {
            halves.0 = halves.0 << 8 | UInt64(bytes[index])
            halves.1 = halves.1 << 8 | UInt64(bytes[index + 8])
        }
        self.init(high: halves.0, low: halves.1)
    }

    /// The time that a record's key begins with, milliseconds since 1970; nil where the key has not the size of one.
    package static func milliseconds(ofKey key: some Collection<UInt8>) -> Int64? {
        key.count == 16 ? key.prefix(6).reduce(Int64(0)) { $0 << 8 | Int64($1) } : nil
    }

    /// The text form of RFC 9562 §4, either case; nil for anything else.
    package init?(text: some StringProtocol) {
        var halves: [UInt64] = [0, 0]
        var digits = 0
        var index = 0
        for byte in text.utf8 {
            defer { index += 1 }
            if index == 8 || index == 13 || index == 18 || index == 23 {
                guard byte == UInt8(ascii: "-") else { return nil }
                continue
            }
            let digit: UInt8
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): digit = byte - UInt8(ascii: "0")
            case UInt8(ascii: "a")...UInt8(ascii: "f"): digit = byte - UInt8(ascii: "a") + 10
            case UInt8(ascii: "A")...UInt8(ascii: "F"): digit = byte - UInt8(ascii: "A") + 10
            default: return nil
            }
            guard digits < 32 else { return nil }
            halves[digits / 16] = halves[digits / 16] << 4 | UInt64(digit)
            digits += 1
        }
        guard digits == 32, index == 36 else { return nil }
        self.init(high: halves[0], low: halves[1])
    }

    /// The 16 bytes of the record key.
    package var bytes: [UInt8] {
        var out = [UInt8]()
        out.reserveCapacity(16)
        append(to: &out)
        return out
    }

    package func append(to out: inout [UInt8]) {
        for half in [high, low] {
            for shift in stride(from: 56, through: 0, by: -8) {
                out.append(UInt8(truncatingIfNeeded: half >> UInt64(shift)))
            }
        }
    }

    package static func < (a: EventID, b: EventID) -> Bool {
        a.high != b.high ? a.high < b.high : a.low < b.low
    }
}

extension EventID: CustomStringConvertible {
    /// Lower case, 8-4-4-4-12.
    package var description: String {
        let digits = Array("0123456789abcdef".utf8)
        var out = [UInt8]()
        out.reserveCapacity(36)
        for (index, byte) in bytes.enumerated() {
            if index == 4 || index == 6 || index == 8 || index == 10 { out.append(UInt8(ascii: "-")) }
            out.append(digits[Int(byte >> 4)])
            out.append(digits[Int(byte & 15)])
        }
        return String(decoding: out, as: UTF8.self)
    }
}

/// An instant in UTC, microseconds since 1970-01-01T00:00:00Z, leap seconds not counted.
package struct EventTime: Hashable, Comparable, Sendable {
    package var microseconds: Int64

    package init(microseconds: Int64) { self.microseconds = microseconds }

    package static func < (a: EventTime, b: EventTime) -> Bool { a.microseconds < b.microseconds }
}

extension EventTime {
    package static let minuteMicroseconds: Int64 = 60_000_000

    /// The start of the minute that this instant lies in; the earliest instant there is where it began before that, for
    /// a hostile record may hold any time.
    package var startOfMinute: EventTime {
        let rest = microseconds % Self.minuteMicroseconds
        let (start, isBefore) = microseconds.subtractingReportingOverflow(
            rest < 0 ? rest + Self.minuteMicroseconds : rest)
        return EventTime(microseconds: isBefore ? .min : start)
    }
}

/// Money in thousand-millionths of a US dollar: integers, so that sums are exact in every store.
package struct NanoUSD: Hashable, Comparable, Sendable {
    package var amount: Int64

    package init(_ amount: Int64) { self.amount = amount }

    package static func < (a: NanoUSD, b: NanoUSD) -> Bool { a.amount < b.amount }
}
