// Raw metadata without what the rules hide.

import Cryptography
import Events
import Foundation
import JSONText
import Normalizer
import Testing

@Suite struct RedactorTests {
    private let rules: Rules

    init() throws {
        rules = try Rules.decode(
            try JSONValue.parse(
                #"""
                {"version":1,"keys":{"drop":["secret","debug_*"],"hash":["email","card"],"aliases":{"mail":"email"}},
                 "values":{"arrays":{"card":"multi"}}}
                """#))
    }

    private func redacted(_ raw: String, hash: Normalizer.KeyedHash? = fakeHash) -> String? {
        guard var redactor = Redactor(rules: rules, hash: hash) else { return nil }
        return String(decoding: Array(raw.utf8).withUnsafeBytes { redactor.redact($0) }, as: UTF8.self)
    }

    @Test func rulesThatHideNothingNeedNoRedactor() {
        #expect(Redactor(rules: .builtIn, hash: nil) == nil)
    }

    @Test(
        arguments: [
            (#"{"foo":"a"}"#, #"{"foo":"a"}"#),
            // What stays, stays as it was written.
            (#"{ "foo" : 1.0 , "Secret":"x", "b":[1, 2] }"#, #"{"foo":1.0,"b":[1, 2]}"#),
            (#"{"secret":{"a":1,"b":{"c":2}},"x":true}"#, #"{"secret":{"b":{}},"x":true}"#),
            (#"{"debug-level":3,"debugLevel":4,"debugger":5}"#, #"{"debugger":5}"#),
            (#"{"email":null,"mail":null}"#, #"{"email":null,"mail":null}"#),
            ("[1]", ""), ("{", ""), ("", ""), (#"{"a":1} x"#, ""),
        ] as [(String, String)])
    func membersAreHiddenByTheirCanonicalKey(_ raw: String, _ expected: String) {
        #expect(redacted(raw) == expected)
    }

    @Test func hashedValuesBecomeTheirCodeAndStayIt() throws {
        let once = try #require(redacted(#"{"Email":"ann@example.org","user":{"email":1},"card":["1","2",null]}"#))
        #expect(!once.contains("ann"))
        let tree = try JSONValue.parse(once)
        #expect(tree["Email"]?.string?.hasPrefix("hmac:") == true)
        #expect(tree["user"]?["email"]?.integer == 1, "user.email is another key")
        #expect(tree["card"]?.array?.count == 2)
        #expect(redacted(once) == once)
        #expect(redacted(#"{"email":"a","b":1}"#, hash: nil) == #"{"b":1}"#, "without a key it may not be kept")
    }

    @Test func equalValuesHashAlikeHoweverTheyAreWritten() throws {
        let texts = [
            #"{"email":1}"#, #"{"email":"1"}"#, #"{"email":1.0}"#, #"{"email":" 1 "}"#, #"{"email":"\u0031"}"#,
        ]
        #expect(Set(texts.map { redacted($0) }).count == 1)
    }

    @Test func itChangesNothingOfWhatTheNormalizerMakes() throws {
        var random = SeededRandom()
        var changed = 0
        for _ in 0..<100 {
            let rules = try Rules.decode(Generator.rules(&random))
            guard var redactor = Redactor(rules: rules, hash: fakeHash) else { continue }
            var normalizer = Normalizer(rules: rules, hash: fakeHash)
            for _ in 0..<300 {
                let raw = Generator.object(&random, members: 5, depth: 4).bytes
                let redacted = raw.withUnsafeBytes { redactor.redact($0) }
                if redacted != raw { changed += 1 }
                let (before, after) = (
                    normalizer.normalize(raw: raw, status: .ok), normalizer.normalize(raw: redacted, status: .ok)
                )
                let again = redacted.withUnsafeBytes { redactor.redact($0) }
                guard before == after, again == redacted else {
                    Issue.record(
                        "\(String(decoding: raw, as: UTF8.self)) became \(String(decoding: redacted, as: UTF8.self))")
                    return
                }
            }
        }
        #expect(changed > 1_000)
    }

    @Test func bytesThatAreNoObjectLeaveNothingBehind() {
        var redactor = Redactor(rules: rules, hash: fakeHash)
        var event = RequestEvent(id: EventID(high: 1, low: 2), time: EventTime(microseconds: 3))
        event.metadataRejected = Array(#"{"secret":"x"#.utf8)
        event.metadataRaw = Array(#"{"secret":"x","a":1}"#.utf8)
        redactor?.redact(&event)
        #expect(event.metadataRejected.isEmpty)
        #expect(event.metadataRaw == Array(#"{"a":1}"#.utf8))
    }

    /// RFC 4231, test cases 2 and 6.
    @Test func theKeyedHashIsHMACSHA256() {
        func hexadecimal(_ bytes: [UInt8]) -> String { String(decoding: Hexadecimal.digits(bytes), as: UTF8.self) }
        #expect(
            hexadecimal(KeyedHash(key: Array("Jefe".utf8)).code(of: Array("what do ya want for nothing?".utf8)))
                == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
        let long = KeyedHash(key: [UInt8](repeating: 0xAA, count: 131))
        #expect(
            hexadecimal(long.code(of: Array("Test Using Larger Than Block-Size Key - Hash Key First".utf8)))
                == "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54")
        #expect(long.digits(of: []).count == 32)
    }
}
