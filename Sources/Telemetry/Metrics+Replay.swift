// Replays as the store has them, read when they are scraped.

package struct ReplayMetrics: Sendable {
    package struct Row: Sendable {
        package var id: Int64
        package var state: String
        package var isUnfinished: Bool
        package var scanned: Int64
        package var total: Int64
        /// Of the log, where it is read.
        package var partitions: [(name: String, read: Int64, total: Int64)]

        package init(
            id: Int64, state: String, isUnfinished: Bool, scanned: Int64, total: Int64,
            partitions: [(name: String, read: Int64, total: Int64)] = []
        ) {
            self.id = id
            self.state = state
            self.isUnfinished = isUnfinished
            self.scanned = scanned
            self.total = total
            self.partitions = partitions
        }
    }

    private let read: @Sendable () -> [Row]

    /// - `read`: no rows while the store cannot be read.
    package init(_ read: @escaping @Sendable () -> [Row]) { self.read = read }

    package var all: [Metric] {
        [
            Metric(
                "millrace_replays", "Replays by how they stand; no rows while the store cannot be read.",
                rowLabels: ["state"],
                .gauges { [read] in
                    Dictionary(read().map { ($0.state, 1) }, uniquingKeysWith: +).sorted { $0.key < $1.key }
                        .map { ([("state", $0.key)], $0.value) }
                }),
            Metric(
                "millrace_replay_scanned_events", "Events that an unfinished replay has counted anew.",
                rowLabels: ["replay"], .gauges { [read] in Self.unfinished(read()) { $0.scanned } }),
            Metric(
                "millrace_replay_expected_events", "Events that an unfinished replay found when it began.",
                rowLabels: ["replay"], .gauges { [read] in Self.unfinished(read()) { $0.total } }),
            Metric(
                "millrace_replay_read_records", "Records of the log that an unfinished replay has read.",
                rowLabels: ["replay", "partition"], .gauges { [read] in Self.partitions(read()) { $0.read } }),
            Metric(
                "millrace_replay_expected_records", "Records of the log that an unfinished replay reads.",
                rowLabels: ["replay", "partition"], .gauges { [read] in Self.partitions(read()) { $0.total } }),
        ]
    }

    private static func partitions(
        _ rows: [Row], _ value: ((name: String, read: Int64, total: Int64)) -> Int64
    ) -> [(labels: [(String, String)], value: Int64)] {
        rows.filter(\.isUnfinished).flatMap { row in
            row.partitions.map { ([("replay", "\(row.id)"), ("partition", $0.name)], value($0)) }
        }
    }

    private static func unfinished(
        _ rows: [Row], _ value: (Row) -> Int64
    ) -> [(labels: [(String, String)], value: Int64)] {
        rows.filter(\.isUnfinished).map { ([("replay", "\($0.id)")], value($0)) }
    }
}
