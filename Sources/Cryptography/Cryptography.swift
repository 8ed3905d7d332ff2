// SHA-256 (FIPS 180-4), HMAC-SHA-256 under a secret key (FIPS 198-1) and random bytes, by libcrypto.

import CCrypto

/// Hides values that must stay comparable: equal texts give equal codes, and without the key nobody can try texts out.
package struct KeyedHash: Sendable {
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

package enum SecureHash {
    /// Writes the 32 bytes of the SHA-256 of `bytes`.
    package static func sha256(_ bytes: UnsafeRawBufferPointer, into digest: UnsafeMutableRawBufferPointer) {
        precondition(digest.count == 32, "a SHA-256 has 32 bytes")
        // Null and empty are one thing to it.
        let made = SHA256(
            bytes.baseAddress?.assumingMemoryBound(to: UInt8.self), bytes.count,
            digest.baseAddress?.assumingMemoryBound(to: UInt8.self))
        precondition(made != nil, "libcrypto made no SHA-256")
    }
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
