// What normalization yields: canonical pairs, split by the class of their keys.

package import Events

/// What a metadata key is, which decides where its values are kept.
package enum KeyClass: UInt8, Sendable, CaseIterable {
    /// Part of the metadata set of every rollup row.
    case dimension = 0
    /// Many values: rollups of its own by hour and day, and with the events.
    case entity = 1
    /// About unique per request: on events only, in their index.
    case identifier = 2

    package var name: String {
        switch self {
        case .dimension: "dimension"
        case .entity: "entity"
        case .identifier: "identifier"
        }
    }
}

/// The outcome of normalizing one event's raw metadata.
package struct NormalizedMetadata: Sendable, Equatable {
    /// The canonical combination of the dimension keys: compact JSON text of one object, keys in byte order, each
    /// value a string, or a sorted list of strings for a multi-valued key. Without dimension keys `{}`.
    package var set: [UInt8]
    /// The pairs of every other class, in the same form; `{}` where there are none.
    package var extra: [UInt8]
    /// The event's status, worsened to `truncated` where a limit cut.
    package var status: MetadataStatus
    /// Pairs lost because two raw keys met on one canonical key.
    package var conflicts: UInt32

    package init(set: [UInt8], extra: [UInt8], status: MetadataStatus, conflicts: UInt32) {
        self.set = set
        self.extra = extra
        self.status = status
        self.conflicts = conflicts
    }
}
