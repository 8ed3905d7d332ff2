// Log lines: one JSON object a line on standard error. Every line that the program writes is declared in this module,
// one file a role (`LogLine+<Role>.swift`), each with a stable code.

import Glibc

/// One log line before it is written. Never holds a secret, a payload or a prompt.
package struct LogLine: Sendable {
    package enum Level: String, Sendable { case info, warning, error }
    package enum Value: Sendable {
        case text(String)
        case number(Int64)
    }
    package var level: Level
    /// Stable, for alerts and runbooks: `journal_torn_tail`.
    package var code: String
    /// What happened, why, what to do next.
    package var message: String
    package var fields: [(String, Value)]

    package init(_ level: Level, _ code: String, _ message: String, _ fields: [(String, Value)] = []) {
        self.level = level
        self.code = code
        self.message = message
        self.fields = fields
    }
}

/// Writes log lines to a file descriptor, each with one `write`.
package struct Log: Sendable {
    private let descriptor: Int32
    private let role: String
    private let observe: (@Sendable (LogLine) -> Void)?

    /// `observe` sees every line before it is written, for tests.
    package init(role: String, descriptor: Int32 = 2, observe: (@Sendable (LogLine) -> Void)? = nil) {
        self.role = role
        self.descriptor = descriptor
        self.observe = observe
    }

    package func callAsFunction(_ line: LogLine) {
        observe?(line)
        var out = "{\"time\":\"\(Self.now())\",\"level\":\"\(line.level.rawValue)\",\"role\":\(Self.quoted(role))"
        out += ",\"code\":\(Self.quoted(line.code)),\"message\":\(Self.quoted(line.message))"
        for (name, value) in line.fields {
            switch value {
            case .text(let text): out += ",\(Self.quoted(name)):\(Self.quoted(text))"
            case .number(let number): out += ",\(Self.quoted(name)):\(number)"
            }
        }
        out += "}\n"
        var text = out
        text.withUTF8 { bytes in
            // A log that cannot be written must not stop the program: there is nowhere left to say so.
            _ = write(descriptor, bytes.baseAddress, bytes.count)
        }
    }

    private static func now() -> String {
        var instant = timespec()
        clock_gettime(CLOCK_REALTIME, &instant)
        var parts = tm()
        gmtime_r(&instant.tv_sec, &parts)
        func padded(_ value: Int, _ width: Int) -> String {
            let digits = String(value)
            return String(repeating: "0", count: max(0, width - digits.count)) + digits
        }
        return
            "\(padded(Int(parts.tm_year) + 1900, 4))-\(padded(Int(parts.tm_mon) + 1, 2))-\(padded(Int(parts.tm_mday), 2))"
            + "T\(padded(Int(parts.tm_hour), 2)):\(padded(Int(parts.tm_min), 2)):\(padded(Int(parts.tm_sec), 2))"
            + ".\(padded(instant.tv_nsec / 1_000_000, 3))Z"
    }

    private static func quoted(_ text: String) -> String {
        var out = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": out += "\\\""
            case "\\": out += "\\\\"
            case "\n": out += "\\n"
            case "\r": out += "\\r"
            case "\t": out += "\\t"
            case _ where scalar.value < 0x20:
                let digits = String(scalar.value, radix: 16)
                out += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: out.unicodeScalars.append(scalar)
            }
        }
        return out + "\""
    }
}
