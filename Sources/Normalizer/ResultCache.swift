// Raw metadata that comes again and again -> what normalization made of it.
//
// Each text has one place, by its hash. It is kept there once it was asked for twice without another text of that place in
// between: so what never comes again costs a hash, is not kept, and puts nothing out that does.

import Events

struct ResultCache: Sendable {
    /// | limit | value | why | at the limit |
    /// | --- | --- | --- | --- |
    /// | places | 4,096 | a service sends few different ones | texts of one place are worked out by turns |
    /// | kept | 8 MiB | raw texts and results | all begins anew |
    /// | raw size | 2,048 bytes | longer ones hardly come twice | not kept |
    private static let places = 4_096
    private static let sizeKept = 8 << 20
    private static let rawSizeKept = 2_048

    private struct Entry {
        var raw: [UInt8]
        var result: NormalizedMetadata

        var size: Int { raw.count + result.set.count + result.extra.count }
    }

    private var entries: [Entry?] = []
    /// By place: the hash of what was asked for last and was not there.
    private var asked: [UInt64] = []
    private var size = 0
    /// Of the last question that found nothing: its place, where the answer is to be kept.
    private var wanted: Int?
    private(set) var hits = 0
    private(set) var misses = 0

    mutating func find(_ raw: UnsafeRawBufferPointer) -> NormalizedMetadata? {
        wanted = nil
        guard raw.count <= Self.rawSizeKept else {
            misses += 1
            return nil
        }
        if entries.isEmpty {
            entries = [Entry?](repeating: nil, count: Self.places)
            asked = [UInt64](repeating: 0, count: Self.places)
        }
        var hash = Hash()
        hash.combine(raw)
        let place = Int(hash.state % UInt64(Self.places))
        if let entry = entries[place], entry.raw.withUnsafeBytes({ $0.isSame(as: raw) }) {
            hits += 1
            return entry.result
        }
        misses += 1
        if asked[place] == hash.state { wanted = place }
        asked[place] = hash.state
        return nil
    }

    /// What the last question that found nothing comes to.
    mutating func keep(_ raw: UnsafeRawBufferPointer, _ result: NormalizedMetadata) {
        guard let place = wanted else { return }
        let entry = Entry(raw: Array(raw), result: result)
        size += entry.size - (entries[place]?.size ?? 0)
        entries[place] = entry
        if size > Self.sizeKept {
            entries = []
            size = 0
        }
    }
}
