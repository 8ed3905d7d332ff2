// Every series that a store's reads have loaded, in memory. What loads them is the store's own.

import Normalizer
package import Rollups

/// Series by workspace and entity, ascending by id, each text once however many series share it.
package struct SeriesShelf: Sendable {
    private struct Place: Hashable {
        var workspace: String
        /// Of rollups by entity: the entity's key.
        var entity: String?
    }

    private var byPlace: [Place: [StoredSeries]] = [:]
    private var texts: Set<String> = []
    package private(set) var count = 0

    package init() {}

    /// Each id once. Ids may come a little out of order.
    package mutating func add(_ series: StoredSeries) {
        var key = series.key
        key.workspace = shared(key.workspace)
        key.apiKey = shared(key.apiKey)
        key.provider = shared(key.provider)
        key.operation = shared(key.operation)
        key.model = shared(key.model)
        let home = Place(workspace: key.workspace, entity: EntitySet.key(of: key.set).map { shared($0) })
        let place = Self.place(of: series.id, in: byPlace[home] ?? [])
        byPlace[home, default: []].insert(StoredSeries(id: series.id, key: key), at: place)
        count += 1
    }

    package func series(of workspace: String, entity: String?) -> [StoredSeries] {
        byPlace[Place(workspace: workspace, entity: entity)] ?? []
    }

    /// Whatever its workspace.
    package func key(of id: Int64) -> SeriesKey? {
        for known in byPlace.values {
            let place = Self.place(of: id, in: known)
            if place < known.count, known[place].id == id { return known[place].key }
        }
        return nil
    }

    private mutating func shared(_ text: String) -> String { texts.insert(text).memberAfterInsert }

    /// The first that is not below the id; at once where that is the end.
    private static func place(of id: Int64, in known: [StoredSeries]) -> Int {
        guard let last = known.last, last.id >= id else { return known.count }
        var (low, high) = (0, known.count)
        while low < high {
            let middle = (low + high) / 2
            if known[middle].id < id { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
