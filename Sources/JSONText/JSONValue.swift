// Bytes of a small JSON document <-> a tree, for cold use: configuration, the API, tests.

/// One member of an object.
package struct JSONMember: Sendable, Equatable {
    package var key: String
    package var value: JSONValue

    package init(key: String, value: JSONValue) {
        self.key = key
        self.value = value
    }
}

/// Numbers keep their text, objects the order of their members and members whose key comes twice.
package enum JSONValue: Sendable, Equatable {
    case null
    case boolean(Bool)
    /// Text by RFC 8259 §6.
    case number(String)
    case string(String)
    case array([JSONValue])
    case object([JSONMember])
}

extension JSONValue {
    /// Strict RFC 8259. `depth`: open arrays and objects, at most `JSONTokenizer.depthCeiling`.
    package static func parse(
        _ bytes: UnsafeRawBufferPointer, depth: Int = JSONTokenizer.depthCeiling
    ) throws(JSONTextError) -> JSONValue {
        var tokens = JSONTokenizer(bytes, depth: depth)
        let value = try build(try tokens.next(), &tokens)
        _ = try tokens.next()
        return value
    }

    package static func parse(
        _ bytes: [UInt8], depth: Int = JSONTokenizer.depthCeiling
    ) throws(JSONTextError) -> JSONValue {
        let result = bytes.withUnsafeBytes { bytes -> Result<JSONValue, JSONTextError> in
            Result { () throws(JSONTextError) in try parse(bytes, depth: depth) }
        }
        return try result.get()
    }

    package static func parse(
        _ text: String, depth: Int = JSONTokenizer.depthCeiling
    ) throws(JSONTextError) -> JSONValue {
        try parse(Array(text.utf8), depth: depth)
    }

    private static func build(_ token: JSONToken, _ tokens: inout JSONTokenizer) throws(JSONTextError) -> JSONValue {
        switch token {
        case .beginObject:
            var members: [JSONMember] = []
            while true {
                guard case .key(let key) = try tokens.next() else { return .object(members) }
                members.append(JSONMember(key: text(key, tokens.bytes), value: try build(try tokens.next(), &tokens)))
            }
        case .beginArray:
            var elements: [JSONValue] = []
            while true {
                let token = try tokens.next()
                if token == .endArray { return .array(elements) }
                elements.append(try build(token, &tokens))
            }
        case .string(let string), .key(let string): return .string(text(string, tokens.bytes))
        case .number(let range):
            return .number(String(decoding: UnsafeRawBufferPointer(rebasing: tokens.bytes[range]), as: UTF8.self))
        case .boolean(let value): return .boolean(value)
        // The tokenizer gives these three only where they close what the two loops above have open, or at the end.
        case .null, .endObject, .endArray, .end: return .null
        }
    }

    private static func text(_ string: JSONString, _ bytes: UnsafeRawBufferPointer) -> String {
        let content = UnsafeRawBufferPointer(rebasing: bytes[string.range])
        guard string.hasEscapes else { return String(decoding: content, as: UTF8.self) }
        var out: [UInt8] = []
        JSONStrings.appendUnescaped(content, to: &out)
        return String(decoding: out, as: UTF8.self)
    }
}

// Writing.
extension JSONValue {
    /// Appends compact text: no blanks, the fewest escapes.
    package func write(to out: inout [UInt8]) {
        switch self {
        case .null: out.append(contentsOf: "null".utf8)
        case .boolean(let value): out.append(contentsOf: (value ? "true" : "false").utf8)
        case .number(let text): out.append(contentsOf: text.utf8)
        case .string(let text): JSONStrings.appendQuoted(text, to: &out)
        case .array(let elements):
            out.append(UInt8(ascii: "["))
            for (index, element) in elements.enumerated() {
                if index > 0 { out.append(UInt8(ascii: ",")) }
                element.write(to: &out)
            }
            out.append(UInt8(ascii: "]"))
        case .object(let members):
            out.append(UInt8(ascii: "{"))
            for (index, member) in members.enumerated() {
                if index > 0 { out.append(UInt8(ascii: ",")) }
                JSONStrings.appendQuoted(member.key, to: &out)
                out.append(UInt8(ascii: ":"))
                member.value.write(to: &out)
            }
            out.append(UInt8(ascii: "}"))
        }
    }

    package var bytes: [UInt8] {
        var out: [UInt8] = []
        write(to: &out)
        return out
    }

    package var text: String { String(decoding: bytes, as: UTF8.self) }
}

// Looking inside: nil wherever the value is of another kind.
extension JSONValue {
    /// The member's value; of a key that comes twice, the last.
    package subscript(key: String) -> JSONValue? { members?.last { $0.key == key }?.value }

    package subscript(index: Int) -> JSONValue? {
        guard let array, array.indices.contains(index) else { return nil }
        return array[index]
    }

    package var isNull: Bool { self == .null }

    package var boolean: Bool? {
        guard case .boolean(let value) = self else { return nil }
        return value
    }

    package var string: String? {
        guard case .string(let text) = self else { return nil }
        return text
    }

    package var array: [JSONValue]? {
        guard case .array(let elements) = self else { return nil }
        return elements
    }

    package var members: [JSONMember]? {
        guard case .object(let members) = self else { return nil }
        return members
    }

    /// The text of a number as it was written.
    package var numberText: String? {
        guard case .number(let text) = self else { return nil }
        return text
    }

    /// A number written without fraction and exponent, in range.
    package var integer: Int64? { numberText.flatMap { Int64($0) } }
    package var unsigned: UInt64? { numberText.flatMap { UInt64($0) } }
    package var double: Double? { numberText.flatMap { Double($0) } }
}

extension JSONValue: ExpressibleByStringLiteral, ExpressibleByBooleanLiteral, ExpressibleByIntegerLiteral,
    ExpressibleByArrayLiteral, ExpressibleByDictionaryLiteral, ExpressibleByNilLiteral
{
    package init(stringLiteral text: String) { self = .string(text) }
    package init(booleanLiteral value: Bool) { self = .boolean(value) }
    package init(integerLiteral value: Int64) { self = .number(String(value)) }
    package init(arrayLiteral elements: JSONValue...) { self = .array(elements) }
    package init(dictionaryLiteral pairs: (String, JSONValue)...) {
        self = .object(pairs.map { JSONMember(key: $0, value: $1) })
    }
    package init(nilLiteral: ()) { self = .null }

    package init(_ value: some BinaryInteger) { self = .number(String(value)) }
    /// The shortest text that reads back as the same number; null for what JSON cannot say.
    package init(_ value: Double) { self = value.isFinite ? .number(value.description) : .null }
}
