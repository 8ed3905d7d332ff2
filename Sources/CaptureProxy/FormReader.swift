// multipart/form-data as it passes -> the model, and whether a stream is asked for: what transcriptions, translations,
// image edits and variations say in parts of a form, beside a file of any size. Of the file nothing is held.

import Events
import Glibc

/// Fed in pieces of any size (RFC 7578, RFC 2046 §5.1).
package struct FormReader: Sendable {
    /// RFC 2046 allows 70; a longer one is no boundary of ours.
    static let boundaryLimit = 200
    /// Of the header lines of one part.
    private static let headerLimit = 4_096

    private enum Stage { case content, afterDelimiter, header, over }
    private enum Field { case model, stream, other }

    private var stage = Stage.content
    private var field = Field.other
    /// A line end, two dashes, the boundary. A carriage return stands at its start alone.
    private let delimiter: [UInt8]
    /// Bytes of the delimiter that the last ones have matched. The first one needs no line end before it.
    private var matched = 2
    /// Of the part that is wanted, of its header, or what stands behind the delimiter.
    private var held: [UInt8] = []
    package private(set) var model: [UInt8]?
    package private(set) var isStreamed = false

    package init(boundary: some Sequence<UInt8>) { delimiter = Array("\r\n--".utf8) + boundary }

    /// The boundary that a content type names; nil where it is no form.
    static func boundary(ofContentType type: String) -> [UInt8]? {
        let parts = type.split(separator: ";").map { $0.trimmed }
        guard let first = parts.first, first.lowercased() == "multipart/form-data" else { return nil }
        for part in parts.dropFirst() {
            let pair = part.split(separator: "=", maxSplits: 1)
            guard pair.count == 2, pair[0].trimmed.lowercased() == "boundary" else { continue }
            var value = pair[1].trimmed
            if value.count >= 2, value.first == "\"", value.last == "\"" { value = value.dropFirst().dropLast() }
            let bytes = Array(value.utf8)
            return bytes.isEmpty || bytes.count > boundaryLimit ? nil : bytes
        }
        return nil
    }

    package mutating func feed(_ bytes: UnsafeRawBufferPointer) {
        var index = 0
        while index < bytes.count {
            switch stage {
            case .content: index = takeContent(bytes, from: index)
            case .afterDelimiter:
                held.append(bytes[index])
                index += 1
                if held.count == 2 { passDelimiter() }
            case .header:
                held.append(bytes[index])
                index += 1
                if held.suffix(4).elementsEqual("\r\n\r\n".utf8) || held.elementsEqual("\r\n".utf8) {
                    beginContent()
                } else if held.count > Self.headerLimit {
                    stage = .over
                }
            case .over: return
            }
        }
    }

    private mutating func takeContent(_ bytes: UnsafeRawBufferPointer, from start: Int) -> Int {
        var index = start
        while index < bytes.count {
            if field == .other, matched == 0 {
                // A file: on to the next byte that could begin a delimiter.
                guard let start = bytes.baseAddress,
                    let found = memchr(start + index, Int32(delimiter[0]), bytes.count - index)
                else { return bytes.count }
                index = UnsafeRawPointer(found) - start
            }
            let byte = bytes[index]
            index += 1
            if field != .other { held.append(byte) }
            if byte == delimiter[matched] {
                matched += 1
                if matched == delimiter.count {
                    endContent()
                    return index
                }
            } else {
                matched = byte == delimiter[0] ? 1 : 0
            }
            if field != .other, held.count > EventLimits.textSize + delimiter.count { field = .other }
        }
        return index
    }

    private mutating func endContent() {
        let value = held.dropLast(delimiter.count)
        switch field {
        case .model where model == nil && !value.isEmpty && value.count <= EventLimits.textSize: model = Array(value)
        case .stream: isStreamed = value.elementsEqual("true".utf8)
        case .model, .other: break
        }
        held.removeAll(keepingCapacity: true)
        stage = .afterDelimiter
    }

    /// A line end: another part. Two dashes, or anything else: the form is over.
    private mutating func passDelimiter() {
        stage = held.elementsEqual("\r\n".utf8) ? .header : .over
        held.removeAll(keepingCapacity: true)
    }

    private mutating func beginContent() {
        field = Self.field(of: String(decoding: held, as: UTF8.self))
        held.removeAll(keepingCapacity: true)
        matched = 0
        stage = .content
    }

    private static func field(of header: String) -> Field {
        for line in header.split(whereSeparator: { $0 == "\r\n" || $0 == "\r" || $0 == "\n" }) {
            let parts = line.split(separator: ":", maxSplits: 1)
            guard parts.count == 2, parts[0].lowercased() == "content-disposition" else { continue }
            let pieces = parts[1].split(separator: ";").map { $0.trimmed }
            guard let first = pieces.first, first.lowercased() == "form-data" else { continue }
            for piece in pieces.dropFirst() {
                switch piece {
                case "name=\"model\"", "name=model": return .model
                case "name=\"stream\"", "name=stream": return .stream
                default: break
                }
            }
        }
        return .other
    }
}

extension Substring {
    fileprivate var trimmed: Substring {
        let start = drop { $0 == " " || $0 == "\t" }
        guard let last = start.lastIndex(where: { $0 != " " && $0 != "\t" }) else { return start.prefix(0) }
        return start[...last]
    }
}
