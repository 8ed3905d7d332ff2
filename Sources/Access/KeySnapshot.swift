// The list of keys as a file's bytes and back: what a proxy starts from while the store is away.
//
// JSON, one key a member, digests in hexadecimal; nothing in it lets anybody in.

import Events
import JSONText

package enum KeySnapshot {
    private static let version: Int64 = 1

    package static func encode(_ keys: [AccessKey]) -> [UInt8] {
        let rows = keys.map { key -> JSONValue in
            [
                "id": .string(key.id), "sha256": .string(hexadecimal(key.digest.bytes)),
                "workspace": .string(key.workspace), "scopes": .string(key.scopes.text), "name": .string(key.name),
                "created_us": JSONValue(key.created.microseconds),
                "revoked_us": key.revoked.map { JSONValue($0.microseconds) } ?? .null,
            ]
        }
        return (["version": JSONValue(version), "keys": .array(rows)] as JSONValue).bytes
    }

    /// nil for anything that `encode` does not write.
    package static func decode(_ bytes: [UInt8]) -> [AccessKey]? {
        guard let root = try? JSONValue.parse(bytes), root["version"]?.integer == version,
            let rows = root["keys"]?.array
        else { return nil }
        var keys: [AccessKey] = []
        for row in rows {
            guard let id = row["id"]?.string, let workspace = row["workspace"]?.string, let name = row["name"]?.string,
                let digest = row["sha256"]?.string.flatMap({ Digest(bytes: raw($0) ?? []) }),
                let scopes = row["scopes"]?.string.flatMap({ $0.isEmpty ? [] : AccessScopes(text: $0) }),
                let created = row["created_us"]?.integer, let revoked = row["revoked_us"],
                revoked.isNull || revoked.integer != nil
            else { return nil }
            keys.append(
                AccessKey(
                    id: id, digest: digest, workspace: workspace, scopes: scopes, name: name,
                    created: EventTime(microseconds: created),
                    revoked: revoked.integer.map { EventTime(microseconds: $0) }))
        }
        return keys
    }

    private static func hexadecimal(_ bytes: [UInt8]) -> String {
        let digits = Array("0123456789abcdef".utf8)
        return String(decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
    }

    private static func raw(_ text: String) -> [UInt8]? {
        var bytes: [UInt8] = []
        var high: UInt8?
        for character in text {
            guard let digit = character.hexDigitValue.map({ UInt8($0) }) else { return nil }
            if let first = high { bytes.append(first << 4 | digit) }
            high = high == nil ? digit : nil
        }
        return high == nil ? bytes : nil
    }
}
