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

    private struct State {
        var changes: [Change] = []
        var isRetired = false
        var hasBeenAssigned = false
    }
    private let state = Mutex(State())
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

    /// From here on the callback answers by itself: nothing is taken, everything is given back.
    func retire() { state.withLock { $0.isRetired = true } }

    /// The client is gone.
    func remove() { Self.registry.withLock { $0.inboxes[number] = nil } }

    /// The group has given this member partitions, or none, at least once.
    var hasBeenAssigned: Bool { state.withLock { $0.hasBeenAssigned } }

    func take() -> [Change] {
        state.withLock { state in
            defer { state.changes = [] }
            return state.changes
        }
    }

    func listen(_ configuration: OpaquePointer) {
        rd_kafka_conf_set_opaque(configuration, UnsafeMutableRawPointer(bitPattern: number))
        rd_kafka_conf_set_rebalance_cb(configuration) { client, code, list, context in
            let inbox = GroupInbox.registry.withLock { $0.inboxes[Int(bitPattern: context)] }
            let partitions = list.map { list in
                UnsafeBufferPointer(start: list.pointee.elems, count: Int(list.pointee.cnt)).map(\.partition)
            }
            let isNoted =
                switch code {
                case RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS: inbox?.note(.assigned(partitions ?? [])) ?? false
                case RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS:
                    inbox?.note(.revoked(partitions ?? [], isLost: rd_kafka_assignment_lost(client) != 0)) ?? false
                default: false
                }
            if !isNoted { GroupInbox.decline(client, isAssignment: code == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) }
        }
    }

    /// False where nobody will answer any more.
    private func note(_ change: Change) -> Bool {
        state.withLock { state in
            if case .assigned = change { state.hasBeenAssigned = true }
            if !state.isRetired { state.changes.append(change) }
            return !state.isRetired
        }
    }

    private static func decline(_ client: OpaquePointer?, isAssignment: Bool) {
        guard isCooperative(client) else {
            rd_kafka_assign(client, nil)
            return
        }
        if isAssignment {
            guard let nothing = rd_kafka_topic_partition_list_new(0) else { return }
            defer { rd_kafka_topic_partition_list_destroy(nothing) }
            if let error = rd_kafka_incremental_assign(client, nothing) { rd_kafka_error_destroy(error) }
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
