// The server's dead letters -> lists, bytes and marks: a connection a call, since calls are rare.

package import Events
import RecordLog
package import RollupStore

package struct PostgreSQLDeadLetters: DeadLetterArchive {
    private let address: ServerAddress

    init(_ address: ServerAddress) { self.address = address }

    private static let columns =
        "topic, partition, source_offset, time_us, code, reason, length(key), length(value), redriven_us"

    package func list(_ filter: DeadLetterFilter) throws(RollupStoreError) -> [FiledDeadLetter] {
        var conditions = ["true"]
        var parameters = Parameters()
        func place(_ type: String) -> String { "$\(parameters.count + 1)::\(type)" }
        if let code = filter.code {
            conditions.append("code = \(place("text"))")
            parameters.add(Array(code.utf8))
        }
        if let from = filter.from {
            conditions.append("time_us >= \(place("bigint"))")
            parameters.add(from.microseconds)
        }
        if let to = filter.to {
            conditions.append("time_us < \(place("bigint"))")
            parameters.add(to.microseconds)
        }
        if let topic = filter.topic {
            conditions.append("topic = \(place("text"))")
            parameters.add(Array(topic.utf8))
        }
        if let partition = filter.partition {
            conditions.append("partition = \(place("integer"))")
            parameters.add(partition)
        }
        if let offset = filter.offset {
            conditions.append("source_offset = \(place("bigint"))")
            parameters.add(offset.value)
        }
        if let isMarked = filter.isMarked {
            conditions.append("redriven_us IS \(isMarked ? "NOT NULL" : "NULL")")
        }
        let limit = place("bigint")
        parameters.add(Int64(filter.limit))
        do throws(ServerFailure) {
            let rows = try PostgreSQLRollupStore.connect(address, .read).query(
                """
                SELECT \(Self.columns) FROM dead_letters WHERE \(conditions.joined(separator: " AND "))
                ORDER BY time_us DESC, topic DESC, partition DESC, source_offset DESC LIMIT \(limit)
                """, parameters)
            return (0..<rows.count).map { Self.letter(rows, $0) }
        } catch {
            throw error.error
        }
    }

    package func find(
        _ source: RecordSource
    ) throws(RollupStoreError) -> (letter: FiledDeadLetter, key: [UInt8], value: [UInt8])? {
        do throws(ServerFailure) {
            let rows = try PostgreSQLRollupStore.connect(address, .read).query(
                "SELECT \(Self.columns), key, value FROM dead_letters WHERE \(Self.isSource)", Self.parameters(source))
            if rows.count == 0 { return nil }
            return (Self.letter(rows, 0), Array(rows.bytes(0, 9)), Array(rows.bytes(0, 10)))
        } catch {
            throw error.error
        }
    }

    package func markRedriven(_ sources: [RecordSource], at time: EventTime) throws(RollupStoreError) {
        do throws(ServerFailure) {
            let connection = try PostgreSQLRollupStore.connect(address, .write)
            try connection.execute("BEGIN")
            for source in sources {
                var parameters = Self.parameters(source)
                parameters.add(time.microseconds)
                // The record is on its way again, and counts anew when it comes.
                _ = try connection.query(
                    """
                    UPDATE proxy_minutes SET dead_lettered = dead_lettered - 1, changed_us = $4::bigint
                    WHERE (minute_us, proxy, topic, partition) IN (
                        SELECT minute_us, proxy, topic, partition FROM dead_letters
                        WHERE \(Self.isSource) AND coalesce(redriven_us, -1) < 0)
                    """, parameters)
                _ = try connection.query(
                    "UPDATE dead_letters SET redriven_us = $4::bigint WHERE \(Self.isSource)", parameters)
            }
            try connection.execute("COMMIT")
        } catch {
            throw error.error
        }
    }

    package func markDiscarded(_ sources: [RecordSource], at time: EventTime) throws(RollupStoreError) {
        do throws(ServerFailure) {
            let connection = try PostgreSQLRollupStore.connect(address, .write)
            try connection.execute("BEGIN")
            for source in sources {
                var parameters = Self.parameters(source)
                parameters.add(-time.microseconds)
                _ = try connection.query(
                    "UPDATE dead_letters SET redriven_us = $4::bigint WHERE \(Self.isSource) AND redriven_us IS NULL",
                    parameters)
            }
            try connection.execute("COMMIT")
        } catch {
            throw error.error
        }
    }

    private static let isSource = "topic = $1::text AND partition = $2::integer AND source_offset = $3::bigint"

    private static func parameters(_ source: RecordSource) -> Parameters {
        var parameters = Parameters()
        parameters.add(Array(source.partition.topic.utf8))
        parameters.add(source.partition.partition)
        parameters.add(source.offset.value)
        return parameters
    }

    private static func letter(_ rows: Rows, _ row: Int) -> FiledDeadLetter {
        let partition = TopicPartition(
            topic: rows.text(row, 0), partition: Int32(truncatingIfNeeded: rows.integer(row, 1)))
        return FiledDeadLetter(
            source: RecordSource(partition: partition, offset: Offset(rows.integer(row, 2))),
            time: EventTime(microseconds: rows.integer(row, 3)), code: rows.text(row, 4), reason: rows.text(row, 5),
            keySize: rows.integer(row, 6), valueSize: rows.integer(row, 7),
            mark: rows.optionalInteger(row, 8).map { DeadLetterMark(stored: $0) })
    }
}
