// Keys with the store there, away, and back: against a store of the test's own.

import Access
import Events
import Glibc
import KeyKeeping
import RollupStore
import Synchronization
import Telemetry
import Testing
import Threading

private struct Filled: RandomNumberGenerator {
    private var drawn = 0

    mutating func next() -> UInt64 {
        drawn += 1
        return UInt64.random(in: .min ... .max)
    }
}

/// A store that can be taken away.
private final class FakeKeyStore: KeyStore {
    struct State {
        var keys: [AccessKey] = []
        var isAway = false
        var asked = 0
    }
    let state = Mutex(State())

    func add(_ key: AccessKey) { state.withLock { $0.keys.append(key) } }

    func keys() throws(RollupStoreError) -> [AccessKey] {
        let found = state.withLock { state in
            state.asked += 1
            return state.isAway ? nil : state.keys
        }
        guard let found else {
            throw RollupStoreError(code: .unavailable, tried: "read keys", reason: "away", next: "Wait.")
        }
        return found
    }

    func revoke(id: String, at time: EventTime) -> AccessKey? {
        state.withLock { state in
            guard let index = state.keys.firstIndex(where: { $0.id == id }) else { return nil }
            state.keys[index].revoked = time
            return state.keys[index]
        }
    }

    func setAway(_ isAway: Bool) { state.withLock { $0.isAway = isAway } }
}

@Suite struct KeyKeeperTests {
    private let path = "/tmp/millrace-keys-\(getpid())-\(UInt32.random(in: 0 ... .max)).json"
    private let store = FakeKeyStore()
    private let lines = Lines()

    private final class Lines: Sendable {
        let codes = Mutex<[String]>([])
    }

    private func keeper(period: Int = 5) -> KeyKeeper {
        let lines = lines
        let log = Log(role: "test", descriptor: open("/dev/null", O_WRONLY)) { line in
            lines.codes.withLock { $0.append(line.code) }
        }
        let store = store
        return KeyKeeper(snapshot: path, periodMilliseconds: period, log: log) { store }
    }

    private func key(_ number: Int) -> (key: AccessKey, text: String) {
        // Not the system's generator itself, which is empty: ThreadSanitizer looks at the address of what is passed inout.
        var random = Filled()
        return AccessKey.make(
            workspace: "w\(number)", scopes: [.ingest], name: "n", now: EventTime(microseconds: Int64(number)),
            using: &random)
    }

    private func isKnown(_ keeper: KeyKeeper, _ text: String) -> Bool {
        if case .known? = keeper.find(text) { true } else { false }
    }

    private func isRevoked(_ keeper: KeyKeeper, _ text: String) -> Bool {
        if case .revoked? = keeper.find(text) { true } else { false }
    }

    private func waitUntil(_ what: String, _ condition: () -> Bool) {
        let deadline = ContinuousClock.now.advanced(by: .seconds(20))
        let pause = StopSignal()
        while !condition() {
            if ContinuousClock.now > deadline {
                Issue.record("waited in vain until \(what)")
                return
            }
            _ = pause.wait(milliseconds: 1)
        }
    }

    @Test func aNewKeyIsKnownAndARevokedOneIsNot() {
        defer { unlink(path) }
        let (first, firstText) = key(1)
        store.add(first)
        let keeper = keeper()
        keeper.start()
        #expect(isKnown(keeper, firstText))
        #expect(!isKnown(keeper, firstText + "x"))
        #expect(!isKnown(keeper, ""))
        let seen = Mutex<[[AccessKey]]>([])
        keeper.observe { keys in
            seen.withLock { $0.append(keys) }
            return true
        }
        let (second, secondText) = key(2)
        store.add(second)
        waitUntil("the new key is known") { isKnown(keeper, secondText) }
        _ = store.revoke(id: first.id, at: EventTime(microseconds: 9))
        waitUntil("the old key is revoked") { isRevoked(keeper, firstText) }
        #expect(isKnown(keeper, secondText))
        keeper.stop()
        #expect(seen.withLock { $0.first } == [first])
        #expect(seen.withLock { $0.last?.map(\.id) } == [first.id, second.id])
        #expect(seen.withLock { $0.count } == 3)
    }

    @Test func whoCouldNotTakeARevocationIsToldAgainThoughNothingChanges() {
        defer { unlink(path) }
        let (first, _) = key(1)
        store.add(first)
        let keeper = keeper(period: 600_000)
        keeper.start()
        let seen = Mutex<[[AccessKey]]>([])
        let refused = Mutex(0)
        let refusals = Mutex(0)
        keeper.observe { keys in
            seen.withLock { $0.append(keys) }
            return refusals.withLock { left in
                guard left > 0 else { return true }
                left -= 1
                refused.withLock { $0 += 1 }
                return false
            }
        }
        // Another one, which takes all: it hears nothing twice.
        let others = Mutex(0)
        keeper.observe { _ in
            others.withLock { $0 += 1 }
            return true
        }
        refusals.withLock { $0 = 3 }
        _ = store.revoke(id: first.id, at: EventTime(microseconds: 9))
        keeper.refresh()
        #expect(refused.withLock { $0 } == 1)
        #expect(seen.withLock { $0.last?.first?.revoked } == EventTime(microseconds: 9))
        // Also while the store is away: what is known holds.
        store.setAway(true)
        keeper.refresh()
        #expect(refused.withLock { $0 } == 2)
        store.setAway(false)
        keeper.refresh()
        #expect(refused.withLock { $0 } == 3)
        keeper.refresh()
        #expect(seen.withLock { $0.count } == 5)
        keeper.refresh()
        #expect(seen.withLock { $0.count } == 5 && refusals.withLock { $0 } == 0)
        #expect(seen.withLock { $0.last?.first?.revoked } == EventTime(microseconds: 9))
        #expect(others.withLock { $0 } == 2)
        keeper.stop()
    }

    @Test func duringARotationBothKeysHoldUntilTheOldOneIsRevoked() {
        defer { unlink(path) }
        let (old, oldText) = key(1)
        store.add(old)
        let keeper = keeper()
        keeper.start()
        #expect(isKnown(keeper, oldText))
        let (new, newText) = key(2)
        store.add(new)
        waitUntil("the new key is known") { isKnown(keeper, newText) }
        #expect(isKnown(keeper, oldText))
        _ = store.revoke(id: old.id, at: EventTime(microseconds: 9))
        waitUntil("the old key is revoked") { isRevoked(keeper, oldText) }
        #expect(isKnown(keeper, newText))
        keeper.stop()
    }

    @Test func withoutTheStoreAStartGoesByTheFile() {
        defer { unlink(path) }
        let (known, text) = key(1)
        let (revoked, revokedText) = key(2)
        store.add(known)
        store.add(revoked)
        _ = store.revoke(id: revoked.id, at: EventTime(microseconds: 5))
        let before = keeper()
        before.start()
        before.stop()
        store.setAway(true)
        let after = keeper()
        after.start()
        #expect(isKnown(after, text))
        #expect(isRevoked(after, revokedText))
        #expect(after.problem?.isReady == true)
        #expect(lines.codes.withLock { $0 }.contains("keys_from_snapshot"))
        store.setAway(false)
        waitUntil("the store answers") { after.problem == nil }
        after.stop()
        var facts = stat()
        #expect(stat(path, &facts) == 0)
        #expect(facts.st_mode & 0o777 == 0o600)
    }

    @Test func beforeAnyFileAndWithoutTheStoreNobodyIsKnown() {
        store.setAway(true)
        let keeper = keeper()
        keeper.start()
        #expect(keeper.find("mr_x") == nil)
        #expect(keeper.keys == nil)
        #expect(keeper.problem?.isReady == false)
        let (added, text) = key(1)
        store.add(added)
        store.setAway(false)
        waitUntil("the store answers") { isKnown(keeper, text) }
        #expect(keeper.problem == nil)
        keeper.stop()
        unlink(path)
    }

    @Test func whatWasKnownStaysWhileTheStoreIsAway() {
        defer { unlink(path) }
        let (known, text) = key(1)
        store.add(known)
        let keeper = keeper()
        keeper.start()
        store.setAway(true)
        waitUntil("it is noticed") { keeper.problem != nil }
        #expect(keeper.problem?.isReady == true)
        #expect(isKnown(keeper, text))
        keeper.stop()
        #expect(lines.codes.withLock { $0.filter { $0 == "keys_unavailable" }.count } == 1)
    }

    @Test func guessesDoNotMakeTheStoreBeAskedEachTime() {
        defer { unlink(path) }
        let keeper = keeper(period: 600_000)
        keeper.start()
        for number in 0..<1_000 { #expect(!isKnown(keeper, "mr_\(number)")) }
        #expect(store.state.withLock { $0.asked } < 100)
        let (added, text) = key(1)
        store.add(added)
        waitUntil("the new key is known") { isKnown(keeper, text) }
        keeper.stop()
    }

    @Test(arguments: ["", "{", "[]", "{\"version\":2,\"keys\":[]}", "{\"version\":1,\"keys\":[{\"id\":\"a\"}]}"])
    func aFileThatIsNotUnderstoodIsNone(_ text: String) throws {
        defer { unlink(path) }
        let file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        try #require(file >= 0)
        let bytes = Array(text.utf8)
        #expect(write(file, bytes, bytes.count) == bytes.count)
        close(file)
        store.setAway(true)
        let keeper = keeper()
        keeper.start()
        #expect(keeper.keys == nil)
        keeper.stop()
    }
}
