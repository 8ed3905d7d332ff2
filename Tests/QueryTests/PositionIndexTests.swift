// Ids as stores give them, and as none does: each is found at its place, and no other is.

import Testing

@testable import Queries

@Suite struct PositionIndexTests {
    static let lists: [(name: String, ids: [Int64])] = [
        ("none", []), ("one", [7]), ("both ends", [.min, 0, .max]), ("close together", Array(100..<5_000)),
        ("every third", Array(stride(from: -300, to: 30_000, by: 3))),
        ("of one workspace among many", (0..<2_000).map { $0 * $0 * 37 }),
        // As ClickHouse's: the number of a batch above, a place below.
        ("by batches", (1...40).flatMap { batch in (0..<Int64(batch)).map { Int64(batch * batch) << 20 | $0 } }),
        ("two far clusters", Array(1...500) + Array(1 << 60..<(1 << 60) + 500)),
    ]

    @Test("Every id is found at its position, and no other", arguments: lists.map(\.name))
    func finds(_ name: String) throws {
        let ids = try #require(Self.lists.first { $0.name == name }).ids
        let (index, known) = (PositionIndex(ids), Set(ids))
        for (position, id) in ids.enumerated() {
            #expect(index.position(of: id, in: ids) == position)
            for other in [id &- 1, id &+ 1] where !known.contains(other) {
                #expect(index.position(of: other, in: ids) == nil)
            }
        }
        for other in [Int64.min, -1, 0, 1 << 40, .max] where !known.contains(other) {
            #expect(index.position(of: other, in: ids) == nil)
        }
    }
}
