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
/// `metadata`, body `user`. The first source that has a key wins; of the statuses the worst stands.
package struct MetadataReader: Sendable {
    private struct Source {
        var kind: MetadataSources
        var json: [UInt8]
    }

    private let maxSize: Int
    private var sources: [Source] = []
    private var result = CapturedMetadata()

    /// `maxSize`: bytes of one source beyond which it is `too_large`.
    package init(maxSize: Int) { self.maxSize = maxSize }

    package mutating func reset() {
        sources.removeAll(keepingCapacity: true)
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
