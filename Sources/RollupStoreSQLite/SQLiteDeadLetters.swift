// The embedded store's dead letters -> lists, bytes and marks, each on a connection of its own: a cold path.

package import Events
import RecordLog
package import RollupStore

extension SQLiteRollupStore {
    package var deadLetters: SQLiteDeadLetters { SQLiteDeadLetters(path: path) }
}

package struct SQLiteDeadLetters: DeadLetterArchive {
    let path: String

    private static let columns =
        "topic, partition, source_offset, time_us, code, reason, length(key), length(value), redriven_us"

    package func list(_ filter: DeadLetterFilter) throws(RollupStoreError) -> [FiledDeadLetter] {
        var conditions = ["1"]
        if filter.code != nil { conditions.append("code = ?1") }
        if filter.from != nil { conditions.append("time_us >= ?2") }
        if filter.to != nil { conditions.append("time_us < ?3") }
        if filter.topic != nil { conditions.append("topic = ?4") }
        if filter.partition != nil { conditions.append("partition = ?5") }
        if filter.offset != nil { conditions.append("source_offset = ?6") }
        if let isMarked = filter.isMarked { conditions.append("(redriven_us IS NOT NULL) = \(isMarked ? 1 : 0)") }
        let connection = try Connection(path: path, access: .read)
        let rows = try connection.statement(
            "SELECT \(Self.columns) FROM dead_letters WHERE \(conditions.joined(separator: " AND ")) "
                + "ORDER BY time_us DESC, topic DESC, partition DESC, source_offset DESC LIMIT ?7")
        if let code = filter.code { rows.bind(1, copying: code) }
        if let from = filter.from { rows.bind(2, from.microseconds) }
        if let to = filter.to { rows.bind(3, to.microseconds) }
        if let topic = filter.topic { rows.bind(4, copying: topic) }
        if let partition = filter.partition { rows.bind(5, Int64(partition)) }
        if let offset = filter.offset { rows.bind(6, offset.value) }
        rows.bind(7, Int64(filter.limit))
        defer { rows.reset() }
        var all: [FiledDeadLetter] = []
        while try rows.step() { all.append(Self.letter(rows)) }
        return all
    }

    package func find(
        _ source: RecordSource
    ) throws(RollupStoreError) -> (letter: FiledDeadLetter, key: [UInt8], value: [UInt8])? {
        let connection = try Connection(path: path, access: .read)
        let rows = try connection.statement(
            "SELECT \(Self.columns), key, value FROM dead_letters "
                + "WHERE topic = ?1 AND partition = ?2 AND source_offset = ?3")
        Self.bind(source, to: rows)
        defer { rows.reset() }
        guard try rows.step() else { return nil }
        return (Self.letter(rows), Array(rows.bytes(9)), Array(rows.bytes(10)))
    }

    package func markRedriven(_ sources: [RecordSource], at time: EventTime) throws(RollupStoreError) {
        let connection = try Connection(path: path, access: .write)
        try connection.execute("BEGIN IMMEDIATE")
        let statement = try connection.statement(
            "UPDATE dead_letters SET redriven_us = ?4 WHERE topic = ?1 AND partition = ?2 AND source_offset = ?3")
        // The record is on its way again, and counts anew when it comes.
        let takeOff = try connection.statement(
            """
            UPDATE proxy_minutes SET dead_lettered = dead_lettered - 1, changed_us = ?4
            WHERE (minute_us, proxy, topic, partition) IN (
                SELECT minute_us, proxy, topic, partition FROM dead_letters
                WHERE topic = ?1 AND partition = ?2 AND source_offset = ?3
                    AND coalesce(redriven_us, -1) < 0)
            """)
        for source in sources {
            Self.bind(source, to: takeOff)
            takeOff.bind(4, time.microseconds)
            try takeOff.run()
            Self.bind(source, to: statement)
            statement.bind(4, time.microseconds)
            try statement.run()
        }
        try connection.execute("COMMIT")
    }

    package func markDiscarded(_ sources: [RecordSource], at time: EventTime) throws(RollupStoreError) {
        let connection = try Connection(path: path, access: .write)
        try connection.execute("BEGIN IMMEDIATE")
        let statement = try connection.statement(
            """
            UPDATE dead_letters SET redriven_us = ?4
            WHERE topic = ?1 AND partition = ?2 AND source_offset = ?3 AND redriven_us IS NULL
            """)
        for source in sources {
            Self.bind(source, to: statement)
            statement.bind(4, -time.microseconds)
            try statement.run()
        }
        try connection.execute("COMMIT")
    }

    private static func bind(_ source: RecordSource, to statement: Statement) {
        statement.bind(1, copying: source.partition.topic)
        statement.bind(2, Int64(source.partition.partition))
        statement.bind(3, source.offset.value)
    }

    private static func letter(_ row: Statement) -> FiledDeadLetter {
        let partition = TopicPartition(topic: row.text(0), partition: Int32(truncatingIfNeeded: row.integer(1)))
        return FiledDeadLetter(
            source: RecordSource(partition: partition, offset: Offset(row.integer(2))),
            time: EventTime(microseconds: row.integer(3)), code: row.text(4), reason: row.text(5),
            keySize: row.integer(6), valueSize: row.integer(7),
            mark: row.optionalInteger(8).map { DeadLetterMark(stored: $0) })
    }
}
