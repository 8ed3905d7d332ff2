// HMAC-SHA-256 (FIPS 198-1) of a text under a secret key, by libcrypto: bytes -> 32 bytes.

import CCrypto

/// Hides values that must stay comparable: equal texts give equal codes, and without the key nobody can try texts out.
package struct KeyedHash: Sendable {
    /// Bytes of a key: shorter ones could be guessed, longer ones than a block are hashed first and gain nothing.
    package static let keySizes = 16...1_024

    private let key: [UInt8]

    package init(key: [UInt8]) { self.key = key }

    /// 32 bytes.
    package func code(of text: [UInt8]) -> [UInt8] {
        var code = [UInt8](repeating: 0, count: 32)
        let made = HMAC(EVP_sha256(), key, Int32(key.count), text, text.count, &code, nil)
        // It fails only where memory is at its end, or the library has no SHA-256: then nothing may pass in clear.
        precondition(made != nil, "libcrypto made no HMAC-SHA-256")
        return code
    }

    /// The first 16 bytes of the code as 32 lower-case hexadecimal digits.
    package func digits(of text: [UInt8]) -> [UInt8] { Hexadecimal.digits(code(of: text)[..<16]) }
}

package enum Hexadecimal {
    package static func digits(_ bytes: some Sequence<UInt8>) -> [UInt8] {
        let all = Array("0123456789abcdef".utf8)
        return bytes.flatMap { [all[Int($0 >> 4)], all[Int($0 & 15)]] }
    }
}

package enum SecureRandom {
    /// Bytes that nobody can foretell; nil where the system has none to give.
    package static func bytes(_ count: Int) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: count)
        return RAND_bytes(&bytes, Int32(count)) == 1 ? bytes : nil
    }
}
