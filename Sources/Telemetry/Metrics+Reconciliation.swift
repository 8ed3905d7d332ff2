// The balance of the last day, read when it is scraped.

package struct ReconciliationMetrics: Sendable {
    private let read: @Sendable () -> (difference: Int64, inFlight: Int64)

    package init(_ read: @escaping @Sendable () -> (difference: Int64, inFlight: Int64)) { self.read = read }

    package var all: [Metric] {
        [
            Metric(
                "millrace_reconciliation_difference",
                "Records of the last day that are not accounted for: differences of all proxies and minutes, added up "
                    + "without their signs; -1 while the store cannot be read.",
                .gauge { [read] in read().difference }),
            Metric(
                "millrace_reconciliation_in_flight", "Records of the last day on their way into the store.",
                .gauge { [read] in read().inFlight }),
        ]
    }
}
