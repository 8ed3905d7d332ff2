// Which pairs events have beside their metadata sets, as numbers: `extra` -> what a store's index of events holds.
//
// A pair is a key and one value; of a list each element is one. Its number is FNV-1a of 64 bits over the key, a byte 0xFF
// and the value, both as UTF-8 in NFC, its halves folded into 32 bits by exclusive or; 1 in place of 0. Numbers are stored:
// they never change. What is equal as text has one number, so an index that leaves out events without any of some
// numbers leaves out none that a condition on those pairs holds for. Pairs that share a number are told apart by
// whoever reads the events.

import Events
import JSONText
@_spi(_Unicode) import Swift

/// | limit | value | why | at the limit |
/// | --- | --- | --- | --- |
/// | `most` | 16 pairs of an event | so many take about as much room as the event itself | `unsaid` stands for all of them, and every question reads the event |
package enum EventPairs {
    package static let most = 16
    /// The event's pairs are not in the index: every question looks for this number too.
    package static let unsaid: UInt32 = 0

    package static func number(key: String, value: String) -> UInt32 {
        var hash = FNV1a()
        hash.combine(key)
        hash.combine(0xFF)
        hash.combine(value)
        return hash.folded
    }

    /// Adds the numbers of an event's `NormalizedMetadata.extra`, ascending, each once.
    package static func append(of extra: UnsafeRawBufferPointer, to numbers: inout [UInt32]) {
        let start = numbers.count
        if extra.count > 2 {
            let isPlain = extra.allSatisfy { $0 < 0x80 && $0 != UInt8(ascii: "\\") }
            if !(isPlain ? appendPlain(extra, &numbers) : appendAny(extra, &numbers))
                || numbers.count - start > most
            {
                numbers.removeSubrange(start...)
                numbers.append(unsaid)
            }
        }
        if numbers.count - start < 2 { return }
        numbers[start...].sort()
        var last = start
        for index in start + 1..<numbers.count where numbers[index] != numbers[last] {
            last += 1
            numbers[last] = numbers[index]
        }
        numbers.removeSubrange((last + 1)...)
    }

    package static func numbers(of extra: [UInt8]) -> [UInt32] {
        var numbers: [UInt32] = []
        extra.withUnsafeBytes { append(of: $0, to: &numbers) }
        return numbers
    }

    /// Of compact JSON without escapes, in which quotes stand around keys and values only.
    private static func appendPlain(_ extra: UnsafeRawBufferPointer, _ numbers: inout [UInt32]) -> Bool {
        var key = FNV1a()
        var at = 0
        while at < extra.count {
            guard extra[at] == UInt8(ascii: "\"") else {
                at += 1
                continue
            }
            at += 1
            let begin = at
            while at < extra.count, extra[at] != UInt8(ascii: "\"") { at += 1 }
            guard at < extra.count else { return false }
            let text = UnsafeRawBufferPointer(rebasing: extra[begin..<at])
            at += 1
            if at < extra.count, extra[at] == UInt8(ascii: ":") {
                key = FNV1a()
                key.combine(text)
                key.combine(0xFF)
            } else {
                var pair = key
                pair.combine(text)
                numbers.append(pair.folded)
            }
        }
        return true
    }

    private static func appendAny(_ extra: UnsafeRawBufferPointer, _ numbers: inout [UInt32]) -> Bool {
        guard let members = (try? JSONValue.parse(Array(extra)))?.members else { return false }
        for member in members {
            for value in member.value.array ?? [member.value] {
                if let text = value.string { numbers.append(number(key: member.key, value: text)) }
            }
        }
        return true
    }
}

extension FNV1a {
    fileprivate var folded: UInt32 { max(1, UInt32(truncatingIfNeeded: state ^ state >> 32)) }

    /// In NFC.
    fileprivate mutating func combine(_ text: String) {
        var text = text
        let isASCII = text.withUTF8 { utf8 in
            guard utf8.allSatisfy({ $0 < 0x80 }) else { return false }
            combine(utf8)
            return true
        }
        if isASCII { return }
        for scalar in text._nfc { combine(UTF8.encode(scalar) ?? UTF8.encodedReplacementCharacter) }
    }
}
