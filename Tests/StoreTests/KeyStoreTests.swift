// What every store promises about API keys.

import Access
import Events
import RecordLog
import RollupStore
import RollupStoreSQLite
import Testing
import Threading

@Suite struct KeyStoreTests {
    private func key(_ number: Int, created: Int64) -> AccessKey {
        AccessKey(
            id: "key_\(number)", digest: SHA256.digest(of: "mr_\(number)"), workspace: "größer ✓",
            scopes: number % 2 == 0 ? [.ingest] : [.query, .admin], name: number % 3 == 0 ? "" : "service '\(number)'",
            created: EventTime(microseconds: created))
    }

    @Test(arguments: StoreKind.allCases)
    func keysComeBackOldestFirst(_ kind: StoreKind) throws {
        let store = try kind.make()
        #expect(try store.keys.keys().isEmpty)
        let given = [key(3, created: 10), key(1, created: 20), key(2, created: 20)]
        for key in given.reversed() { try store.keys.add(key) }
        #expect(try store.keys.keys() == given)
    }

    @Test(arguments: StoreKind.allCases)
    func aKeyIsAddedOnce(_ kind: StoreKind) throws {
        let store = try kind.make()
        try store.keys.add(key(1, created: 1))
        var other = key(2, created: 1)
        other.id = "key_1"
        #expect(throws: RollupStoreError.self) { try store.keys.add(other) }
        other = key(2, created: 1)
        other.digest = key(1, created: 1).digest
        #expect(throws: RollupStoreError.self) { try store.keys.add(other) }
        #expect(try store.keys.keys() == [key(1, created: 1)])
    }

    @Test(arguments: StoreKind.allCases)
    func aRevocationStaysAsItWasFirst(_ kind: StoreKind) throws {
        let store = try kind.make()
        let given = [key(1, created: 1), key(2, created: 2)]
        for key in given { try store.keys.add(key) }
        var revoked = given[0]
        revoked.revoked = EventTime(microseconds: 77)
        #expect(try store.keys.revoke(id: "key_1", at: EventTime(microseconds: 77)) == revoked)
        #expect(try store.keys.revoke(id: "key_1", at: EventTime(microseconds: 99)) == revoked)
        #expect(try store.keys.revoke(id: "key_9", at: EventTime(microseconds: 99)) == nil)
        #expect(try store.keys.keys() == [revoked, given[1]])
    }

    @Test(arguments: StoreKind.allCases)
    func keysAreMadeWhileBatchesAreAppliedWithoutAPause(_ kind: StoreKind) throws {
        let store = try kind.make()
        let partition = TopicPartition(topic: "events", partition: 0)
        var maker = BatchMaker()
        var random = Random(seed: 5)
        var writer = try store.writer()
        _ = try writer.acquire([partition])
        let keys = store.keys
        let given = (0..<20).map { key($0, created: Int64($0)) }
        let done = StopSignal()
        let failures = BoundedQueue<String>(capacity: 10)
        let thread = ServiceThread("keys") {
            do {
                for key in given { try keys.add(key) }
            } catch {
                _ = failures.tryPush("\(error)")
            }
            done.stop()
        }
        var number: Int64 = 0
        while !done.isStopped {
            let samples = (0..<500).map { _ in Sample.random(&random) }
            _ = try writer.apply(
                try maker.batch([.init(partition: partition, first: number * 500, epoch: 1, samples: samples)]))
            number += 1
        }
        thread.join()
        #expect(failures.pop(timeoutMilliseconds: 0) == nil)
        #expect(try keys.keys() == given)
        writer.close()
    }

    @Test func anOlderStoreGetsTheTableOfKeys() throws {
        let store = try SQLiteUnderTest()
        try store.bringBack(to: 1)
        let again = try SQLiteRollupStore.open(path: store.store.path)
        try again.keys.add(key(1, created: 1))
        #expect(try store.keys.keys() == [key(1, created: 1)])
    }
}
