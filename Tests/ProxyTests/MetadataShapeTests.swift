// What a header may hold as JSON, shape by shape, through the reader of the hot path and through Foundation.

import CaptureProxy
import Events
import Foundation
import JSONText
import Testing

/// Where Foundation and RFC 8259 part; each is asserted, so that a difference that goes away is noticed.
private enum Foundations: Sendable {
    case agrees
    /// It reads what the grammar does not have.
    case isLenient
    /// It refuses what the grammar allows and leaves to the reader, RFC 8259 §9.
    case isStricter
}

private struct Shape: Sendable, CustomTestStringConvertible {
    var text: [UInt8]
    var status: MetadataStatus
    var foundation = Foundations.agrees

    var testDescription: String { String(decoding: text.prefix(60), as: UTF8.self) }

    init(_ text: String, _ status: MetadataStatus, _ foundation: Foundations = .agrees) {
        self.init(Array(text.utf8), status, foundation)
    }

    init(_ text: [UInt8], _ status: MetadataStatus, _ foundation: Foundations = .agrees) {
        (self.text, self.status, self.foundation) = (text, status, foundation)
    }
}

@Suite struct MetadataShapeTests {
    /// Each stands as the value of a key.
    private static let goodValues = [
        // Structure and blanks
        "[]", "{}", "[[]]", "[{}]", "[null]", "[ 1 ,\t2\r\n, 3 ]", "{\"\":0}", "{\"a\":{\"b\":{\"c\":[]}}}",
        "[[],[[]]]",
        "[false,true,null]", "{\"a\" : \"b\" , \"c\":[ ]}", "[1,null,null,null,2]", "[\"a\"]", " 1 ", "\t\"x\"\n",
        // Numbers
        "0", "-0", "1", "-1", "123", "0.5", "-0.5", "123.456", "0e1", "0E1", "0e+1", "1e2", "1E2", "1e-2", "1E+2",
        "1.5e3",
        "0.0000000000000000000000000000001", "-123456789", "9223372036854775807", "-9223372036854775808",
        "18446744073709551615", "123456789012345678901234567890", "1.7976931348623157e308", "5e-324", "0.1", "1e22",
        "3.141592653589793238462643383279502884197", "-0.0", "2.2250738585072014e-308", "9007199254740993",
        // Strings
        "\"\"", "\"a\"", "\" \"", "\"é\"", "\"日本語\"", "\"😀\"", "\"\u{7F}\"", "\"\u{2028}\u{2029}\"",
        "\"\u{10FFFF}\"", "\"\u{FFFD}\"", #""\"\\\/\b\f\n\r\t""#, #""\u0000""#, #""\u001f""#,
        #""\u00e9""#, #""\u00E9""#, #""\u20ac""#, #""\uffff""#, #""\ud83d\ude00""#, #""\uD83D\uDE00x""#,
        #""\udbff\udfff""#, #""\ud800\udc00""#, #""\\u0041""#, #""\\ud800""#, #""\u005C""#, #""\u0022""#, "\"//\"",
        "\"/* */\"", "\"{}[]:,\"", #""\u0060\u012a\u12AB""#, "\"e\u{301}\"", "\"\\u0065\\u0301\"",
        // Keys
        #"{"a":1,"a":2}"#, #"{"a":1,"b":2,"a":3}"#, #"{"a":{"x":1},"a":[]}"#, #"{"a":1,"\u0061":2}"#, #"{"":1,"":2}"#,
        #"{"\"":1}"#, #"{"é":1,"e\u0301":2}"#, #"{"\u0000":1}"#, #"{"a.b":1,"a":{"b":2}}"#, #"{"A":1,"a":2}"#,
    ]

    private static let badValues: [(text: String, foundation: Foundations)] = [
        // Structure
        ("[", .agrees), ("]", .agrees), ("{", .agrees), ("[1", .agrees), ("[1,", .agrees), ("[,1]", .agrees),
        ("[1,,2]", .agrees), ("[,]", .agrees), ("[1 2]", .agrees), ("[\"a\" \"b\"]", .agrees), ("[1:2]", .agrees),
        ("[1}", .agrees), ("{\"a\":1]", .agrees), ("{\"a\"}", .agrees), ("{\"a\":}", .agrees), ("{:1}", .agrees),
        ("{\"a\" 1}", .agrees), ("{\"a\"::1}", .agrees), ("{\"a\",1}", .agrees), ("{\"a\":1 \"b\":2}", .agrees),
        ("{\"a\":1,,\"b\":2}", .agrees), ("{,}", .agrees), ("{a:1}", .agrees), ("{1:1}", .agrees), ("{'a':1}", .agrees),
        ("{null:1}", .agrees), ("{[]:1}", .agrees), ("{\"a\":1", .agrees), ("{\"a", .agrees), ("{\"a\":\"b", .agrees),
        ("[1,]", .isLenient), ("{\"a\":1,}", .isLenient), ("[1],", .isLenient), ("[]]", .agrees), ("[]x", .agrees),
        // Words
        ("nul", .agrees), ("nulll", .agrees), ("tru", .agrees), ("fals", .agrees), ("True", .agrees), ("NULL", .agrees),
        ("undefined", .agrees), ("NaN", .agrees), ("-NaN", .agrees), ("Infinity", .agrees), ("-Infinity", .agrees),
        ("+Inf", .agrees), ("None", .agrees), ("x", .agrees), ("*", .agrees), ("", .agrees), ("truefalse", .agrees),
        // Numbers
        ("+1", .agrees), ("-", .agrees), ("--1", .agrees), ("- 1", .agrees), ("01", .agrees), ("-01", .agrees),
        ("00", .agrees), ("1.", .agrees), (".1", .agrees), ("-.1", .agrees), ("1.e1", .agrees), ("1e", .agrees),
        ("1e+", .agrees), ("1E-", .agrees), ("e1", .agrees), ("1e1.5", .agrees), ("1e1e1", .agrees), ("1.2.3", .agrees),
        ("1,5", .agrees), ("1_000", .agrees), ("0x1F", .agrees), ("0b1", .agrees), ("1f", .agrees), ("1n", .agrees),
        ("1 000", .agrees), ("１", .agrees), ("1+1", .agrees), ("0.1e", .agrees), ("1eE2", .agrees), ("1e١", .agrees),
        // Strings
        ("'a'", .agrees), ("`a`", .agrees), ("“a”", .agrees), ("\"a", .agrees), ("a\"", .agrees), ("\"a\"b", .agrees),
        ("\"\\", .agrees), ("\"\\\"", .agrees), (#""\x41""#, .agrees), (#""\a""#, .agrees), (#""\0""#, .agrees),
        (#""\'""#, .agrees), (#""\U0041""#, .agrees), (#""\u""#, .agrees), (#""\u00""#, .agrees),
        (#""\u004""#, .agrees),
        (#""\u004g""#, .agrees), (#""\u+041""#, .agrees), (#""\u 041""#, .agrees), ("\"\\\n\"", .agrees),
        ("\"\t\"", .agrees), ("\"\n\"", .agrees), ("\"\u{0}\"", .agrees), ("\"\u{1F}\"", .agrees), ("\"\\é\"", .agrees),
        // Lone surrogates: no character, so no text
        (#""\ud800""#, .agrees), (#""\udfff""#, .agrees), (#""\udc00\ud800""#, .agrees), (#""\ud800\ud800""#, .agrees),
        (#""\ud83dx""#, .agrees), (#""\ud83d\n""#, .agrees), (#""\ud83d\u0041""#, .agrees), (#""a\udead""#, .agrees),
        (#""\ud83d\ude0""#, .agrees), (#""\ud83d\\ude00""#, .agrees), (#"{"\ud800":1}"#, .agrees),
        // Blanks and comments of other languages
        ("[1]//", .agrees), ("/**/1", .agrees), ("1#", .agrees), ("\u{A0}1", .agrees), ("\u{0C}1", .agrees),
        ("\u{0B}1", .agrees), ("\u{2060}1", .agrees), ("\u{FEFF}1", .agrees), ("\u{85}1", .agrees),
    ]

    /// Bytes in a string that are no UTF-8.
    private static let badBytes: [[UInt8]] = [
        [0x80], [0xBF], [0xC3], [0xC0, 0x80], [0xC1, 0xBF], [0xE9], [0xE0, 0x80, 0xAF], [0xE2, 0x82],
        [0xED, 0xA0, 0x80],
        [0xED, 0xA0, 0xBD, 0xED, 0xB8, 0x80], [0xF0, 0x8F, 0xBF, 0xBF], [0xF0, 0x9F, 0x98], [0xF4, 0x90, 0x80, 0x80],
        [0xF5, 0x80, 0x80, 0x80], [0xF8, 0x88, 0x80, 0x80, 0x80], [0xFE], [0xFF],
    ]

    private static let wholes: [Shape] = {
        func utf16(_ text: String, bigEndian: Bool) -> [UInt8] {
            text.utf16.flatMap { unit -> [UInt8] in
                let (high, low) = (UInt8(unit >> 8), UInt8(unit & 0xFF))
                return bigEndian ? [high, low] : [low, high]
            }
        }
        func nested(_ count: Int, _ inner: String = "1") -> String {
            "{\"k\":" + String(repeating: "[", count: count) + inner + String(repeating: "]", count: count) + "}"
        }
        return [
            .init("{}", .ok), .init(" {} ", .ok), .init("{\"a\":1}\r\n", .ok),
            // Foundation drops the mark, so only the status is compared.
            .init("{\"k\":\"\u{FEFF}\"}", .ok),
            .init("[]", .notAnObject), .init("[{\"a\":1}]", .notAnObject), .init("null", .notAnObject),
            .init("true", .notAnObject), .init("7", .notAnObject), .init("-0.5e3", .notAnObject),
            .init("\"{}\"", .notAnObject), .init("\"\"", .notAnObject),
            .init("{}{}", .malformed), .init("{} {}", .malformed), .init("{},", .malformed),
            .init("{}\u{0}", .malformed),
            .init("}", .malformed), .init("{}}", .malformed), .init("a={}", .malformed), .init("{}//", .malformed),
            .init("eyJhIjoxfQ==", .malformed), .init("%7B%22a%22%3A1%7D", .malformed), .init("a=1&b=2", .malformed),
            .init("{\\\"a\\\":1}", .malformed),
            // Text of other encodings, which RFC 8259 §8.1 does not exchange.
            .init("\u{FEFF}{}", .malformed, .isLenient),
            .init(utf16("{\"a\":1}", bigEndian: false), .malformed, .isLenient),
            .init(utf16("{\"a\":1}", bigEndian: true), .malformed, .isLenient),
            .init([0xFF, 0xFE] + utf16("{\"a\":1}", bigEndian: false), .malformed, .isLenient),
            // Depth: our limit is 128 open at once, Foundation's is another.
            .init(nested(100), .ok), .init(nested(JSONTokenizer.depthCeiling - 1), .ok),
            .init(nested(JSONTokenizer.depthCeiling), .tooLarge, .isLenient), .init(nested(400), .tooLarge, .isLenient),
            .init(nested(100_000), .tooLarge), .init(String(repeating: "[", count: 100_000), .tooLarge),
            .init(String(repeating: "{\"a\":", count: 50_000), .tooLarge), .init(nested(100, "]"), .malformed),
            // Numbers beyond a double: the grammar has no range, Foundation the double's.
            .init("{\"k\":1e309}", .ok, .isStricter), .init("{\"k\":-1e400}", .ok, .isStricter),
            .init("{\"k\":1e99999999999999999999}", .ok, .isStricter),
            .init("{\"k\":" + String(repeating: "9", count: 400) + "}", .ok, .isStricter),
        ]
    }()

    private static let shapes: [Shape] =
        goodValues.map { Shape("{\"k\":\($0)}", .ok) }
        + badValues.map { Shape("{\"k\":\($0.text)}", .malformed, $0.foundation) }
        + badBytes.map { Shape(Array("{\"k\":\"".utf8) + $0 + Array("\"}".utf8), .malformed) }
        + badBytes.map { Shape(Array("{\"".utf8) + $0 + Array("\":1}".utf8), .malformed) }
        + wholes

    private func read(_ text: [UInt8]) -> CapturedMetadata {
        var reader = MetadataReader(maxSize: 1 << 20)
        text.withUnsafeBytes { reader.add(.metadataHeader, $0) }
        return reader.finish()
    }

    @Test func eachShapeHasItsStatusAndFoundationsJudgement() {
        for shape in Self.shapes {
            let note = Comment(rawValue: shape.testDescription)
            let captured = read(shape.text)
            #expect(captured.status == shape.status, note)
            // As it came, or as much of it as is kept; never both.
            #expect(captured.raw == (shape.status == .ok ? shape.text : []), note)
            let rejected = shape.status == .ok ? [] : Array(shape.text.prefix(EventLimits.rejectedMetadataSize))
            #expect(captured.rejected == rejected, note)
            let theirs = try? JSONSerialization.jsonObject(with: Data(shape.text), options: .fragmentsAllowed)
            let isRead = shape.status == .ok || shape.status == .notAnObject
            switch shape.foundation {
            case .agrees: #expect((theirs != nil) == isRead, note)
            case .isLenient: #expect(theirs != nil && !isRead, note)
            case .isStricter: #expect(theirs == nil && isRead, note)
            }
        }
        #expect(Self.shapes.count > 250)
    }

    @Test func whatBothReadIsTheSameToBoth() throws {
        for value in Self.goodValues {
            let theirs = try JSONSerialization.jsonObject(with: Data(value.utf8), options: .fragmentsAllowed)
            expectSame(try JSONValue.parse(value), theirs, value)
        }
    }

    /// Of a key that comes twice, both take the last.
    private func expectSame(_ ours: JSONValue, _ theirs: Any, _ text: String) {
        let note = Comment(rawValue: text)
        switch ours {
        case .null: #expect(theirs is NSNull, note)
        case .boolean(let value): #expect((theirs as? NSNumber)?.boolValue == value, note)
        case .number(let digits):
            let number = theirs as? NSNumber
            if let integer = Int64(digits) { #expect(number?.int64Value == integer, note) }
            // Foundation's own reading is a unit in the last place or two off for some.
            let exact = Double(digits) ?? .nan
            #expect(abs((number?.doubleValue ?? .infinity) - exact) <= 4 * exact.ulp, note)
        case .string(let value): #expect((theirs as? String).map { Array($0.utf8) } == Array(value.utf8), note)
        case .array(let elements):
            let list = theirs as? [Any] ?? []
            #expect(list.count == elements.count && theirs is [Any], note)
            for (element, other) in zip(elements, list) { expectSame(element, other, text) }
        case .object(let members):
            let map = theirs as? [String: Any] ?? [:]
            #expect(theirs is [String: Any] && Set(members.map(\.key)) == Set(map.keys), note)
            for (key, other) in map {
                guard let member = ours[key] else { continue }
                expectSame(member, other, text)
            }
        }
    }
}
