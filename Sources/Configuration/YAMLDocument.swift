// YAML text → a tree that knows its lines, through libyaml's event interface.
//
// What YAML allows and this refuses, each by name and line: more than one document, a key given twice, keys that are
// not plain text, and text that grows beyond the limits below by aliases. A key given twice hides no other mistake: the
// tree has both, and whoever names mistakes goes on with it.

import CYAML
import Glibc

/// | limit | unit | value | why |
/// | --- | --- | --- | --- |
/// | `size` | bytes | 1 MiB | a settings file is small; a larger one is a mistake |
/// | `nodes` | nodes | 100,000 | aliases of aliases grow without bound |
/// | `depth` | levels | 64 | the reader recurses |
package enum YAMLLimits {
    package static let size = 1 << 20
    package static let nodes = 100_000
    package static let depth = 64
}

package struct YAMLNode: Sendable, Equatable {
    package indirect enum Value: Sendable, Equatable {
        /// `isPlain`: written without quotes, so that `true`, `null` and numbers mean themselves.
        case scalar(String, isPlain: Bool)
        case sequence([YAMLNode])
        case mapping([Entry])
    }
    package struct Entry: Sendable, Equatable {
        package var key: String
        package var line: Int
        package var value: YAMLNode
    }
    package var value: Value
    /// From 1.
    package var line: Int

    /// The empty value, `~` or `null`.
    package var isNull: Bool {
        guard case .scalar(let text, isPlain: true) = value else { return false }
        return ["", "~", "null", "Null", "NULL"].contains(text)
    }
}

package struct YAMLError: Error, Sendable, Equatable, CustomStringConvertible {
    /// From 1; 0 where no line is to blame.
    package var line: Int
    package var reason: String

    package var description: String { line > 0 ? "line \(line): \(reason)" : reason }
}

extension YAMLNode {
    /// The one document of the text; a null node where it is empty. Its keys are all different.
    package static func parse(_ text: [UInt8]) throws(YAMLError) -> YAMLNode {
        var mistakes: [YAMLError] = []
        let root = parse(text, &mistakes)
        guard let root, mistakes.isEmpty else { throw mistakes.first ?? YAMLError(line: 0, reason: "not readable") }
        return root
    }

    /// The one document of the text, in which keys may be given twice; nil where it has no tree. `mistakes`: one for each
    /// such key, and the one that left it without a tree.
    package static func parse(_ text: [UInt8], _ mistakes: inout [YAMLError]) -> YAMLNode? {
        do throws(YAMLError) {
            return try read(text, &mistakes)
        } catch {
            mistakes.append(error)
            return nil
        }
    }

    private static func read(_ text: [UInt8], _ mistakes: inout [YAMLError]) throws(YAMLError) -> YAMLNode {
        guard text.count <= YAMLLimits.size else {
            throw YAMLError(line: 0, reason: "\(text.count) bytes are more than the \(YAMLLimits.size) allowed")
        }
        let parser = UnsafeMutablePointer<yaml_parser_t>.allocate(capacity: 1)
        defer { parser.deallocate() }
        guard yaml_parser_initialize(parser) == 1 else { throw YAMLError(line: 0, reason: "out of memory") }
        defer { yaml_parser_delete(parser) }
        // The copy outlives the parser's use of it: libyaml keeps the pointer and copies nothing.
        let input = UnsafeMutableBufferPointer<UInt8>.allocate(capacity: text.count)
        defer { input.deallocate() }
        _ = input.initialize(from: text)
        yaml_parser_set_input_string(parser, input.baseAddress, text.count)
        yaml_parser_set_encoding(parser, YAML_UTF8_ENCODING)
        var reader = YAMLReader(parser: parser)
        defer { mistakes += reader.repeats }
        return try reader.document()
    }
}

/// Follows the parser's events by recursive descent.
private struct YAMLReader {
    let parser: UnsafeMutablePointer<yaml_parser_t>
    var anchors: [String: YAMLNode] = [:]
    /// Keys given twice.
    var repeats: [YAMLError] = []
    /// Nodes made so far, those that aliases copied included.
    var nodes = 0

    private enum Event {
        case streamStart, streamEnd, documentStart, documentEnd, sequenceEnd, mappingEnd
        case alias(String)
        case scalar(String, isPlain: Bool, anchor: String?)
        case sequenceStart(anchor: String?)
        case mappingStart(anchor: String?)
    }

    private mutating func next() throws(YAMLError) -> (event: Event, line: Int) {
        var event = yaml_event_t()
        guard yaml_parser_parse(parser, &event) == 1 else {
            let problem = parser.pointee.problem.map { String(cString: $0) } ?? "not readable as YAML"
            let mark = parser.pointee.error == YAML_READER_ERROR ? 0 : Int(parser.pointee.problem_mark.line) + 1
            throw YAMLError(line: mark, reason: problem)
        }
        defer { yaml_event_delete(&event) }
        let line = Int(event.start_mark.line) + 1
        switch event.type {
        case YAML_STREAM_START_EVENT: return (.streamStart, line)
        case YAML_STREAM_END_EVENT: return (.streamEnd, line)
        case YAML_DOCUMENT_START_EVENT: return (.documentStart, line)
        case YAML_DOCUMENT_END_EVENT: return (.documentEnd, line)
        case YAML_SEQUENCE_END_EVENT: return (.sequenceEnd, line)
        case YAML_MAPPING_END_EVENT: return (.mappingEnd, line)
        case YAML_ALIAS_EVENT: return (.alias(Self.text(event.data.alias.anchor) ?? ""), line)
        case YAML_SCALAR_EVENT:
            let scalar = event.data.scalar
            let bytes = UnsafeBufferPointer(start: scalar.value, count: scalar.length)
            guard let text = String(validating: bytes, as: UTF8.self) else {
                throw YAMLError(line: line, reason: "not UTF-8")
            }
            let isPlain = scalar.style == YAML_PLAIN_SCALAR_STYLE
            return (.scalar(text, isPlain: isPlain, anchor: Self.text(scalar.anchor)), line)
        case YAML_SEQUENCE_START_EVENT:
            return (.sequenceStart(anchor: Self.text(event.data.sequence_start.anchor)), line)
        case YAML_MAPPING_START_EVENT:
            return (.mappingStart(anchor: Self.text(event.data.mapping_start.anchor)), line)
        default: throw YAMLError(line: line, reason: "not readable as YAML")
        }
    }

    private static func text(_ bytes: UnsafeMutablePointer<yaml_char_t>?) -> String? {
        bytes.map { String(cString: $0) }
    }

    mutating func document() throws(YAMLError) -> YAMLNode {
        _ = try next()
        guard case .documentStart = try next().event else {
            return YAMLNode(value: .scalar("", isPlain: true), line: 1)
        }
        let (event, line) = try next()
        let root = try node(event, line: line, depth: 0)
        _ = try next()
        let end = try next()
        guard case .streamEnd = end.event else {
            throw YAMLError(line: end.line, reason: "a second document; only one is read")
        }
        return root
    }

    private mutating func node(_ event: Event, line: Int, depth: Int) throws(YAMLError) -> YAMLNode {
        guard depth < YAMLLimits.depth else {
            throw YAMLError(line: line, reason: "nested deeper than \(YAMLLimits.depth) levels")
        }
        try count(1, line: line)
        switch event {
        case .scalar(let text, let isPlain, let anchor):
            return remember(YAMLNode(value: .scalar(text, isPlain: isPlain), line: line), as: anchor)
        case .alias(let name):
            guard let copy = anchors[name] else { throw YAMLError(line: line, reason: "no anchor '\(name)' before") }
            try count(copy.size, line: line)
            guard depth + copy.height <= YAMLLimits.depth else {
                throw YAMLError(line: line, reason: "nested deeper than \(YAMLLimits.depth) levels")
            }
            return copy
        case .sequenceStart(let anchor):
            var elements: [YAMLNode] = []
            while true {
                let (event, line) = try next()
                if case .sequenceEnd = event { break }
                elements.append(try node(event, line: line, depth: depth + 1))
            }
            return remember(YAMLNode(value: .sequence(elements), line: line), as: anchor)
        case .mappingStart(let anchor):
            var entries: [YAMLNode.Entry] = []
            var lines: [String: Int] = [:]
            while true {
                let (event, line) = try next()
                if case .mappingEnd = event { break }
                guard case .scalar(let key, _, _) = event else {
                    throw YAMLError(line: line, reason: "a key must be text")
                }
                if let first = lines[key] {
                    repeats.append(YAMLError(line: line, reason: "'\(key)' is given twice, first in line \(first)"))
                } else {
                    lines[key] = line
                }
                let (value, valueLine) = try next()
                entries.append(.init(key: key, line: line, value: try node(value, line: valueLine, depth: depth + 1)))
            }
            return remember(YAMLNode(value: .mapping(entries), line: line), as: anchor)
        case .streamStart, .streamEnd, .documentStart, .documentEnd, .sequenceEnd, .mappingEnd:
            throw YAMLError(line: line, reason: "not readable as YAML")
        }
    }

    private mutating func remember(_ node: YAMLNode, as anchor: String?) -> YAMLNode {
        if let anchor { anchors[anchor] = node }
        return node
    }

    private mutating func count(_ added: Int, line: Int) throws(YAMLError) {
        nodes += added
        guard nodes <= YAMLLimits.nodes else {
            throw YAMLError(line: line, reason: "more than \(YAMLLimits.nodes) values, aliases counted")
        }
    }
}

extension YAMLNode {
    /// Trees in which no key comes twice and which together hold every value of this one: where a key is given several
    /// times, each has another of them. At most `limit`; what only further ones would hold is in none.
    package func withoutRepeats(limit: Int) -> [YAMLNode] {
        func trees<Part>(_ choices: [[Part]], _ value: ([Part]) -> Value) -> [YAMLNode] {
            (0..<(choices.map(\.count).max() ?? 1)).map { number in
                YAMLNode(value: value(choices.map { $0[min(number, $0.count - 1)] }), line: line)
            }
        }
        switch value {
        case .scalar: return [self]
        case .sequence(let nodes): return trees(nodes.map { $0.withoutRepeats(limit: limit) }) { .sequence($0) }
        case .mapping(let entries):
            var places: [String: Int] = [:]
            var choices: [[Entry]] = []
            for entry in entries {
                let given = entry.value.withoutRepeats(limit: limit).map {
                    Entry(key: entry.key, line: entry.line, value: $0)
                }
                if let place = places[entry.key] {
                    choices[place] += given.prefix(limit - choices[place].count)
                } else {
                    places[entry.key] = choices.count
                    choices.append(given)
                }
            }
            return trees(choices) { .mapping($0) }
        }
    }

    /// Nodes in this tree, itself included.
    fileprivate var size: Int {
        switch value {
        case .scalar: 1
        case .sequence(let nodes): nodes.reduce(1) { $0 + $1.size }
        case .mapping(let entries): entries.reduce(1) { $0 + $1.value.size }
        }
    }

    /// Levels of this tree, itself included.
    fileprivate var height: Int {
        switch value {
        case .scalar: 1
        case .sequence(let nodes): 1 + (nodes.map(\.height).max() ?? 0)
        case .mapping(let entries): 1 + (entries.map(\.value.height).max() ?? 0)
        }
    }
}

/// A file's bytes, or why it cannot be read, in words.
package func readFile(_ path: String, limit: Int = YAMLLimits.size) -> Result<[UInt8], FileProblem> {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return .failure(FileProblem(reason: String(cString: strerror(errno)))) }
    defer { close(descriptor) }
    var out: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while true {
        let count = read(descriptor, &buffer, buffer.count)
        if count == 0 { return .success(out) }
        if count < 0 {
            if errno == EINTR { continue }
            return .failure(FileProblem(reason: String(cString: strerror(errno))))
        }
        out += buffer[..<count]
        if out.count > limit { return .failure(FileProblem(reason: "larger than \(limit) bytes")) }
    }
}

package struct FileProblem: Error, Sendable {
    package var reason: String
}
