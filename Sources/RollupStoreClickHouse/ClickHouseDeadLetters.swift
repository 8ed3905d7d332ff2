// The server's dead letters -> lists, bytes and marks: a connection a call, since calls are rare.
//
// A letter is never changed: a mark is a row of its own, and comes to count as a batch does (ClickHouseRollupWriter.swift),
// so that reads that have begun do not see it.

package import Events
import RecordLog
package import RollupStore

package struct ClickHouseDeadLetters: DeadLetterArchive {
    private let store: ClickHouseRollupStore

    init(_ store: ClickHouseRollupStore) { self.store = store }

    /// Those that were sent again, and when last; and those that were discarded and never sent again, with minus the time.
    static func marked(_ state: StoreState) -> String {
        "SELECT topic, partition, source_offset, if(max(time_us) > 0, argMaxIf(time_us, number, time_us > 0), "
            + "argMax(time_us, number)) AS mark_us FROM redrives "
            + "WHERE \(state.condition) GROUP BY topic, partition, source_offset"
    }

    private static let columns = [
        "topic", "partition", "source_offset", "time_us", "code", "reason", "toInt64(length(key))",
        "toInt64(length(value))", "if(times = 0, NULL, mark_us)",
    ]

    private static func from(_ state: StoreState) -> String {
        "FROM dead_letters LEFT JOIN (SELECT *, toUInt8(1) AS times FROM (\(marked(state)))) AS sent "
            + "USING (topic, partition, source_offset) WHERE \(state.condition)"
    }

    package func list(_ filter: DeadLetterFilter) throws(RollupStoreError) -> [FiledDeadLetter] {
        let connection = try store.connect()
        guard let state = try CommitLog.latest(connection)?.state else { throw CommitLog.missing }
        var conditions = ""
        var parameters: [(name: String, value: String)] = []
        func add(_ condition: String, _ name: String, _ value: String?) {
            guard let value else { return }
            conditions += " AND \(condition)"
            parameters.append((name, value))
        }
        add("code = unhex({code:String})", "code", filter.code.map(Self.digits))
        add("time_us >= {from:Int64}", "from", filter.from.map { "\($0.microseconds)" })
        add("time_us < {to:Int64}", "to", filter.to.map { "\($0.microseconds)" })
        add("topic = unhex({topic:String})", "topic", filter.topic.map(Self.digits))
        add("partition = {partition:Int32}", "partition", filter.partition.map { "\($0)" })
        add("source_offset = {offset:Int64}", "offset", filter.offset.map { "\($0.value)" })
        if let isMarked = filter.isMarked { conditions += " AND times = \(isMarked ? 1 : 0)" }
        var answer = try connection.select(
            Self.columns,
            "\(Self.from(state))\(conditions) ORDER BY time_us DESC, topic DESC, partition DESC, source_offset DESC "
                + "LIMIT \(filter.limit)", "list dead letters", parameters: parameters)
        var letters: [FiledDeadLetter] = []
        while try answer.next() { letters.append(try Self.letter(&answer)) }
        return letters
    }

    package func find(
        _ source: RecordSource
    ) throws(RollupStoreError) -> (letter: FiledDeadLetter, key: [UInt8], value: [UInt8])? {
        let connection = try store.connect()
        guard let state = try CommitLog.latest(connection)?.state else { throw CommitLog.missing }
        var answer = try connection.select(
            Self.columns + ["key", "value"],
            "\(Self.from(state)) AND topic = unhex({topic:String}) AND partition = {partition:Int32} "
                + "AND source_offset = {offset:Int64} LIMIT 1", "read a dead letter",
            parameters: [
                ("topic", Self.digits(source.partition.topic)), ("partition", "\(source.partition.partition)"),
                ("offset", "\(source.offset.value)"),
            ])
        guard try answer.next() else { return nil }
        return (try Self.letter(&answer), try answer.byteString(), try answer.byteString())
    }

    package func markRedriven(_ sources: [RecordSource], at time: EventTime) throws(RollupStoreError) {
        let writer = try store.makeWriter()
        defer { writer.close() }
        try writer.mark(sources, time.microseconds)
    }

    package func markDiscarded(_ sources: [RecordSource], at time: EventTime) throws(RollupStoreError) {
        let writer = try store.makeWriter()
        defer { writer.close() }
        // One that was sent again meanwhile stays so, whatever row comes after.
        var filter = DeadLetterFilter()
        filter.isMarked = false
        let waiting = Set(try list(filter).map(\.source))
        try writer.mark(sources.filter(waiting.contains), -time.microseconds)
    }

    /// As hexadecimal digits: the server reads escapes in a parameter's text.
    private static func digits(_ text: String) -> String {
        let symbols = Array("0123456789abcdef".utf8)
        return String(
            decoding: text.utf8.flatMap { [symbols[Int($0 >> 4)], symbols[Int($0 & 15)]] }, as: UTF8.self)
    }

    private static func letter(_ row: inout Answer) throws(RollupStoreError) -> FiledDeadLetter {
        let partition = TopicPartition(topic: try row.text(), partition: try row.integer())
        return FiledDeadLetter(
            source: RecordSource(partition: partition, offset: Offset(try row.integer())),
            time: EventTime(microseconds: try row.integer()), code: try row.text(), reason: try row.text(),
            keySize: try row.integer(), valueSize: try row.integer(),
            mark: try row.optionalInteger(Int64.self).map { DeadLetterMark(stored: $0) })
    }
}
