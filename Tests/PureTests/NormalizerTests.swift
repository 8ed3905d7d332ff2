import Events
import Foundation
import JSONText
import Normalizer
import Schemas
import Testing

private func rules(_ text: String) throws -> Rules { try Rules.decode(JSONValue.parse(text)) }

/// A stand-in for HMAC-SHA-256: any function to 32 hex digits.
let fakeHash: Normalizer.KeyedHash = { text in
    var state: UInt64 = 0xCBF2_9CE4_8422_2325
    for byte in text { state = (state ^ UInt64(byte)) &* 0x100_0000_01B3 }
    let digits = String(state, radix: 16)
    return Array(String(repeating: "0", count: 32 - digits.count).utf8) + Array(digits.utf8)
}

@Suite struct NormalizerTests {
    private func set(_ raw: String, _ rules: Rules = .builtIn) -> String {
        var normalizer = Normalizer(rules: rules, hash: fakeHash)
        return String(decoding: normalizer.normalize(raw: Array(raw.utf8), status: .ok).set, as: UTF8.self)
    }

    @Test(
        arguments: [
            ("fooBar", "foo_bar"), ("FooBar", "foo_bar"), ("foo-bar", "foo_bar"), ("foo bar", "foo_bar"),
            ("FOO_BAR", "foo_bar"), ("foo__bar", "foo_bar"), ("foo - bar", "foo_bar"), ("_user", "_user"),
            ("__user", "_user"), (" foo ", "foo"), ("HTTPServer", "http_server"), ("userID", "user_id"),
            ("a1B", "a1_b"), ("v2", "v2"), ("ÉtéBleu", "été_bleu"), ("e\u{301}", "é"), ("", ""),
            ("Foo.BarBaz", "foo.bar_baz"), ("a . b", "a.b"), ("漢字", "漢字"), ("foo_", "foo_"), ("_", "_"),
        ])
    func keysAreInSnakeCase(_ raw: String, _ key: String) {
        let object = JSONValue.object([JSONMember(key: raw, value: "x")])
        #expect(set(object.text) == JSONValue.object([JSONMember(key: key, value: "x")]).text)
    }

    @Test(
        arguments: [
            ("1", "1"), ("1.0", "1"), ("1e0", "1"), ("1e3", "1000"), ("-0", "0"), ("-0.0e5", "0"), ("0.10", "0.1"),
            ("-1.50", "-1.5"), ("100", "100"), ("1e20", "100000000000000000000"), ("1e21", "1e+21"),
            ("123456789012345678901", "123456789012345678901"),
            ("1234567890123456789012", "1.234567890123456789012e+21"),
            ("-12e30", "-1.2e+31"), ("0.000001", "0.000001"), ("1E-7", "0.0000001"),
            ("1e-21", "0.000000000000000000001"),
            ("1e-22", "1e-22"), ("12.5e1", "125"), ("12.5e-1", "1.25"), ("0e999999999999", "0"),
            ("1e9999999999", "1e9999999999"), ("0.1234567890123456789012345", "0.1234567890123456789012345"),
            ("10000000000000000000.5e-19", "1.00000000000000000005"),
        ])
    func numbersAreInPlainForm(_ raw: String, _ value: String) {
        #expect(set("{\"n\":\(raw)}") == "{\"n\":\"\(value)\"}")
    }

    @Test(
        arguments: [
            (#"{"b":1,"a":"1","c":true,"d":null}"#, #"{"a":"1","b":"1","c":"true"}"#),
            (#"{"a":"  x y\t","e":""}"#, #"{"a":"x y","e":""}"#),
            (#"{"a":{"b":{"c":1,"d":{"z":1.0,"y":[ ]}}}}"#, #"{"a.b.c":"1","a.b.d":"{\"y\":[],\"z\":1}"}"#),
            (#"{"a.b":{"c":{"d":1}}}"#, #"{"a.b.c":"{\"d\":1}"}"#),
            (#"{"t":["b","a",1e0]}"#, #"{"t":"[\"b\",\"a\",1]"}"#),
            (#"{"a":1,"a":2}"#, #"{"a":"2"}"#), (#"{"a":{"x":1},"a":{"y":2}}"#, #"{"a.y":"2"}"#),
            (#"{"a":{}}"#, "{}"), ("{}", "{}"),
        ])
    func pairsAreFlattenedAndBecomeText(_ raw: String, _ expected: String) {
        #expect(set(raw) == expected)
    }

    @Test func ofKeysThatMeetOneWins() {
        var normalizer = Normalizer(rules: .builtIn)
        for (raw, expected, conflicts) in [
            (#"{"fooBar":1,"foo_bar":2,"foo-bar":3}"#, #"{"foo_bar":"2"}"#, UInt32(2)),
            (#"{"fooBar":1,"foo-bar":3}"#, #"{"foo_bar":"3"}"#, 1),
            (#"{"a":{"b":1},"a.b":2}"#, #"{"a.b":"2"}"#, 1),
            (#"{"a":{"b.c":1},"a.b":{"c":2}}"#, #"{"a.b.c":"1"}"#, 1),
            (#"{"foo_bar":null,"fooBar":1}"#, #"{"foo_bar":"1"}"#, 0),
        ] {
            let found = normalizer.normalize(raw: Array(raw.utf8), status: .ok)
            #expect(String(decoding: found.set, as: UTF8.self) == expected)
            #expect(found.conflicts == conflicts)
            #expect(found.status == .ok)
        }
    }

    @Test func aliasesMapsCasesListsAndClassesFollowTheRules() throws {
        let rules = try rules(
            #"""
            {"version":1,"keys":{"aliases":{"userId":"_user","environment":"env","uid":"userId"},"drop":["secret","debug_*"],
             "hash":["email"]},"values":{"case":{"env":"lower"},"maps":{"env":{"prod":"production","stg":"staging"}},
             "arrays":{"tags":"multi"}},"classes":{"foo":"dimension","_user":"entity","requestId":"identifier"}}
            """#)
        var normalizer = Normalizer(rules: rules, hash: fakeHash)
        let raw = #"""
            {"user-id":7,"Environment":" PROD ","secret":{"x":1},"debugMode":1,"email":" a@b ","tags":["b","a",null,"b"],
             "request_id":"r","foo":1}
            """#
        let found = normalizer.normalize(raw: Array(raw.utf8), status: .ok)
        let hash = String(decoding: fakeHash(Array("a@b".utf8)), as: UTF8.self)
        #expect(
            String(decoding: found.set, as: UTF8.self)
                == #"{"email":"hmac:\#(hash)","env":"production","foo":"1","tags":["a","b"]}"#)
        #expect(String(decoding: found.extra, as: UTF8.self) == #"{"_user":"7","request_id":"r"}"#)
        #expect(set(#"{"uid":1,"tags":"red"}"#, rules) == #"{"tags":["red"]}"#)
        #expect(set(#"{"email":"hmac:\#(hash)"}"#, rules) == #"{"email":"hmac:\#(hash)"}"#)
        // Without a key for hashing, what must be hashed is not kept.
        var keyless = Normalizer(rules: rules)
        #expect(keyless.normalize(raw: Array(#"{"email":"a"}"#.utf8), status: .ok).set == Array("{}".utf8))
    }

    @Test func limitsCutAtACharacterAndSaySo() throws {
        let rules = try rules(
            #"{"version":1,"limits":{"keys":2,"key_bytes":8,"value_bytes":40,"depth":1}}"#)
        var normalizer = Normalizer(rules: rules)
        func normalized(_ raw: String) -> (String, MetadataStatus) {
            let found = normalizer.normalize(raw: Array(raw.utf8), status: .ok)
            return (String(decoding: found.set, as: UTF8.self), found.status)
        }
        #expect(normalized(#"{"c":1,"b":2,"a":3}"#) == (#"{"a":"3","b":"2"}"#, .truncated))
        #expect(normalized(#"{"abcdefgh":1}"#) == (#"{"abcdefgh":"1"}"#, .ok))
        #expect(normalized(#"{"abcdefgé":1}"#) == (#"{"abcdefg":"1"}"#, .truncated))
        let long = String(repeating: "x", count: 39)
        #expect(normalized("{\"a\":\"\(long)y\"}") == ("{\"a\":\"\(long)y\"}", .ok))
        #expect(normalized("{\"a\":\"\(long)é\"}") == ("{\"a\":\"\(long)\"}", .truncated))
        #expect(normalized("{\"a\":\"\(long) y\"}") == ("{\"a\":\"\(long)\"}", .truncated))
        #expect(normalized(#"{"a":{"b":{"c":1}}}"#) == (#"{"a":"{\"b\":{\"c\":1}}"}"#, .ok))
    }

    @Test(
        arguments: [
            ("", .absent, .absent), ("{}", .ok, .ok), ("[1]", .ok, .notAnObject), ("null", .ok, .notAnObject),
            ("{", .ok, .malformed), ("{} x", .ok, .malformed), ("{'a':1}", .ok, .malformed),
            (#"{"a":"\ud800"}"#, .ok, .malformed), ("{}", .tooLarge, .tooLarge),
        ] as [(String, MetadataStatus, MetadataStatus)])
    func theWorseStatusStands(_ raw: String, _ given: MetadataStatus, _ expected: MetadataStatus) {
        var normalizer = Normalizer(rules: .builtIn)
        let found = normalizer.normalize(raw: Array(raw.utf8), status: given)
        #expect(found == NormalizedMetadata(set: [0x7B, 0x7D], extra: [0x7B, 0x7D], status: expected, conflicts: 0))
    }

    @Test func resultsAreKeptAndTheirNumberIsBounded() {
        var normalizer = Normalizer(rules: .builtIn)
        for round in 0..<3 {
            for value in 0..<20_000 {
                let found = normalizer.normalize(raw: Array("{\"a\":[\(value)]}".utf8), status: .ok)
                #expect(found.set == Array("{\"a\":\"[\(value)]\"}".utf8))
            }
            #expect(normalizer.hits + normalizer.misses == (round + 1) * 20_000)
        }
        #expect(normalizer.hits < 2_000, "few texts have a place to themselves")
        for raw in [#"{"a":[19999]}"#, #"{"a":"plain"}"#] {
            for time in 1...4 {
                let before = normalizer.hits
                let found = normalizer.normalize(raw: Array(raw.utf8), status: time == 4 ? .truncated : .ok)
                #expect(found.status == (time == 4 ? .truncated : .ok))
                #expect(found.set == (raw.contains("plain") ? Array(raw.utf8) : Array(#"{"a":"[19999]"}"#.utf8)))
                if time > 2 { #expect(normalizer.hits == before + 1) }
            }
        }
    }

    @Test func lowerCaseAndSnakeCaseLeaveAloneWhatTheyMade() throws {
        let lower = try rules(#"{"version":1,"keys":{"case":"lower"},"values":{"case":{"v":"lower"}}}"#)
        for rules in [Rules.builtIn, lower] {
            for start in stride(from: UInt32(0x80), to: 0x1_F000, by: 64) {
                var text = "aB"
                for scalar in (start..<start + 64).compactMap(Unicode.Scalar.init) {
                    text.unicodeScalars.append(scalar)
                    text += "xA"
                }
                let raw = JSONValue.object([
                    JSONMember(key: String(text.prefix(40)), value: "1"), JSONMember(key: "v", value: .string(text)),
                ]).text
                let once = set(raw, rules)
                #expect(set(once, rules).utf8.elementsEqual(once.utf8), "from \(start)")
            }
        }
    }

    @Test func itAgreesWithTheObviousWayAndIsIdempotent() throws {
        var random = SeededRandom()
        var conflicts = 0
        var truncated = 0
        // `make soak` makes a million of them.
        let sets = ProcessInfo.processInfo.environment["MILLRACE_TEST_ROUNDS"].flatMap { Int($0) }.map { $0 * 5 }
        for _ in 0..<max(100, sets ?? 100) {
            let tree = Generator.rules(&random)
            let rules = try Rules.decode(tree)
            var normalizer = Normalizer(rules: rules, hash: fakeHash)
            let obvious = ObviousNormalizer(tree: tree)
            for _ in 0..<1_000 {
                // Half of them of the plain shape, which goes a way of its own.
                let isPlain = random.chance(50)
                let object = isPlain ? Generator.plain(&random) : Generator.object(&random, members: 5, depth: 4)
                let raw = object.bytes
                let found = normalizer.normalize(raw: raw, status: .ok)
                let expected = obvious.normalize(object)
                guard found == expected else {
                    Issue.record("\(tree.text) \(object.text) \(shown(found)) instead of \(shown(expected))")
                    return
                }
                if found.conflicts > 0 { conflicts += 1 }
                if found.status == .truncated { truncated += 1 }
                guard random.chance(20) else { continue }
                // The canonical pairs of both kinds as one object, in another order.
                var pairs: [JSONMember] = []
                for part in [found.extra, found.set] { pairs += try JSONValue.parse(part).members ?? [] }
                let again = normalizer.normalize(raw: JSONValue.object(pairs).bytes, status: .ok)
                let same = again.set == found.set && again.extra == found.extra && again.conflicts == 0
                guard same, again.status == .ok else {
                    Issue.record("not idempotent: \(tree.text) \(object.text) \(shown(found)) \(shown(again))")
                    return
                }
            }
        }
        #expect(conflicts > 1_000)
        #expect(truncated > 1_000)
    }

    /// What services send: the keys of the object before in their order, mostly with other values, now and then one fewer,
    /// one twice, one elsewhere, one that is new.
    @Test func objectsLikeTheOneBeforeAgreeTooWhateverChanges() throws {
        var random = SeededRandom()
        for _ in 0..<60 {
            let tree = Generator.rules(&random)
            var normalizer = Normalizer(rules: try Rules.decode(tree), hash: fakeHash)
            let obvious = ObviousNormalizer(tree: tree)
            var members = Generator.plain(&random).members ?? []
            for _ in 0..<50 {
                for index in members.indices where random.chance(70) {
                    members[index].value = random.chance(5) ? .null : .string("value-\(random.next() % 1_000)")
                }
                let other = Generator.plain(&random).members?.first
                if !members.isEmpty, random.chance(20) {
                    let index = Int(random.next() % UInt64(members.count))
                    switch random.next() % 4 {
                    case 0: members.remove(at: index)
                    case 1: members.append(members[index])
                    case 2: members.swapAt(index, members.count - 1)
                    default: if let other { members.insert(other, at: index) }
                    }
                } else if members.isEmpty, let other {
                    members.append(other)
                }
                let object = JSONValue.object(members)
                let found = normalizer.normalize(raw: object.bytes, status: .ok)
                let expected = obvious.normalize(object)
                guard found == expected else {
                    Issue.record("\(tree.text) \(object.text) \(shown(found)) instead of \(shown(expected))")
                    return
                }
            }
        }
    }

    /// Values of random scalars, in the form that Python's `unicodedata` gives them: another implementation than ours.
    @Test func valuesAreComposedAsAnotherImplementationComposesThem() throws {
        var random = SeededRandom()
        let blocks: [ClosedRange<UInt32>] = [
            0x41...0x7A, 0xC0...0x17F, 0x300...0x345, 0x380...0x3FF, 0x591...0x5BD, 0x5D0...0x5EA, 0x64B...0x655,
            0x900...0x97F, 0x9BE...0x9D7, 0x1100...0x1112, 0x1161...0x1175, 0x11A8...0x11C2, 0x1E00...0x1FFF,
            0x2126...0x212B, 0x3041...0x309A, 0xAC00...0xAC40, 0xF900...0xFA0D, 0xFB1D...0xFB4E, 0x1D15E...0x1D1C0,
            0x1F1E6...0x1F1FF, 0x1F3FB...0x1F468,
        ]
        let texts = (0..<20_000).map { _ in
            var text = "x"
            for _ in 0..<Int.random(in: 1...8, using: &random) {
                guard let scalar = Unicode.Scalar(UInt32.random(in: random.pick(blocks), using: &random)) else {
                    continue
                }
                text.unicodeScalars.append(scalar)
            }
            return text + "y"
        }
        let judge = Process()
        let (input, output) = (
            Pipe(), FileManager.default.temporaryDirectory.appending(path: "nfc-\(UUID().uuidString)")
        )
        defer { try? FileManager.default.removeItem(at: output) }
        judge.executableURL = URL(filePath: "/usr/bin/python3")
        judge.arguments = [
            "-c",
            "import sys, unicodedata\nfor line in sys.stdin.buffer.read().decode().split('\\n'):\n"
                + " known = all(unicodedata.category(c) != 'Cn' for c in line)\n"
                + " sys.stdout.buffer.write(((unicodedata.normalize('NFC', line) if known else '') + '\\n').encode())",
        ]
        judge.standardInput = input
        #expect(FileManager.default.createFile(atPath: output.path(), contents: nil))
        judge.standardOutput = try FileHandle(forWritingTo: output)
        try judge.run()
        try input.fileHandleForWriting.write(contentsOf: Data(texts.joined(separator: "\n").utf8))
        try input.fileHandleForWriting.close()
        judge.waitUntilExit()
        #expect(judge.terminationStatus == 0)
        let expected = String(decoding: try Data(contentsOf: output), as: UTF8.self).utf8.split(
            separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
        var normalizer = Normalizer(rules: .builtIn)
        var compared = 0
        for (text, expected) in zip(texts, expected) where !expected.isEmpty {
            let raw = JSONValue.object([JSONMember(key: "v", value: .string(text))]).bytes
            let found = try JSONValue.parse(normalizer.normalize(raw: raw, status: .ok).set)["v"]?.string ?? ""
            guard found.utf8.elementsEqual(expected) else {
                Issue.record("\(text.unicodeScalars.map { String($0.value, radix: 16) }) became \(found)")
                return
            }
            compared += 1
        }
        #expect(compared > 15_000)
    }

    /// What is no Unicode is no metadata, wherever in it: nothing is repaired, so nothing two readers read differently.
    @Test func bytesThatAreNoTextAreMalformed() {
        var random = SeededRandom()
        let escapes = [#"\ud800"#, #"\udc00"#, #"\ude00\ud83d"#, #"\ud83dx"#, #"\ud83d\ud83d\ude00"#, #"\uD83D\n"#]
        let bytes: [[UInt8]] = [
            [0xC0, 0xAF], [0xC1, 0xBF], [0xE0, 0x80, 0xAF], [0xE0, 0x9F, 0xBF], [0xF0, 0x80, 0x80, 0xAF],
            [0xF0, 0x8F, 0xBF, 0xBF], [0xED, 0xA0, 0x80], [0xED, 0xBF, 0xBF], [0xF4, 0x90, 0x80, 0x80],
            [0xF8, 0x88, 0x80],
            [0x80], [0xBF], [0xFF], [0xFE], [0xC3], [0xE6, 0xBC], [0xF0, 0x9F, 0x91], [0xC3, 0x28],
        ]
        var normalizer = Normalizer(rules: .builtIn)
        let none = NormalizedMetadata(set: [0x7B, 0x7D], extra: [0x7B, 0x7D], status: .malformed, conflicts: 0)
        for bad in escapes.map({ Array($0.utf8) }) + bytes {
            for _ in 0..<50 {
                // Words of eight bytes and what is left of them are looked at in different ways.
                let bad = bad + [UInt8](repeating: UInt8(ascii: "x"), count: Int(random.next() % 24))
                let object = Generator.object(&random, members: 3, depth: 3)
                let whole = object.bytes
                // As a member's name, as a value, within a list.
                let member = random.pick([
                    [UInt8(ascii: "\"")] + bad + Array("\":1}".utf8), Array(#""a":""#.utf8) + bad + Array("\"}".utf8),
                    Array(#""a":["x",{"b":"y"#.utf8) + bad + Array(#""}]}"#.utf8),
                ])
                let raw = whole.dropLast() + (whole.count > 2 ? [UInt8(ascii: ",")] : []) + member
                guard normalizer.normalize(raw: Array(raw), status: .ok) == none else {
                    Issue.record("taken: \(bad)")
                    return
                }
            }
        }
        let pair = normalizer.normalize(raw: Array(#"{"a":"\ud83d\ude00"}"#.utf8), status: .ok)
        #expect(pair.set == Array(#"{"a":"😀"}"#.utf8) && pair.status == .ok)
    }

    @Test func theOrderOfRawPairsDoesNotMatter() throws {
        var random = SeededRandom()
        /// In every object of it; of members of one name the last stands, so there is one of each.
        func shuffled(_ value: JSONValue) -> JSONValue {
            guard let members = value.members else { return value }
            return .object(
                members.map { JSONMember(key: $0.key, value: shuffled($0.value)) }.shuffled(using: &random))
        }
        func single(_ value: JSONValue) -> JSONValue {
            var seen: Set<[UInt8]> = []
            guard let members = value.members else { return value }
            return .object(
                members.filter { seen.insert(Array($0.key.utf8)).inserted }
                    .map { JSONMember(key: $0.key, value: single($0.value)) })
        }
        for round in 0..<60 {
            let rules = round == 0 ? Rules.builtIn : try Rules.decode(Generator.rules(&random))
            var normalizer = Normalizer(rules: rules, hash: fakeHash)
            for _ in 0..<100 {
                let object = single(Generator.object(&random, members: 8, depth: 3))
                let first = normalizer.normalize(raw: object.bytes, status: .ok)
                let second = normalizer.normalize(raw: shuffled(object).bytes, status: .ok)
                guard first == second else {
                    Issue.record("\(rules.canonicalText) \(object.text): \(shown(first)) or \(shown(second))")
                    return
                }
            }
        }
    }

    @Test func noBytesWhateverTrap() throws {
        var random = SeededRandom()
        for _ in 0..<20 {
            var normalizer = Normalizer(rules: try Rules.decode(Generator.rules(&random)), hash: fakeHash)
            for _ in 0..<1_000 {
                var raw = Generator.object(&random, members: 4, depth: 5).bytes
                for _ in 0..<Int.random(in: 0...3, using: &random) {
                    raw[Int(random.next() % UInt64(raw.count))] = UInt8(truncatingIfNeeded: random.next())
                }
                let found = normalizer.normalize(raw: random.chance(10) ? random.bytes(upTo: 30) : raw, status: .ok)
                #expect(throws: Never.self) {
                    _ = try JSONValue.parse(found.set)
                    _ = try JSONValue.parse(found.extra)
                }
            }
        }
    }

    private func shown(_ found: NormalizedMetadata) -> String {
        let text = String(decoding: found.set + found.extra, as: UTF8.self)
        return "\(text) \(found.status) \(found.conflicts)"
    }
}

@Suite struct RulesTests {
    @Test func everyMistakeIsNamedAtOnce() throws {
        let text = #"""
            {"version":2,"extra":1,"keys":{"case":"camel","aliases":{"a":"b","b":"a","c":1},"drop":"x","hash":["a*",1]},
             "values":{"case":{"x":"upper"},"maps":{"env":{"a":"b","b":"a","c":[]}},"arrays":{"default":"csv"}},
             "limits":{"keys":0,"key_bytes":"a","depth":1.5,"width":1},"classes":{"a":"label","userId":"entity","user_id":"dimension"}}
            """#
        do {
            _ = try rules(text)
            Issue.record("taken as it is")
        } catch let error as RulesError {
            #expect(
                Set(error.problems.map(\.path)) == [
                    "version", "extra", "keys.case", "keys.aliases.a", "keys.aliases.b", "keys.aliases.c", "keys.drop",
                    "keys.hash[0]", "keys.hash[1]", "values.case.x", "values.maps.env.a", "values.maps.env.b",
                    "values.maps.env.c", "values.arrays.default", "limits.keys", "limits.key_bytes", "limits.depth",
                    "limits.width", "classes.a", "classes.user_id",
                ])
            #expect(error.problems.contains { $0.description == "limits.keys: is 0; a whole number from 1 to 1024" })
        }
    }

    /// `schemas/rules.schema.json` allows what the reader of rules takes, and nothing else: every name, range and choice.
    @Test func theSchemaSaysWhatIsRead() throws {
        let schema = try JSONValue.parse(Schemas.rules)
        var tried = 0
        func isTaken(_ path: [String], _ value: JSONValue) -> Bool {
            tried += 1
            let tree = path.reversed().reduce(value) { .object([JSONMember(key: $1, value: $0)]) }
            let whole = JSONValue.object([JSONMember(key: "version", value: 1)] + (tree.members ?? []))
            return (try? Rules.decode(whole)) != nil
        }
        func visit(_ schema: JSONValue, _ path: [String]) {
            let name = path.joined(separator: ".")
            for choice in schema["enum"]?.array ?? [] { #expect(isTaken(path, choice), "\(name) \(choice.text)") }
            if schema["enum"] != nil { #expect(!isTaken(path, "nonsense"), "\(name)") }
            switch schema["type"]?.string {
            case "object":
                if !path.isEmpty { #expect(!isTaken(path, [1]), "\(name) a list") }
                if schema["additionalProperties"]?.boolean == false {
                    #expect(!isTaken(path + ["nonsense"], 1), "\(name)")
                } else if let member = schema["additionalProperties"] {
                    visit(member, path + ["foo"])
                }
                for property in schema["properties"]?.members ?? [] where property.key != "version" {
                    visit(property.value, path + [property.key])
                }
            case "integer":
                guard let least = schema["minimum"]?.integer, let most = schema["maximum"]?.integer else {
                    Issue.record("\(name) has no range")
                    return
                }
                #expect(isTaken(path, JSONValue(Int(least))) && isTaken(path, JSONValue(Int(most))), "\(name)")
                #expect(
                    !isTaken(path, JSONValue(Int(least) - 1)) && !isTaken(path, JSONValue(Int(most) + 1)), "\(name)")
            case "boolean": #expect(isTaken(path, true) && isTaken(path, false) && !isTaken(path, "yes"), "\(name)")
            case "array": #expect(isTaken(path, ["foo"]) && !isTaken(path, [1]) && !isTaken(path, "foo"), "\(name)")
            case "string": #expect(isTaken(path, "foo") && !isTaken(path, 1), "\(name)")
            default:
                for (type, value) in [("string", "x"), ("number", 1), ("boolean", true)] as [(String, JSONValue)] {
                    if schema["type"]?.array?.contains(.string(type)) == true {
                        #expect(isTaken(path, value), "\(name)")
                    }
                }
            }
        }
        visit(schema, [])
        #expect(tried > 80)
        // The other way round: each name that rules have when they are written out.
        func missing(_ value: JSONValue, _ schema: JSONValue, _ path: String) -> [String] {
            (value.members ?? []).flatMap { member -> [String] in
                let name = path + "." + member.key
                guard let below = schema["properties"]?[member.key] ?? schema["additionalProperties"],
                    below.members != nil
                else { return [name] }
                return missing(member.value, below, name)
            }
        }
        let full = try rules(
            #"{"version":1,"classes":{"a":"entity"},"values":{"maps":{"a":{"b":"c"}}},"budgets":{"workspaces":{"w":{"sets":3}}}}"#
        )
        #expect(missing(try JSONValue.parse(full.canonicalText), schema, "").isEmpty)
    }

    @Test func rulesThatSayTheSameHaveOneCanonicalText() throws {
        let one = try rules(
            #"{"version":1,"keys":{"drop":["b","userId"],"hash":["x","y"]},"classes":{"b":"entity","a":"dimension"}}"#)
        let other = try rules(
            #"""
            {"classes":{"a":"dimension","b":"entity"},"limits":{"keys":64},"values":{"arrays":{"default":"json","q":"json"}},
             "keys":{"case":"snake","hash":["y","x"],"drop":["user_id","b"]},"version":1}
            """#)
        #expect(one == other)
        #expect(one.canonicalText == other.canonicalText)
        #expect(try Rules.decode(JSONValue.parse(one.canonicalText)) == one)
        #expect(try rules(#"{"version":1}"#) == .builtIn)
        #expect(one.canonicalText != Rules.builtIn.canonicalText)
    }
}

/// Rules and metadata of every shape, from few names, so that they meet.
enum Generator {
    static let keys = [
        "userId", "user_id", "user-id", "UserID", "_user", "a", "A", "a.b", "A.B", "a.b.c", "b", "c", "é", "e\u{301}",
        "É",
        "env", "ENV", " env ", "Environment", "tags", "secret", "debug_x", "debugY", "email", "", ".",
        "aaaaaaaaaaaaaaaaa",
        "aaaaaaaaaaaaaaaab", "__x", "foo  bar", "ﬁX", "İa", "漢", "\u{212B}b", "שלום", "مرحبا", "q\u{301}\u{323}", "🇩🇪🇫🇷",
    ]
    static let texts = [
        "x", "PROD", "prod", "Prod ", "stg", "", " ", "\u{2003}pad\u{A0}", "e\u{301}", "ÅNGSTRO\u{308}M", "a b",
        "\"\\\n",
        "👩‍👩‍👧", "1", "true", "null", "[1]", "İ", "\u{0}", "hmac:00000000000000000000000000000000",
        // Singletons, letters that are composed of parts, compositions that are excluded, marks in another order. (Of
        // Hangul only whole syllables: the judge here leaves U+AC00 U+11A8 as it is; Python, below, composes it.)
        "\u{212B}\u{2126}", "\u{1100}\u{1161}\u{11A8}", "\u{958}\u{FB1D}", "q\u{301}\u{323}",
        "a\u{315}\u{300}\u{5AE}b", "שָׁלוֹם", "\u{202E}مرحبا\u{202C}", "👋🏽🇩🇪🇫🇷", "\u{301}x",
        "0123456789 é0123456789 é0123456789 é 0",
    ]

    static func rules(_ random: inout SeededRandom) -> JSONValue {
        func some(_ members: [JSONMember]) -> JSONValue { .object(members.filter { _ in random.chance(50) }) }
        func member(_ key: String, _ value: JSONValue) -> JSONMember { JSONMember(key: key, value: value) }
        let drop: [JSONValue] = ["secret", "debug*", "*.c"].filter { _ in random.chance(40) }
        let hash: [JSONValue] = ["email", "a"].filter { _ in random.chance(40) }
        return [
            "version": 1,
            "keys": [
                "case": .string(random.pick(["snake", "snake", "lower", "keep"])),
                "aliases": some([
                    member("userId", "_user"), member("environment", "env"), member("b", "userId"), member("A.b", "c"),
                ]),
                "drop": .array(drop), "hash": .array(hash),
            ],
            "values": [
                "case": some([member("env", "lower"), member("a", "lower")]),
                "maps": some([
                    member("env", ["prod": "production", "stg": "prod", "PROD": "Prod", "1": 2]),
                    member("c", ["x": " y "]),
                ]),
                "arrays": some([member("default", "multi"), member("tags", "multi"), member("a", "json")]),
            ],
            "limits": some([
                member("keys", 3), member("key_bytes", 16), member("value_bytes", 40),
                member("depth", JSONValue(Int.random(in: 1...4, using: &random))),
            ]),
            "classes": some([member("_user", "entity"), member("a", "identifier"), member("tags", "dimension")]),
        ]
    }

    /// Flat, printable ASCII, no escapes; names that meet, and nulls, included.
    static func plain(_ random: inout SeededRandom) -> JSONValue {
        let keys = Self.keys.filter { $0.utf8.allSatisfy { $0 < 0x7F } }
        let values: [JSONValue] = [
            "x", "PROD", "prod", "stg", "a b", "", " pad", "hmac:00000000000000000000000000000000", 0, 7, 42,
            .number("1.5"),
            .number("123456789012345"), .number("1234567890123456"), .number("1e2"), .number("-3"), true, false, nil,
            "0123456789 0123456789 0123456789 01234567",
        ]
        return .object(
            (0..<Int.random(in: 0...4, using: &random)).map { _ in
                JSONMember(key: random.pick(keys), value: random.pick(values))
            })
    }

    static func object(_ random: inout SeededRandom, members: Int, depth: Int) -> JSONValue {
        .object(
            (0..<Int.random(in: 0...members, using: &random)).map { _ in
                JSONMember(
                    key: random.chance(90) ? random.pick(keys) : random.text(upTo: 6), value: value(&random, depth - 1))
            })
    }

    private static func value(_ random: inout SeededRandom, _ depth: Int) -> JSONValue {
        switch Int.random(in: 0..<12, using: &random) {
        case 0: return nil
        case 1: return .boolean(random.chance(50))
        case 2, 3: return .number(number(&random))
        case 4,
            5 where depth > 0:
            return object(&random, members: 3, depth: depth)
        case 6 where depth > 0:
            return .array((0..<Int.random(in: 0...3, using: &random)).map { _ in value(&random, depth - 1) })
        case 7: return .string(random.text(upTo: 30))
        default: return .string(random.pick(texts))
        }
    }

    private static func number(_ random: inout SeededRandom) -> String {
        var text = random.chance(30) ? "-" : ""
        text += random.pick(["0", "1", "10", "9007199254740993", "123456789012345678901", "120"])
        if random.chance(40) { text += random.pick([".0", ".50", ".000", ".0012", ".123456789012345678901234"]) }
        if random.chance(40) { text += random.pick(["e0", "E+3", "e-3", "e21", "e-22", "e-7", "e19"]) }
        return text
    }
}

/// The rules of normalization once more, as plainly as they can be said: on characters and trees, with Foundation's
/// composition, no case distinguished for speed.
private struct ObviousNormalizer {
    var tree: JSONValue

    private struct Pair {
        var segments: [String]
        var key: String
        var value: JSONValue
        var isCut: Bool
    }

    func normalize(_ object: JSONValue) -> NormalizedMetadata {
        var pairs: [Pair] = []
        for (segments, value) in leaves(object, []) {
            let (key, keyIsCut) = canonicalKey(segments.joined(separator: "."))
            if value.isNull || isNamed(key, in: tree["keys"]?["drop"]) { continue }
            guard let (value, valueIsCut) = canonicalValue(value, key) else { continue }
            pairs.append(Pair(segments: segments, key: key, value: value, isCut: keyIsCut || valueIsCut))
        }
        let keys = Set(pairs.map { Array($0.key.utf8) }).sorted { $0.lexicographicallyPrecedes($1) }
        var kept = keys.compactMap { key in
            pairs.filter { $0.key.utf8.elementsEqual(key) }.min { rank($0).lexicographicallyPrecedes(rank($1)) }
        }
        let conflicts = pairs.count - kept.count
        let limit = Int(tree["limits"]?["keys"]?.integer ?? 64)
        let isCut = kept.count > limit
        kept = Array(kept.prefix(limit))
        func part(_ isSet: Bool) -> [UInt8] {
            let members = kept.filter { (keyClass($0.key) == "dimension") == isSet }
            return JSONValue.object(members.map { JSONMember(key: $0.key, value: $0.value) }).bytes
        }
        return NormalizedMetadata(
            set: part(true), extra: part(false), status: isCut || kept.contains { $0.isCut } ? .truncated : .ok,
            conflicts: UInt32(conflicts))
    }

    /// What the winner has least of: compared number by number.
    private func rank(_ pair: Pair) -> [Int] {
        let raw = pair.segments.joined(separator: ".")
        let isCanonical = raw.utf8.elementsEqual(pair.key.utf8)
        return [isCanonical ? 0 : 1] + raw.utf8.map { Int($0) + 1 } + [0, pair.segments.count]
            + pair.segments.map(\.utf8.count)
    }

    private func leaves(_ value: JSONValue, _ path: [String]) -> [([String], JSONValue)] {
        let levels = path.joined(separator: ".").utf8.count { $0 == UInt8(ascii: ".") } + 1
        let depth = Int(tree["limits"]?["depth"]?.integer ?? 3)
        guard let members = value.members, path.isEmpty || levels < depth else { return [(path, value)] }
        return lastOfEach(members).flatMap { leaves($0.value, path + [$0.key]) }
    }

    private func lastOfEach(_ members: [JSONMember]) -> [JSONMember] {
        members.indices.filter { index in
            !members[(index + 1)...].contains { $0.key.utf8.elementsEqual(members[index].key.utf8) }
        }.map { members[$0] }
    }

    // MARK: Keys

    private func canonicalKey(_ raw: String) -> (String, Bool) {
        let (key, isCut) = plainKey(raw)
        return (followed(key) { name in target(tree["keys"]?["aliases"], name) }, isCut)
    }

    private func plainKey(_ raw: String) -> (String, Bool) {
        let levels = raw.precomposedStringWithCanonicalMapping.unicodeScalars.split(
            separator: ".", omittingEmptySubsequences: false)
        let key = levels.map { cased(trimmed(String($0)), tree["keys"]?["case"]?.string ?? "snake") }
        return cut(key.joined(separator: "."), Int(tree["limits"]?["key_bytes"]?.integer ?? 128))
    }

    private func target(_ aliases: JSONValue?, _ key: String) -> String? {
        for member in aliases?.members ?? [] where same(plainKey(member.key).0, key) {
            return plainKey(member.value.string ?? "").0
        }
        return nil
    }

    private func followed(_ start: String, _ next: (String) -> String?) -> String {
        var current = start
        while let following = next(current), !same(following, current) { current = following }
        return current
    }

    private func cased(_ level: String, _ form: String) -> String {
        switch form {
        case "keep": return level
        case "lower": return lowered(level)
        default:
            // Marks where words begin, then blanks, dashes and marks alike become one underscore a run.
            let scalars = Array(level.unicodeScalars)
            var marked: [Unicode.Scalar] = []
            for (index, scalar) in scalars.enumerated() {
                let before = index > 0 ? scalars[index - 1] : "_"
                let after = index + 1 < scalars.count ? scalars[index + 1] : "_"
                let beginsWord = before.properties.isLowercase || before.properties.generalCategory == .decimalNumber
                let endsCapitals = isCapital(before) && after.properties.isLowercase
                if isCapital(scalar), beginsWord || endsCapitals { marked.append("_") }
                marked.append(scalar.properties.isWhitespace || scalar == "-" ? "_" : scalar)
            }
            var text = ""
            for (index, scalar) in marked.enumerated() where !(scalar == "_" && index > 0 && marked[index - 1] == "_") {
                text.unicodeScalars.append(scalar)
            }
            return lowered(text)
        }
    }

    private func isCapital(_ scalar: Unicode.Scalar) -> Bool {
        !String(scalar).unicodeScalars.elementsEqual(scalar.properties.lowercaseMapping.unicodeScalars)
    }

    /// The name, or that of an object it lies in, is in the list; `*` is any run.
    private func isNamed(_ key: String, in list: JSONValue?) -> Bool {
        let parts = levels(of: key)
        let names = parts.indices.map { parts[...$0].joined(separator: ".") }
        return (list?.array ?? []).contains { entry in
            let pattern = entry.string ?? ""
            let parts = pattern.components(separatedBy: "*").map { part in
                NSRegularExpression.escapedPattern(for: pattern.contains("*") ? casedPath(part) : canonicalKey(part).0)
            }
            let expression = "\\A" + parts.joined(separator: "[\\s\\S]*") + "\\z"
            return names.contains { $0.range(of: expression, options: .regularExpression) != nil }
        }
    }

    /// By scalars: a dot before a joiner is one character with it.
    private func levels(of key: String) -> [String] {
        key.unicodeScalars.split(separator: ".", omittingEmptySubsequences: false).map { String($0) }
    }

    private func casedPath(_ part: String) -> String {
        levels(of: part).map { cased(trimmed($0), tree["keys"]?["case"]?.string ?? "snake") }
            .joined(separator: ".")
    }

    private func keyClass(_ key: String) -> String {
        tree["classes"]?.members?.first { same(canonicalKey($0.key).0, key) }?.value.string ?? "dimension"
    }

    // MARK: Values

    private func canonicalValue(_ value: JSONValue, _ key: String) -> (JSONValue, Bool)? {
        let forms = tree["values"]?["arrays"]
        let own = forms?.members?.first { $0.key != "default" && same(canonicalKey($0.key).0, key) }?.value.string
        let isMulti = (own ?? forms?["default"]?.string ?? "json") == "multi"
        let elements = isMulti ? value.array ?? [value] : [value]
        let results = elements.filter { !$0.isNull }.map { finished(text($0), key) }
        guard !results.isEmpty else { return nil }
        let isCut = results.contains { $0.1 }
        guard isMulti else { return (.string(results[0].0), isCut) }
        let sorted = Set(results.map { Array($0.0.utf8) }).sorted { $0.lexicographicallyPrecedes($1) }
        return (.array(sorted.map { .string(String(decoding: $0, as: UTF8.self)) }), isCut)
    }

    private func finished(_ raw: String, _ key: String) -> (String, Bool) {
        var text = trimmed(raw.precomposedStringWithCanonicalMapping)
        if isNamed(key, in: tree["keys"]?["hash"]) {
            if text.range(of: "\\Ahmac:[0-9a-f]{32}\\z", options: .regularExpression) != nil { return (text, false) }
            return ("hmac:" + String(decoding: fakeHash(Array(text.utf8)), as: UTF8.self), false)
        }
        text = valueCased(text, key)
        let limit = Int(tree["limits"]?["value_bytes"]?.integer ?? 512)
        let (short, isCut) = cut(mapped(text, key), limit)
        return (isCut ? mapped(short, key) : short, isCut)
    }

    private func valueCased(_ text: String, _ key: String) -> String {
        let form = tree["values"]?["case"]?.members?.first { same(canonicalKey($0.key).0, key) }?.value.string
        return form == "lower" ? lowered(text) : text
    }

    private func mapped(_ text: String, _ key: String) -> String {
        let map = tree["values"]?["maps"]?.members?.first { same(canonicalKey($0.key).0, key) }?.value
        return followed(text) { value in
            guard let to = map?.members?.first(where: { same($0.key, value) })?.value else { return nil }
            return valueCased(trimmed(to.string ?? to.numberText ?? ""), key)
        }
    }

    private func text(_ value: JSONValue) -> String {
        switch value {
        case .string(let text): text
        case .number(let text): plainNumber(text)
        case .boolean, .null: value.text
        case .array(let elements): "[" + elements.map(inner).joined(separator: ",") + "]"
        case .object(let members):
            "{"
                + lastOfEach(members).sorted { Array($0.key.utf8).lexicographicallyPrecedes(Array($1.key.utf8)) }
                .map { JSONValue.string($0.key).text + ":" + inner($0.value) }.joined(separator: ",") + "}"
        }
    }

    private func inner(_ value: JSONValue) -> String { value.string == nil ? text(value) : value.text }

    /// Moves the point digit by digit, then sees how long it has become.
    private func plainNumber(_ raw: String) -> String {
        let isNegative = raw.hasPrefix("-")
        let parts = raw.lowercased().drop { $0 == "-" }.split(separator: "e")
        let mantissa = parts[0].split(separator: ".")
        var whole = Array(mantissa[0])
        var fraction = mantissa.count > 1 ? Array(mantissa[1]) : []
        let exponent = parts.count > 1 ? Int(parts[1]) ?? 0 : 0
        for _ in 0..<abs(exponent) {
            if exponent > 0 {
                whole.append(fraction.isEmpty ? "0" : fraction.removeFirst())
            } else {
                fraction.insert(whole.isEmpty ? "0" : whole.removeLast(), at: 0)
            }
        }
        while whole.first == "0" { whole.removeFirst() }
        while fraction.last == "0" { fraction.removeLast() }
        if whole.isEmpty, fraction.isEmpty { return "0" }
        let sign = isNegative ? "-" : ""
        let zeros = fraction.prefix { $0 == "0" }.count
        if whole.count > 21 || (whole.isEmpty && zeros >= 21) {
            let power = whole.isEmpty ? -zeros - 1 : whole.count - 1
            var digits = whole.isEmpty ? Array(fraction[zeros...]) : whole + fraction
            while digits.last == "0" { digits.removeLast() }
            let rest = digits.count > 1 ? "." + String(digits[1...]) : ""
            return sign + String(digits[0]) + rest + "e" + (power > 0 ? "+" : "") + String(power)
        }
        return sign + (whole.isEmpty ? "0" : String(whole)) + (fraction.isEmpty ? "" : "." + String(fraction))
    }

    // MARK: Text

    private func same(_ a: String, _ b: String) -> Bool { a.utf8.elementsEqual(b.utf8) }

    private func lowered(_ text: String) -> String {
        text.unicodeScalars.map(\.properties.lowercaseMapping).joined().precomposedStringWithCanonicalMapping
    }

    private func trimmed(_ text: String) -> String {
        var scalars = Array(text.unicodeScalars)
        while let last = scalars.last, last.properties.isWhitespace { scalars.removeLast() }
        while let first = scalars.first, first.properties.isWhitespace { scalars.removeFirst() }
        var out = ""
        out.unicodeScalars.append(contentsOf: scalars)
        return out
    }

    private func cut(_ text: String, _ limit: Int) -> (String, Bool) {
        guard text.utf8.count > limit else { return (text, false) }
        var out = ""
        for scalar in text.unicodeScalars {
            if out.utf8.count + String(scalar).utf8.count > limit { break }
            out.unicodeScalars.append(scalar)
        }
        return (trimmed(out), true)
    }
}
