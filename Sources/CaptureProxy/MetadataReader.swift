// A request's metadata sources -> one JSON object and a status. Pure: nothing here can fail a request.

package import Events
import JSONText

package struct CapturedMetadata: Sendable, Equatable {
    package var status = MetadataStatus.absent
    package var sources: MetadataSources = []
    /// The merged raw pairs as one JSON object; empty where no source parsed.
    package var raw: [UInt8] = []
    /// Bytes of the worst source that did not parse, bounded.
    package var rejected: [UInt8] = []
    /// Pairs left out because an earlier source has their key.
    package var conflicts: UInt32 = 0

    package init() {}
}

/// Gathers sources in any order and merges them by precedence: `x-portkey-metadata`, `x-portkey-meta`, body
/// `metadata`, body `user`, then the headers of other gateways in the order of `MetadataSources`. The first source that
/// has a key wins; of the statuses the worst stands.
package struct MetadataReader: Sendable {
    private struct Source {
        var kind: MetadataSources
        var json: [UInt8]
    }

    private let maxSize: Int
    private var sources: [Source] = []
    /// Bytes of the pairs that came one a header.
    private var pairsSize = 0
    private var result = CapturedMetadata()

    /// `maxSize`: bytes of one source beyond which it is `too_large`.
    package init(maxSize: Int) { self.maxSize = maxSize }

    package mutating func reset() {
        sources.removeAll(keepingCapacity: true)
        pairsSize = 0
        result = CapturedMetadata()
    }

    /// A header's value or the body's `metadata`, as it came. Empty counts as nothing sent.
    package mutating func add(_ kind: MetadataSources, _ bytes: UnsafeRawBufferPointer) {
        guard bytes.contains(where: { $0 != 0x20 && $0 != 0x09 }) else { return }
        guard bytes.count <= maxSize else { return reject(kind, .tooLarge, bytes) }
        do throws(JSONTextError) {
            var tokenizer = JSONTokenizer(bytes)
            let first = try tokenizer.next()
            try tokenizer.skip(first)
            _ = try tokenizer.next()
            if first == .null, kind == .bodyMetadata { return }
            guard first == .beginObject else { return reject(kind, .notAnObject, bytes) }
            sources.append(Source(kind: kind, json: Array(bytes)))
            result.status = max(result.status, .ok)
        } catch {
            reject(kind, error.code == .tooDeep ? .tooLarge : .malformed, bytes)
        }
    }

    /// The body's `user`: the JSON text of its value.
    package mutating func addUser(_ json: [UInt8]) {
        guard let first = json.first, json.count <= maxSize else { return }
        // OpenAI documents a string; other plain values are taken as they stand, null and containers are not a user.
        if first == UInt8(ascii: "{") || first == UInt8(ascii: "[") || first == UInt8(ascii: "n") { return }
        let object = Array("{\"_user\":".utf8) + json + [UInt8(ascii: "}")]
        object.withUnsafeBytes { add(.bodyUser, $0) }
    }

    /// One pair that came in a header of its own: text in UTF-8, not JSON. All of them together are one source's size.
    package mutating func addPair(_ kind: MetadataSources, _ name: Span<UInt8>, _ value: Span<UInt8>) {
        pairsSize += name.count + value.count
        value.withUnsafeBytes { value in
            guard pairsSize <= maxSize else { return reject(kind, .tooLarge, value) }
            var json = Array("{".utf8)
            name.withUnsafeBytes { appendQuoted($0, to: &json) }
            json.append(UInt8(ascii: ":"))
            appendQuoted(value, to: &json)
            json.append(UInt8(ascii: "}"))
            add(kind, json, blaming: value)
        }
    }

    /// `x-litellm-tags`: words separated by commas, as the list `tags`.
    package mutating func addTags(_ value: Span<UInt8>) {
        value.withUnsafeBytes { value in
            var json = Array("{\"tags\":[".utf8)
            let tags = value.split(separator: UInt8(ascii: ",")).map { tag in
                tag.drop { $0 == 0x20 || $0 == 0x09 }
            }
            var isFirst = true
            for tag in tags {
                var end = tag.endIndex
                while end > tag.startIndex, tag[end - 1] == 0x20 || tag[end - 1] == 0x09 { end -= 1 }
                if end == tag.startIndex { continue }
                if !isFirst { json.append(UInt8(ascii: ",")) }
                isFirst = false
                appendQuoted(UnsafeRawBufferPointer(rebasing: tag[tag.startIndex..<end]), to: &json)
            }
            if isFirst { return }
            json += Array("]}".utf8)
            if value.count > maxSize { reject(.liteLLM, .tooLarge, value) } else { add(.liteLLM, json, blaming: value) }
        }
    }

    /// JSON of our own making from a header's bytes: where it does not parse, those bytes were no UTF-8.
    private mutating func add(_ kind: MetadataSources, _ json: [UInt8], blaming value: UnsafeRawBufferPointer) {
        let parses = json.withUnsafeBytes { bytes in
            do throws(JSONTextError) {
                var tokenizer = JSONTokenizer(bytes)
                try tokenizer.skip(try tokenizer.next())
                return true
            } catch {
                return false
            }
        }
        guard parses else { return reject(kind, .malformed, value) }
        sources.append(Source(kind: kind, json: json))
        result.status = max(result.status, .ok)
    }

    /// Control bytes do not come in headers.
    private func appendQuoted(_ text: UnsafeRawBufferPointer, to out: inout [UInt8]) {
        out.append(UInt8(ascii: "\""))
        for byte in text {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"):
                out.append(UInt8(ascii: "\\"))
                out.append(byte)
            case 0x09: out += Array("\\t".utf8)
            default: out.append(byte)
            }
        }
        out.append(UInt8(ascii: "\""))
    }

    /// The body's `metadata` was larger than the scanner keeps.
    package mutating func addTooLarge(_ kind: MetadataSources) {
        reject(kind, .tooLarge, UnsafeRawBufferPointer(start: nil, count: 0))
    }

    private mutating func reject(_ kind: MetadataSources, _ status: MetadataStatus, _ bytes: UnsafeRawBufferPointer) {
        result.sources.formUnion(kind)
        guard status > result.status || result.rejected.isEmpty else { return }
        result.status = max(result.status, status)
        result.rejected = Array(bytes.prefix(EventLimits.rejectedMetadataSize))
    }

    /// The merge of everything added since `reset`.
    package mutating func finish() -> CapturedMetadata {
        for source in sources { result.sources.formUnion(source.kind) }
        if sources.count == 1 {
            result.raw = sources[0].json
        } else if sources.count > 1 {
            // Stable: two headers of one name keep their order.
            let ordered = sources.enumerated().sorted {
                ($0.element.kind.rawValue, $0.offset) < ($1.element.kind.rawValue, $1.offset)
            }
            merge(ordered.map(\.element.json))
        }
        return result
    }

    private mutating func merge(_ objects: [[UInt8]]) {
        var taken = Set<[UInt8]>()
        var out: [UInt8] = [UInt8(ascii: "{")]
        for object in objects {
            var added: [[UInt8]] = []
            object.withUnsafeBytes { bytes in
                do throws(JSONTextError) {
                    var tokenizer = JSONTokenizer(bytes)
                    _ = try tokenizer.next()
                    while case .key(let key) = try tokenizer.next() {
                        var name: [UInt8] = []
                        JSONStrings.appendUnescaped(UnsafeRawBufferPointer(rebasing: bytes[key.range]), to: &name)
                        let value = try tokenizer.next()
                        try tokenizer.skip(value)
                        if taken.contains(name) {
                            result.conflicts += 1
                            continue
                        }
                        added.append(name)
                        if out.count > 1 { out.append(UInt8(ascii: ",")) }
                        // From the key's opening quote to the end of its value, as the client wrote it.
                        out.append(contentsOf: bytes[(key.range.lowerBound - 1)..<tokenizer.position])
                    }
                } catch {
                    // Each object was read whole by `add`: a second reading of the same bytes cannot fail.
                    assertionFailure("\(error)")
                }
            }
            taken.formUnion(added)
        }
        out.append(UInt8(ascii: "}"))
        result.raw = out
    }
}
