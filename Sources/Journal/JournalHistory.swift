// The journal as who reads the past again needs it: where its lanes begin, and a second reader.

package import RecordLog
package import Telemetry

package struct JournalHistory: RecordLogHistory {
    private let directory: String
    private let log: Log
    private let metrics: JournalMetrics

    package init(directory: String, log: Log, metrics: JournalMetrics) {
        self.directory = directory
        self.log = log
        self.metrics = metrics
    }

    /// Frames have no time of their own.
    package func beginnings() throws(RecordLogError) -> [LogBeginning] {
        LaneDirectory.all(in: directory).map {
            LogBeginning(partition: $0.topicPartition, first: Offset($0.firstSequence ?? 0), time: nil)
        }
    }

    package func reader() throws(RecordLogError) -> any RecordLogReader {
        JournalLogReader(directory: directory, log: log, metrics: metrics, movesCheckpoints: false)
    }
}
