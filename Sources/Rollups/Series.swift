// A series: one combination of all dimensions. Rollup rows and stored events name it by a number.

package import Events

extension SeriesKey {
    /// By a hash of all of its bytes at once: series are looked up once a batch and store.
    package func hash(into hasher: inout Hasher) {
        var hash = Hash()
        hash.combine(workspace)
        hash.combine(apiKey)
        hash.combine(provider)
        hash.combine(operation)
        hash.combine(model)
        set.withUnsafeBytes { hash.combine($0) }
        hash.combine(UInt64(outcome.rawValue) << 8 | UInt64(statusClass))
        hasher.combine(hash.state)
    }
}

/// The dimensions of a rollup row.
package struct SeriesKey: Hashable, Sendable {
    package var workspace: String
    package var apiKey: String
    package var provider: String
    package var operation: String
    package var model: String
    package var outcome: Outcome
    /// The hundreds of the HTTP status: 2 for `2xx`; 0 where none was sent.
    package var statusClass: UInt8
    /// The metadata set: `NormalizedMetadata.set`.
    package var set: [UInt8]

    package init(
        workspace: String, apiKey: String, provider: String, operation: String, model: String, outcome: Outcome,
        statusClass: UInt8, set: [UInt8]
    ) {
        self.workspace = workspace
        self.apiKey = apiKey
        self.provider = provider
        self.operation = operation
        self.model = model
        self.outcome = outcome
        self.statusClass = statusClass
        self.set = set
    }
}
