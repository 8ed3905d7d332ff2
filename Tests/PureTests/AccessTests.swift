// API keys: digests against known vectors and Python's hashlib, texts, scopes.

import Access
import Events
import Foundation
import Testing

@Suite struct AccessTests {
    private func hexadecimal(_ digest: Digest) -> String {
        digest.bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }

    @Test(arguments: [
        ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
        ),
    ])
    func digestsAgreeWithTheStandardsVectors(_ text: String, _ expected: String) {
        #expect(hexadecimal(SHA256.digest(of: text)) == expected)
    }

    @Test func digestsOfEveryLengthAgreeWithAnotherImplementation() throws {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/python3")
        process.arguments = [
            "-c",
            "import hashlib\nfor n in range(300): print(hashlib.sha256(bytes(i*7%256 for i in range(n))).hexdigest())",
        ]
        let output = Pipe()
        process.standardOutput = output
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        let expected = text.split(separator: "\n").map(String.init)
        #expect(expected.count == 300)
        for (count, expected) in expected.enumerated() {
            let bytes = (0..<count).map { UInt8($0 * 7 % 256) }
            #expect(bytes.withUnsafeBytes { hexadecimal(SHA256.digest($0)) } == expected, "\(count) bytes")
        }
    }

    @Test func aDigestComesBackFromItsBytes() {
        let digest = SHA256.digest(of: "millrace")
        #expect(Digest(bytes: digest.bytes) == digest)
        #expect(Digest(bytes: digest.bytes.dropLast()) == nil)
        for bit in 0..<256 {
            var bytes = digest.bytes
            bytes[bit / 8] ^= 1 << UInt8(bit % 8)
            #expect(Digest(bytes: bytes) != digest, "bit \(bit)")
        }
    }

    @Test func aNewKeyIsLongRandomAndNotKept() {
        var random = SystemRandomNumberGenerator()
        var texts: Set<String> = []
        var ids: Set<String> = []
        let letters = Set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
        for _ in 0..<1_000 {
            let (key, text) = AccessKey.make(
                workspace: "w", scopes: [.ingest], name: "", now: EventTime(microseconds: 1), using: &random)
            #expect(text.hasPrefix("mr_") && text.count == 46 && text.dropFirst(3).allSatisfy(letters.contains))
            #expect(key.id.hasPrefix("key_") && key.id.count == 15)
            #expect(key.digest == SHA256.digest(of: text))
            texts.insert(text)
            ids.insert(key.id)
        }
        #expect(texts.count == 1_000 && ids.count == 1_000)
        // Every letter turns up: none is left out by the drawing.
        #expect(Set(texts.joined()).isSuperset(of: letters))
    }

    @Test func scopesAreNamedOneByOne() {
        #expect(AccessScopes(text: "ingest,query,admin") == [.ingest, .query, .admin])
        #expect(AccessScopes(text: "query, ingest") == [.ingest, .query])
        #expect(AccessScopes(text: "query, ingest")?.text == "ingest,query")
        for wrong in ["", "all", "ingest,", "Ingest", "ingest query"] { #expect(AccessScopes(text: wrong) == nil) }
    }
}

@Suite struct KeyDirectoryTests {
    private func makeKeys(_ count: Int) -> [(key: AccessKey, text: String)] {
        var random = SystemRandomNumberGenerator()
        return (0..<count).map { number in
            AccessKey.make(
                workspace: "workspace \(number)", scopes: number % 2 == 0 ? [.ingest] : [.query, .admin],
                name: "größer \"\(number)\"", now: EventTime(microseconds: Int64(number)), using: &random)
        }
    }

    @Test(arguments: [0, 1, 2, 3, 500])
    func everyKeyIsFoundAndNoOther(_ count: Int) {
        var made = makeKeys(count)
        for index in made.indices where index % 5 == 4 { made[index].key.revoked = EventTime(microseconds: 1) }
        let directory = KeyDirectory(made.map(\.key))
        for (key, text) in made {
            switch directory.find(text) {
            case .known(let entry):
                #expect(key.revoked == nil)
                #expect(entry.id == key.id && entry.workspace == key.workspace && entry.scopes == key.scopes)
            case .revoked: #expect(key.revoked != nil)
            case .unknown: Issue.record("\(key.id) is not found")
            }
        }
        for (_, text) in makeKeys(50) + made.map({ ($0.key, $0.text + " ") }) + made.map({ ($0.key, $0.key.id) }) {
            guard case .unknown = directory.find(text) else {
                Issue.record("a text that is no key is found")
                continue
            }
        }
        if case .unknown = directory.find("") {} else { Issue.record("nothing is found") }
    }

    @Test func aSnapshotComesBackWhole() {
        var keys = makeKeys(20).map(\.key)
        keys[3].revoked = EventTime(microseconds: 99)
        keys[4].scopes = []
        let bytes = KeySnapshot.encode(keys)
        #expect(KeySnapshot.decode(bytes) == keys)
        for end in 0..<bytes.count { #expect(KeySnapshot.decode(Array(bytes[..<end])) == nil) }
        #expect(!String(decoding: bytes, as: UTF8.self).contains("mr_"))
    }
}
