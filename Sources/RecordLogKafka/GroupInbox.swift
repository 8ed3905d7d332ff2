// What a consumer group decides: librdkafka's rebalance callback -> the reader, which answers it in its own time.
//
// The callback only notes what is asked. The client then waits (and keeps its membership) until the reader answers with
// an assignment: for partitions given, the empty one at first, since where to start is in the store; for partitions
// taken away, once what was read of them is applied.

import CRDKafka
import Synchronization

final class GroupInbox: Sendable {
    enum Change: Equatable, Sendable {
        case assigned([Int32])
        /// `isLost`: others may have them already.
        case revoked([Int32], isLost: Bool)
    }

    private let changes = Mutex<[Change]>([])
    private let number: Int

    private struct Registry {
        var last = 0
        var inboxes: [Int: GroupInbox] = [:]
    }
    /// The callback's context is a number, so that a call after the reader's end finds nothing instead of a dead object.
    private static let registry = Mutex(Registry())

    init() {
        number = Self.registry.withLock {
            $0.last += 1
            return $0.last
        }
        Self.registry.withLock { $0.inboxes[number] = self }
    }

    /// From here on the callback answers by itself: everything is given back.
    func retire() { Self.registry.withLock { $0.inboxes[number] = nil } }

    func take() -> [Change] {
        changes.withLock { changes in
            defer { changes = [] }
            return changes
        }
    }

    func listen(_ configuration: OpaquePointer) {
        rd_kafka_conf_set_opaque(configuration, UnsafeMutableRawPointer(bitPattern: number))
        rd_kafka_conf_set_rebalance_cb(configuration) { client, code, list, context in
            let inbox = GroupInbox.registry.withLock { $0.inboxes[Int(bitPattern: context)] }
            let partitions = list.map { list in
                UnsafeBufferPointer(start: list.pointee.elems, count: Int(list.pointee.cnt)).map(\.partition)
            }
            switch (inbox, code) {
            case (let inbox?, RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS):
                inbox.add(.assigned(partitions ?? []))
            case (let inbox?, RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS):
                inbox.add(.revoked(partitions ?? [], isLost: rd_kafka_assignment_lost(client) != 0))
            default:
                GroupInbox.giveBack(client, list)
            }
        }
    }

    private func add(_ change: Change) { changes.withLock { $0.append(change) } }

    private static func giveBack(
        _ client: OpaquePointer?, _ list: UnsafeMutablePointer<rd_kafka_topic_partition_list_t>?
    ) {
        guard isCooperative(client) else {
            rd_kafka_assign(client, nil)
            return
        }
        var current: UnsafeMutablePointer<rd_kafka_topic_partition_list_t>?
        guard rd_kafka_assignment(client, &current) == RD_KAFKA_RESP_ERR_NO_ERROR, let current else { return }
        defer { rd_kafka_topic_partition_list_destroy(current) }
        if let error = rd_kafka_incremental_unassign(client, current) { rd_kafka_error_destroy(error) }
    }

    static func isCooperative(_ client: OpaquePointer?) -> Bool {
        rd_kafka_rebalance_protocol(client).map { String(cString: $0) } == "COOPERATIVE"
    }
}
