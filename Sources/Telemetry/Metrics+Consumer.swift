// What the consumer counts. The whole table of its metrics stands in `all`: names with their units, and what they mean.
// Steps of a batch, in order: fold, wait, publish, apply; batch_age is the sum of them and of the waiting for records.

import Synchronization

/// Values by partition, such as the lag: replaced whole by the one thread that knows them.
package final class PartitionGauges: Sendable {
    private let rows = Mutex<[(topic: String, partition: Int32, value: Int64)]>([])
    package init() {}

    package func set(_ new: [(topic: String, partition: Int32, value: Int64)]) { rows.withLock { $0 = new } }

    package var values: [(labels: [(String, String)], value: Int64)] {
        rows.withLock { $0 }.map { ([("topic", $0.topic), ("partition", String($0.partition))], $0.value) }
    }
}

/// The rules timeline: from which event time on (UTC microseconds since 1970) which rules hold.
package final class RulesGauges: Sendable {
    private let rows = Mutex<[(fingerprint: String, from: Int64)]>([])
    package init() {}

    package func set(_ new: [(fingerprint: String, from: Int64)]) { rows.withLock { $0 = new } }

    package var values: [(labels: [(String, String)], value: Int64)] {
        // Rules may come back: the latest time of each.
        let latest = rows.withLock { Dictionary($0.map { ($0.fingerprint, $0.from) }) { max($0, $1) } }
        return latest.sorted { $0.key < $1.key }.map { ([("fingerprint", $0.key)], $0.value) }
    }
}

package struct ConsumerMetrics: Sendable {
    package let records = Counter()
    package let applied = Counter()
    package let duplicates = Counter()
    package let redelivered = Counter()
    package let manifests = Counter()
    package let skipped = Counter()
    package let lost = Counter()
    /// One for each code, in the order given.
    package let deadLetters: [(code: String, counter: Counter)]
    package let deadLettersRefused = Counter()
    package let batches = Counter()
    package let retries = Counter()
    package let degradedMicroseconds = Counter()
    package let degraded = Gauge()
    package let latest = Gauge()
    package let lag = PartitionGauges()
    package let lagSeconds = PartitionGauges()
    package let rules = RulesGauges()
    package let classesObserved = Counter()
    /// Events by the budget that was spent: `SetAdmission.Spent`.
    package let filed = ["sets", "values", "keys"].map { (budget: $0, counter: Counter()) }
    package let metadataRecalled = Counter()
    package let metadataNormalized = Counter()
    package let admitTime = DurationHistogram()
    package let observeTime = DurationHistogram()
    package let staleBatches = Counter()
    package let restarts = Counter()
    package let batchEvents = Counter()
    package let batchBytes = Counter()
    /// By the age that the events are older than.
    package let late: [(age: String, counter: Counter)]
    package let foldTime = DurationHistogram()
    package let waitTime = DurationHistogram()
    package let publishTime = DurationHistogram()
    package let applyTime = DurationHistogram()
    package let batchAge = DurationHistogram()
    package let expireTime = DurationHistogram()

    package init(deadLetterCodes: [String], lateAges: [String] = []) {
        deadLetters = deadLetterCodes.map { ($0, Counter()) }
        late = lateAges.map { ($0, Counter()) }
    }

    package func countLate(_ age: String, _ count: Int) {
        for (known, counter) in late where known == age { counter.add(count) }
    }

    package func countFiled(_ budget: String, _ count: Int) {
        for (known, counter) in filed where known == budget { counter.add(count) }
    }

    package func countDeadLetter(_ code: String) {
        for (known, counter) in deadLetters where known == code { counter.add() }
    }

    package var all: [Metric] {
        func counter(_ name: String, _ help: String, _ counter: Counter) -> Metric {
            Metric("millrace_consumer_\(name)_total", help, .counter { counter.value })
        }
        func duration(_ name: String, _ help: String, _ histogram: DurationHistogram) -> Metric {
            Metric("millrace_consumer_\(name)_seconds", help, .duration(histogram))
        }
        let letters = deadLetters.map { code, counter in
            Metric(
                "millrace_consumer_dead_letters_total", "Records that could not be applied for their own fault.",
                labels: [("code", code)], .counter { counter.value })
        }
        let ages = late.map { age, counter in
            Metric(
                "millrace_consumer_late_events_total", "Events older than this when they came; counted like any other.",
                labels: [("older_than", age)], .counter { counter.value })
        }
        let overflow = filed.map { budget, counter in
            Metric(
                "millrace_consumer_metadata_overflow_total",
                "Events with metadata filed under (other), by the workspace's budget that was spent.",
                labels: [("budget", budget)], .counter { counter.value })
        }
        let cache = [("hit", metadataRecalled), ("miss", metadataNormalized)].map { result, counter in
            Metric(
                "millrace_consumer_metadata_cache_total",
                "Events with metadata, by whether what it comes to was at hand.", labels: [("result", result)],
                .counter { counter.value })
        }
        return [
            counter("records", "Records read from the log.", records),
            counter("events_applied", "Events counted into the store.", applied),
            counter("duplicates", "Copies of events that the store already had.", duplicates),
            counter("redelivered", "Records that came again at offsets already taken.", redelivered),
            counter("manifests", "Manifests taken from the log.", manifests),
            counter("offsets_skipped", "Offsets that the log never had a record for, and tombstones.", skipped),
            counter("offsets_lost", "Offsets declared lost: the log dropped them before they were read.", lost),
            counter(
                "dead_letters_refused", "Dead letters that the dead-letter topic will never take; the store has them.",
                deadLettersRefused),
            counter("batches", "Batches applied.", batches),
            counter("apply_retries", "Attempts to apply a batch that the store could not take at the time.", retries),
            counter("degraded_microseconds", "Time during which batches waited for the store.", degradedMicroseconds),
            Metric(
                "millrace_consumer_degraded", "1 while something keeps records from the store.",
                .gauge { degraded.value }),
            Metric(
                "millrace_consumer_latest_event_microseconds", "Time of the latest event applied, UTC since 1970.",
                .gauge { latest.value }),
            counter(
                "classes_observed", "Metadata keys that got another class because they made the rollups too large.",
                classesObserved),
            counter("stale_batches", "Batches refused because another consumer had the partition.", staleBatches),
            counter("restarts", "Times that every partition was taken from the store anew.", restarts),
            counter("batch_events", "Events in the batches applied.", batchEvents),
            counter("batch_bytes", "Bytes of the events in the batches applied.", batchBytes),
            Metric(
                "millrace_consumer_lag_seconds", "Age of the oldest event in the log that is not applied yet.",
                rowLabels: ["topic", "partition"], .gauges { lagSeconds.values }),
            Metric(
                "millrace_consumer_lag_records", "Records in the log that are not applied yet.",
                rowLabels: ["topic", "partition"], .gauges { lag.values }),
            Metric(
                "millrace_consumer_rules_from_microseconds",
                "From which event time on these normalization rules hold, UTC since 1970; the greatest is in force.",
                rowLabels: ["fingerprint"], .gauges { rules.values }),
            duration("fold", "Decoding, normalizing and folding the records of one fetch.", foldTime),
            duration("wait", "From sealing a batch to its turn at the store.", waitTime),
            duration("publish", "Publishing the dead letters of one batch.", publishTime),
            duration("apply", "Applying one batch to the store.", applyTime),
            duration("batch_age", "From a batch's first record to its commit.", batchAge),
            duration("admit", "Holding one batch against the budgets of metadata.", admitTime),
            duration("observe", "Looking once at what metadata keys do to the rollups.", observeTime),
            duration("expire", "One step of deleting what is past its retention.", expireTime),
        ] + letters + ages + overflow + cache
    }
}
