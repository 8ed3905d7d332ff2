// One value against its kind: text → typed value, or nil. What would have been right is said by `allowed`.

import CommandLine
import Glibc

extension ValueKind {
    /// For "allowed:" in a message.
    package var allowed: String {
        switch self {
        case .choice(let names): "one of " + names.joined(separator: ", ")
        case .boolean: "true or false"
        case .integer(let range): "a whole number from \(range.lowerBound) to \(range.upperBound)"
        case .address: "HOST:PORT, such as 127.0.0.1:8787, [::1]:8787 or 0.0.0.0:8787, with a port from 0 to 65535"
        case .servers: "HOST:PORT, several separated by commas, each port from 1 to 65535"
        case .name: "1 to 249 of the letters a-z, A-Z, 0-9, '.', '_' and '-'"
        case .directory: "the path of a directory"
        case .file: "the path of a readable file, or null"
        case .store: "sqlite:PATH, postgres://USER@HOST/DATABASE or clickhouse://HOST:PORT/DATABASE"
        case .provider: "http://HOST[:PORT][/PATH] or https://…, without user, query or fragment"
        case .origins: "https://HOST[:PORT] without a path, several separated by commas, or *, or null"
        case .text: "text"
        case .secret(let sizes): "\(sizes.lowerBound) to \(sizes.upperBound) bytes of text, or null"
        }
    }

    /// nil: not a value of this kind. `isPlain`: unquoted, so that `null` means none.
    package func check(_ text: String, isPlain: Bool) -> SettingValue? {
        let isNull = isPlain && ["", "~", "null"].contains(text)
        switch self {
        case .choice(let names): return names.contains(text) ? .text(text) : nil
        case .boolean:
            return isPlain ? (text == "true" ? .boolean(true) : text == "false" ? .boolean(false) : nil) : nil
        case .integer(let range):
            guard isPlain, let number = Int(text), range.contains(number) else { return nil }
            return .integer(number)
        case .address: return ListenAddress(text) == nil ? nil : .text(text)
        case .servers:
            let parts = text.split(separator: ",", omittingEmptySubsequences: false)
            let trimmed = parts.map { String($0.drop { $0 == " " }) }
            guard trimmed.allSatisfy({ (ListenAddress($0)?.port ?? 0) > 0 }) else { return nil }
            return .text(trimmed.joined(separator: ","))
        case .name:
            let isName = text.utf8.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"):
                    true
                default: false
                }
            }
            let isWhole = isName && (1...249).contains(text.utf8.count) && text != "." && text != ".."
            return isWhole && !isNull ? .text(text) : nil
        case .directory: return isNull || text.isEmpty || text.utf8.contains(0) ? nil : .text(text)
        case .file:
            if isNull { return .null }
            guard case .success = readFile(text, limit: 16 << 20) else { return nil }
            return .text(text)
        case .store: return StoreLocation(text) == nil ? nil : .text(text)
        case .provider: return ProviderURL(text) == nil ? nil : .text(text)
        case .origins:
            if isNull { return .null }
            let parts = text.split(separator: ",", omittingEmptySubsequences: false)
                .map { $0.split(separator: " ").joined(separator: " ") }
            guard parts.allSatisfy({ $0 == "*" || ProviderURL($0)?.path == "" && !$0.hasSuffix("/") }) else {
                return nil
            }
            return .text(parts.joined(separator: ","))
        case .text: return isNull && !text.isEmpty ? nil : .text(text)
        case .secret(let sizes):
            if isNull { return .null }
            let secret = String(Substring(withoutLineEnd(text.utf8)))
            return sizes.contains(secret.utf8.count) && !secret.utf8.contains(0) ? .text(secret) : nil
        }
    }

    /// What more can be said of a value that was refused.
    func reason(_ text: String) -> String? {
        switch self {
        case .file:
            if case .failure(let problem) = readFile(text, limit: 16 << 20) { return problem.reason }
            return nil
        case .boolean where ["yes", "no", "on", "off", "1", "0", "True", "False", "TRUE", "FALSE"].contains(text):
            return "write true or false"
        case .choice(let names): return nearest(text, names).map { "did you mean \($0)?" }
        case .secret: return "\(withoutLineEnd(text.utf8).count) bytes"
        default: return nil
        }
    }
}

/// The bytes of a secret: the line's end that an editor or a shell leaves behind it is none of it.
package func withoutLineEnd<Bytes: BidirectionalCollection<UInt8>>(_ bytes: Bytes) -> Bytes.SubSequence {
    var rest = bytes[...]
    while let last = rest.last, last == 0x0A || last == 0x0D { rest = rest.dropLast() }
    return rest
}

/// `HOST:PORT`; an IPv6 host in brackets.
package struct ListenAddress: Sendable, Equatable, CustomStringConvertible {
    /// Without brackets.
    package var host: String
    package var port: UInt16

    package init(host: String, port: UInt16) {
        self.host = host
        self.port = port
    }

    package init?(_ text: String) {
        guard let colon = text.lastIndex(of: ":") else { return nil }
        let digits = text[text.index(after: colon)...]
        guard !digits.isEmpty, digits.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }),
            let port = UInt16(digits)
        else { return nil }
        var host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
            var address = in6_addr()
            guard inet_pton(AF_INET6, String(host), &address) == 1 else { return nil }
        } else {
            guard Self.isHostName(host) else { return nil }
        }
        self.init(host: String(host), port: port)
    }

    package var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }

    package var isLoopback: Bool { host == "localhost" || host == "::1" || host.hasPrefix("127.") }

    static func isHostName(_ host: some StringProtocol) -> Bool {
        (1...253).contains(host.utf8.count)
            && host.utf8.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"):
                    true
                default: false
                }
            }
    }
}

/// Where a provider is reached: `https://api.openai.com/v1`.
package struct ProviderURL: Sendable, Equatable {
    package var isTLS: Bool
    /// Without brackets.
    package var host: String
    package var port: UInt16
    /// Begins with `/` and does not end with it, or is empty.
    package var path: String

    package init?(_ text: String) {
        let rest: Substring
        if text.hasPrefix("https://") {
            isTLS = true
            rest = text.dropFirst(8)
        } else if text.hasPrefix("http://") {
            isTLS = false
            rest = text.dropFirst(7)
        } else {
            return nil
        }
        let slash = rest.firstIndex(of: "/") ?? rest.endIndex
        let authority = String(rest[..<slash])
        var path = rest[slash...]
        while path.hasSuffix("/") { path = path.dropLast() }
        // Printable ASCII only: what stands here goes into a request line.
        guard path.utf8.allSatisfy({ (0x21...0x7E).contains($0) }), !path.contains("?"), !path.contains("#"),
            !path.split(separator: "/").contains("..")
        else { return nil }
        let hasPort = authority.hasSuffix("]") ? false : authority.contains(":")
        guard let address = ListenAddress(hasPort ? authority : authority + (isTLS ? ":443" : ":80")),
            address.port > 0
        else { return nil }
        host = address.host
        port = address.port
        self.path = String(path)
    }
}

/// `store.url`, by its scheme.
package enum StoreLocation: Sendable, Equatable {
    /// A path, relative to the working directory.
    case sqlite(path: String)
    case postgres(url: String)
    case clickhouse(url: String)

    package init?(_ text: String) {
        guard !text.utf8.contains(0) else { return nil }
        if text.hasPrefix("sqlite:") {
            let path = text.dropFirst(7)
            // `sqlite://` would name a host; `:memory:` would lose what was counted.
            guard !path.isEmpty, !path.hasPrefix("//"), !path.hasPrefix(":") else { return nil }
            self = .sqlite(path: String(path))
        } else if text.hasPrefix("postgres://") || text.hasPrefix("postgresql://") {
            self = .postgres(url: text)
        } else if text.hasPrefix("clickhouse://") {
            self = .clickhouse(url: text)
        } else {
            return nil
        }
    }
}
