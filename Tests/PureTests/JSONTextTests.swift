import Foundation
import JSONText
import Testing

@Suite struct JSONTextTests {
    @Test(
        arguments: [
            "{}", " [ ] ", "null", "true", "-0", "0.5e-7", "1E+2", "\"\"", #""\u00e9\ud83d\ude00\n\/""#, "[[[]]]",
            #"{"a":1,"a":2}"#, "\"\u{7F}\u{80}\u{FFFD}\u{10FFFF}\"", "123456789012345678901234567890", "[1,\t2\r\n,3 ]",
            #"{"":{"":[]}}"#,
        ])
    func validTextIsRead(_ text: String) throws {
        let value = try JSONValue.parse(text)
        #expect(try JSONValue.parse(value.bytes) == value)
    }

    @Test(
        arguments: [
            ("", .unexpectedEnd), (" ", .unexpectedEnd), ("[", .unexpectedEnd), ("{\"a\"", .unexpectedEnd),
            ("\"a", .unexpectedEnd), ("-", .unexpectedEnd), ("1e", .unexpectedEnd), ("tru", .unexpectedEnd),
            ("[1,]", .unexpectedByte), ("[,1]", .unexpectedByte), ("{,}", .unexpectedByte),
            ("{\"a\":1,}", .unexpectedByte), ("{a:1}", .unexpectedByte), ("{'a':1}", .unexpectedByte),
            ("{\"a\" 1}", .unexpectedByte), ("[1 2]", .unexpectedByte), ("[}", .unexpectedByte),
            ("{]", .unexpectedByte), ("[1}", .unexpectedByte), ("NaN", .unexpectedByte), ("True", .unexpectedByte),
            ("nul1", .unexpectedByte), ("+1", .unexpectedByte), (".5", .unexpectedByte), ("\u{FEFF}1", .unexpectedByte),
            ("/**/1", .unexpectedByte), ("\u{0C}1", .unexpectedByte),
            ("01", .badNumber), ("1.", .unexpectedEnd), ("[1.]", .badNumber), ("[1.e1]", .badNumber),
            ("[-]", .badNumber), ("0x1", .badNumber), ("1e+x", .badNumber), ("-a", .badNumber), ("1..2", .badNumber),
            (#""\a""#, .badEscape), (#""\u12g4""#, .badEscape), (#""\u12"#, .unexpectedEnd),
            (#""\ud800""#, .loneSurrogate), (#""\udc00x""#, .loneSurrogate), (#""\ud800\ud800""#, .loneSurrogate),
            ("\"\n\"", .controlCharacter), ("\"\u{0}\"", .controlCharacter),
            ("1 1", .trailingText), ("{}x", .trailingText), ("{},", .trailingText), ("{}\u{0}", .trailingText),
        ] as [(String, JSONTextError.Code)])
    func otherTextIsRefusedByName(_ text: String, _ code: JSONTextError.Code) {
        #expect { try JSONValue.parse(text) } throws: { ($0 as? JSONTextError)?.code == code }
    }

    @Test(
        arguments: [
            [0x80], [0xC0, 0xAF], [0xC1, 0xBF], [0xE0, 0x80, 0x80], [0xE2, 0x82], [0xED, 0xA0, 0x80],
            [0xF0, 0x80, 0x80, 0x80], [0xF4, 0x90, 0x80, 0x80], [0xF5, 0x80, 0x80, 0x80], [0xFF],
        ] as [[UInt8]])
    func bytesThatAreNotUTF8AreRefused(_ bytes: [UInt8]) {
        let quoted = [0x22] + bytes + [0x22]
        #expect(throws: JSONTextError(code: .invalidUTF8, position: 1)) { try JSONValue.parse(quoted) }
    }

    @Test func depthHasALimit() throws {
        for (limit, greatest) in [(3, 3), (128, 128), (1_000, 128)] {
            func nested(_ count: Int) -> String {
                String(repeating: "[", count: count) + String(repeating: "]", count: count)
            }
            _ = try JSONValue.parse(nested(greatest), depth: limit)
            #expect(throws: JSONTextError(code: .tooDeep, position: greatest)) {
                try JSONValue.parse(nested(greatest + 1), depth: limit)
            }
        }
    }

    @Test func treesAreEasyToLookInto() throws {
        let value = try JSONValue.parse(
            #"{"a":[1,-2.50,"x",true,null],"b":{"c":18446744073709551615},"a2":1e3,"b2":""}"#)
        #expect(value["a"]?[0]?.integer == 1)
        #expect(value["a"]?[1]?.numberText == "-2.50")
        #expect(value["a"]?[1]?.double == -2.5)
        #expect(value["a"]?[2]?.string == "x")
        #expect(value["a"]?[3]?.boolean == true)
        #expect(value["a"]?[4]?.isNull == true)
        #expect(value["a"]?[5] == nil)
        #expect(value["b"]?["c"]?.unsigned == .max)
        #expect(value["b"]?["c"]?.integer == nil)
        #expect(value["a2"]?.integer == nil)
        #expect(value.members?.map(\.key) == ["a", "b", "a2", "b2"])
        #expect(try JSONValue.parse(#"{"a":1,"a":2}"#)["a"] == 2)
        let literal: JSONValue = ["n": nil, "t": true, "l": [1, "\u{1}\"\\\n\u{8}\u{c}\t\ré"], "d": JSONValue(0.25)]
        #expect(literal.text == #"{"n":null,"t":true,"l":[1,"\u0001\"\\\n\b\f\t\ré"],"d":0.25}"#)
    }

    @Test func itAgreesWithFoundationOnMutatedText() {
        var random = SeededRandom()
        let seeds = [
            #"{"a":[1,-2.5e3,"x\u00e9\ud83d\ude00",true,null],"b":{"c":"\n\"\\"}}"#, #"["é漢",{"":[]}, 0.1, 1e-5 ]"#,
        ].map { Array($0.utf8) }
        let alphabet = Array(#"{}[]:,"\u0123456789.eE+-dDcC tfn"#.utf8) + [0x80, 0xC3, 0xED, 0xFF, 0x0A, 0x01]
        var valid = 0
        for _ in 0..<20_000 {
            var text = random.pick(seeds)
            for _ in 0..<Int.random(in: 1...3, using: &random) {
                let at = Int.random(in: 0..<text.count, using: &random)
                switch Int.random(in: 0..<3, using: &random) {
                case 0: text[at] = random.pick(alphabet)
                case 1: text.insert(random.pick(alphabet), at: at)
                default: text.remove(at: at)
                }
            }
            let theirs = try? JSONSerialization.jsonObject(with: Data(text), options: .fragmentsAllowed)
            do {
                _ = try JSONValue.parse(text)
                valid += 1
                // Foundation refuses a number beyond a double's range; the grammar does not.
                let isHuge = String(decoding: text, as: UTF8.self).split { !"+-.eE0123456789".contains($0) }
                    .contains { Double($0)?.isInfinite == true }
                #expect(theirs != nil || isHuge, "\(String(decoding: text, as: UTF8.self))")
            } catch {
                // Foundation takes a comma before the closing bracket; RFC 8259 does not.
                let isTrailingComma =
                    error.code == .unexpectedByte && text[..<error.position].last { $0 > 0x20 } == UInt8(ascii: ",")
                #expect(theirs == nil || isTrailingComma, "\(String(decoding: text, as: UTF8.self))")
            }
        }
        #expect(valid > 100)
    }
}

/// Bytes are looked at eight at a time: each of them, wherever it stands, is to be found as if they were looked at singly.
@Suite struct ByteRunTests {
    private func ends(_ bytes: [UInt8]) -> (printable: [Int], plain: [Int]) {
        bytes.withUnsafeBytes { raw in
            ((0...raw.count).map { raw.endOfPrintable(from: $0) }, (0...raw.count).map { raw.endOfPlainText(from: $0) })
        }
    }

    private func slowEnds(_ bytes: [UInt8]) -> (printable: [Int], plain: [Int]) {
        let isMark: (UInt8) -> Bool = { $0 == UInt8(ascii: "\"") || $0 == UInt8(ascii: "\\") || $0 < 0x20 }
        func end(_ start: Int, _ stops: (UInt8) -> Bool) -> Int {
            bytes[start...].firstIndex(where: stops) ?? bytes.count
        }
        return (
            (0...bytes.count).map { end($0) { isMark($0) || $0 >= 0x7F } }, (0...bytes.count).map { end($0, isMark) }
        )
    }

    @Test func everyByteAtEveryPlace() {
        for byte in UInt8.min...UInt8.max {
            for place in 0..<19 {
                var bytes = [UInt8](repeating: UInt8(ascii: "x"), count: 19)
                bytes[place] = byte
                #expect(ends(bytes) == slowEnds(bytes), "\(byte) at \(place)")
            }
        }
    }

    @Test func allSortsTogether() {
        var random = SeededRandom()
        let sorts: [UInt8] = [
            0, 0x1F, 0x20, 0x21, 0x22, 0x23, 0x5B, 0x5C, 0x5D, 0x78, 0x7E, 0x7F, 0x80, 0x81, 0xFE, 0xFF,
        ]
        for _ in 0..<20_000 {
            let bytes = (0..<Int(random.next() % 24)).map { _ in random.chance(70) ? 0x78 : random.pick(sorts) }
            guard ends(bytes) == slowEnds(bytes) else {
                Issue.record("\(bytes)")
                return
            }
        }
    }
}

@Suite struct JSONPathScannerTests {
    static let paths: [JSONPath] = [
        "model", "usage.prompt_tokens", "usage.completion_tokens", "usage.prompt_tokens_details.cached_tokens",
        "choices.*.finish_reason", "choices.*.message.role", .raw("metadata", limit: 200), "user", "stream",
        "error.type", "message.usage.input_tokens", "usage.output_tokens", "delta.stop_reason", "type",
    ]

    static let documents = [
        #"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"gpt-4o-2024-08-06","choices":[{"index":0,"#
            + #""message":{"role":"assistant","content":"He said: \"model\": \\ \u00e9 é 漢 {[}]"},"logprobs":null,"#
            + #""finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46,"#
            + #""prompt_tokens_details":{"cached_tokens":8,"audio_tokens":0}},"service_tier":"default"}"#,
        #" { "model" : "gpt-4o" , "stream":true,"messages":[{"role":"user","content":[{"type":"text","text":"x"}]}], "#
            + #""metadata" : {"foo":"abc", "n":[1,{"a":"}"}],"é":"\ud83d\ude00"} ,"user":"u\u0031\n\"","temperature":-1.5e2}"#,
        #"{"type":"message_start","message":{"id":"m","type":"message","role":"assistant","content":[],"model":"#
            + #""claude-3-5-sonnet-20241022","stop_reason":null,"usage":{"input_tokens":25,"output_tokens":1}}}"#,
        #"{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":15}}"#,
        #"{"error":{"message":"no","type":"invalid_request_error","param":null,"code":null}}"#,
        #"{"mod\u0065l":"escaped key","usage":{"prompt_tokens":1,"completion_tokens":2},"usage":{"prompt_tokens":3},"#
            + #""model":"second","user":["not a scalar"],"stream":1,"metadata":null,"choices":{"0":{"finish_reason":"k"}}}"#,
        #"[{"model":"in an array"}]"#, #"{"usage":[{"prompt_tokens":5}],"metadata":"text","choices":[],"modelx":"x"}"#,
    ]

    /// What the scanner should find, by a whole parse.
    private func expected(_ document: JSONValue, _ path: JSONPath) -> JSONValue? {
        var values = [document]
        for segment in path.text.split(separator: ".") {
            values = values.flatMap { value -> [JSONValue] in
                if segment == "*" { return value.array ?? [] }
                if let index = Int(segment), let array = value.array {
                    return array.indices.contains(index) ? [array[index]] : []
                }
                return value[String(segment)].map { [$0] } ?? []
            }
        }
        return values.last { value in
            switch value {
            case .object, .array, .null: path.isRaw
            case .boolean, .number, .string: true
            }
        }
    }

    private func check(_ scanner: JSONPathScanner, _ document: JSONValue, _ note: Comment) {
        for (index, path) in Self.paths.enumerated() {
            let value = expected(document, path)
            #expect(scanner.isFound(index) == (value != nil), note)
            if path.isRaw {
                #expect(scanner.raw(of: index).flatMap { try? JSONValue.parse($0) } == value, note)
            } else {
                #expect(scanner.text(of: index) == value?.string.map { Array($0.utf8) }, note)
                #expect(scanner.integer(of: index) == value?.unsigned, note)
                #expect(scanner.boolean(of: index) == value?.boolean, note)
            }
        }
    }

    private func feed(_ scanner: inout JSONPathScanner, _ bytes: some Collection<UInt8>) {
        Array(bytes).withUnsafeBytes { scanner.feed($0) }
    }

    @Test func namesAreTheSameOnlyWhole() {
        let names = [
            "abcdefgh-1-stuvwxyz", "abcdefgh-2-stuvwxyz", "abcdefghi", "abcdefgh", "abcdefg", "abcd", "abc", "a", "",
        ]
        for (index, name) in names.enumerated() {
            var scanner = JSONPathScanner(paths: JSONPaths(names.map { JSONPath($0) }))
            feed(&scanner, Array("{\"\(name)\": \(index)}".utf8))
            for other in names.indices { #expect(scanner.isFound(other) == (other == index), "\(name)") }
            for cut in ["\(name)x", "x\(name)", String(name.dropLast())] where !names.contains(cut) {
                scanner.reset()
                feed(&scanner, Array("{\"\(cut)\": 1}".utf8))
                #expect(!names.indices.contains { scanner.isFound($0) }, "\(cut)")
            }
        }
    }

    @Test func aPositionThatIsNamedGoesBeforeAnyPosition() {
        var scanner = JSONPathScanner(paths: JSONPaths(["a.1", "a.*", "a.x"]))
        feed(&scanner, Array(#"{"a": ["first", "second"]}"#.utf8))
        #expect(scanner.text(of: 0) == Array("second".utf8) && scanner.text(of: 1) == Array("first".utf8))
        scanner.reset()
        feed(&scanner, Array(#"{"a": {"x": "by name", "1": "too"}}"#.utf8))
        #expect(scanner.text(of: 2) == Array("by name".utf8) && scanner.text(of: 0) == Array("too".utf8))
    }

    @Test func aValueThatComesAgainTakesItsPlaceBetweenOthers() {
        var scanner = JSONPathScanner(paths: JSONPaths(["a", "b", "c"]))
        var expected: [String: String] = [:]
        var random = SeededRandom()
        for _ in 0..<500 {
            let name = random.pick(["a", "b", "c"])
            let value = String(repeating: random.pick(["x", "y", "z"]), count: Int(random.next() % 4))
            expected[name] = value
            feed(&scanner, Array("{\"\(name)\": \"\(value)\"}".utf8))
            scanner.nextDocument()
            for (index, name) in ["a", "b", "c"].enumerated() {
                #expect(scanner.text(of: index) == expected[name].map { Array($0.utf8) })
            }
        }
    }

    @Test(arguments: documents)
    func everySplitFindsWhatAWholeParseFinds(_ document: String) throws {
        let bytes = Array(document.utf8)
        let value = try JSONValue.parse(bytes)
        var scanner = JSONPathScanner(paths: JSONPaths(Self.paths))
        for split in 0...bytes.count {
            scanner.reset()
            feed(&scanner, bytes[..<split])
            feed(&scanner, bytes[split...])
            #expect(scanner.isFinished)
            check(scanner, value, "split at \(split)")
        }
        scanner.reset()
        for byte in bytes { feed(&scanner, [byte]) }
        check(scanner, value, "byte by byte")
    }

    @Test func brokenTextMakesItDeadAndNoBytesTrap() {
        var random = SeededRandom()
        var scanner = JSONPathScanner(paths: JSONPaths(Self.paths))
        for text in ["{]", "[1,]x", "{\"a\" 1}", "nul!", "\"\n\"", #""\x""#, #""\u00g0""#, "{} x", "[}", "{\"a\":}"] {
            scanner.reset()
            feed(&scanner, text.utf8)
            #expect(scanner.isDead, "\(text)")
        }
        scanner.reset()
        feed(&scanner, [UInt8](repeating: UInt8(ascii: "["), count: 129))
        #expect(scanner.isDead)
        var dead = 0
        for _ in 0..<20_000 {
            var bytes = Array(random.pick(Self.documents).utf8)
            for _ in 0..<Int.random(in: 0...3, using: &random) {
                bytes[Int(random.next() % UInt64(bytes.count))] = UInt8(truncatingIfNeeded: random.next())
            }
            if let value = try? JSONValue.parse(bytes), !(value.members ?? []).isEmpty {
                scanner.reset()
                feed(&scanner, bytes)
                #expect(!scanner.isDead)
            }
            scanner.reset()
            let split = Int.random(in: 0...bytes.count, using: &random)
            feed(&scanner, bytes[..<split])
            feed(&scanner, bytes[split...])
            for index in Self.paths.indices {
                _ = scanner.text(of: index)
                _ = scanner.integer(of: index)
                _ = scanner.boolean(of: index)
            }
            if scanner.isDead { dead += 1 }
        }
        #expect(dead > 0)
    }

    @Test func valuesBeyondTheLimitAreCutAtACharacter() {
        var scanner = JSONPathScanner(paths: JSONPaths([JSONPath("a", limit: 5), .raw("b", limit: 4), "c"]))
        feed(&scanner, #"{"a":"abcdé!","b":{"x":1},"c":3.0}"#.utf8)
        #expect(scanner.text(of: 0) == Array("abcd".utf8))
        #expect(scanner.isCut(0))
        #expect(scanner.raw(of: 1) == Array(#"{"x""#.utf8))
        #expect(scanner.isCut(1))
        #expect(scanner.integer(of: 2) == 3)
        scanner.reset()
        feed(&scanner, #"{"a":"ab\u00e9","b":1,"c":18446744073709551616}"#.utf8)
        #expect(scanner.text(of: 0) == Array("ab".utf8))
        #expect(scanner.integer(of: 2) == nil)
    }

    @Test func aKeyRepeatedForeverCostsNoMemory() {
        var scanner = JSONPathScanner(paths: JSONPaths(["a", "b"]))
        feed(&scanner, "{".utf8)
        for count in 0..<50_000 { feed(&scanner, "\"a\":\"\(count)\",\"b\":\"\(count)\",".utf8) }
        #expect(scanner.text(of: 0) == Array("49999".utf8))
        #expect(scanner.text(of: 1) == Array("49999".utf8))
    }

    @Test func valuesOfEarlierDocumentsStayUntilReplaced() {
        var scanner = JSONPathScanner(paths: JSONPaths(["model", "choices.0.finish_reason", "usage.prompt_tokens"]))
        for chunk in [
            #"{"model":"m","choices":[{"finish_reason":null}],"usage":null}"#,
            #"{"model":"m2","choices":[{"finish_reason":"stop"}],"usage":null}"#,
            #"{"model":"m3","choices":[],"usage":{"prompt_tokens":7}}"#,
        ] {
            feed(&scanner, chunk.utf8)
            scanner.nextDocument()
        }
        #expect(scanner.text(of: 0) == Array("m3".utf8))
        #expect(scanner.text(of: 1) == Array("stop".utf8))
        #expect(scanner.integer(of: 2) == 7)
    }
}

@Suite struct SSEScannerTests {
    private static let cases: [(stream: String, events: [String])] = [
        ("data: {\"a\":1}\n\ndata: [DONE]\n\n", ["{\"a\":1}", "DONE"]),
        (
            "event: x\r\ndata:one\r\ndata: two\r\nid: 4\r\n\r\n: comment\r\n\r\ndata: [DONE]\r\n\r\n",
            ["one\ntwo", "DONE"]
        ),
        ("\u{FEFF}data:  spaced\r\rdata\rdata:\r\r", [" spaced", "\n"]),
        (
            "data: [DONE\n\ndata: [DONE]x\n\ndatax: no\ndat: no\n\ndata: [DONE]\ndata: \n\n",
            ["[DONE", "[DONE]x", "[DONE]\n"]
        ),
        ("data: \"q\\u0001\"\t\u{1}\n\n\n\ndata: last without an end", ["\"q\\u0001\"\t\u{1}", "last without an end"]),
        ("retry: 1\n\ndata: [DONE]", ["DONE"]), ("", []), ("\n\n\r\n", []),
    ]

    @Test(arguments: cases.indices)
    func everySplitYieldsTheSameEvents(_ index: Int) {
        let bytes = Array(Self.cases[index].stream.utf8)
        for split in 0...bytes.count {
            #expect(events([bytes[..<split], bytes[split...]]) == Self.cases[index].events, "split at \(split)")
        }
        #expect(events(bytes.indices.map { bytes[$0...$0] }) == Self.cases[index].events)
    }

    private func events(_ chunks: [ArraySlice<UInt8>]) -> [String] {
        var scanner = SSEScanner()
        var events: [String] = []
        var payload: [UInt8] = []
        let sink = { (part: SSEPart) in
            switch part {
            case .data(let bytes): payload.append(contentsOf: bytes)
            case .done: events.append("DONE")
            case .end:
                events.append(String(decoding: payload, as: UTF8.self))
                payload = []
            }
        }
        for chunk in chunks { Array(chunk).withUnsafeBytes { scanner.feed($0, sink) } }
        scanner.finish(sink)
        return events
    }
}
