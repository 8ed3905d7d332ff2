// A topic as a stranger finds it, by a plain client: where its partitions end, and records deleted by hand.

import CRDKafka

struct KafkaTopic {
    let servers: String
    let name: String

    func end(of partition: Int32) throws -> Int64 {
        try withClient { client in
            var (low, high) = (Int64(-1), Int64(-1))
            let code = rd_kafka_query_watermark_offsets(client, name, partition, &low, &high, 20_000)
            guard code == RD_KAFKA_RESP_ERR_NO_ERROR else { throw ChildError(String(cString: rd_kafka_err2str(code))) }
            return high
        }
    }

    func deleteRecords(of partition: Int32, before offset: Int64) throws {
        try withClient { client in
            let list = rd_kafka_topic_partition_list_new(1)
            defer { rd_kafka_topic_partition_list_destroy(list) }
            rd_kafka_topic_partition_list_add(list, name, partition).pointee.offset = offset
            var request = rd_kafka_DeleteRecords_new(list)
            defer { rd_kafka_DeleteRecords_destroy(request) }
            let queue = rd_kafka_queue_new(client)
            defer { rd_kafka_queue_destroy(queue) }
            rd_kafka_DeleteRecords(client, &request, 1, nil, queue)
            guard let event = rd_kafka_queue_poll(queue, 20_000) else { throw ChildError("no answer from the broker") }
            defer { rd_kafka_event_destroy(event) }
            guard rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR_NO_ERROR else {
                throw ChildError(String(cString: rd_kafka_event_error_string(event)))
            }
        }
    }

    private func withClient<Answer>(_ body: (OpaquePointer) throws -> Answer) throws -> Answer {
        let configuration = rd_kafka_conf_new()
        rd_kafka_conf_set(configuration, "bootstrap.servers", servers, nil, 0)
        guard let client = rd_kafka_new(RD_KAFKA_PRODUCER, configuration, nil, 0) else {
            throw ChildError("no Kafka client")
        }
        defer { rd_kafka_destroy(client) }
        return try body(client)
    }
}
