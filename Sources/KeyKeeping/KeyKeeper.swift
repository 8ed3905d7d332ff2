// Knows the API keys of the store, whether the store is there or not: KeyStore -> the list, and a file of it.
//
// The list is read again every `period`, so that a revocation holds well within ten seconds, and written beside the
// journal whenever it has changed. A process that starts while the store is away begins with that file. What was known
// stays valid for as long as the store is away; that it may be old is said in readiness.

package import Access
import Glibc
package import RollupStore
import Synchronization
package import Telemetry
import Threading

package final class KeyKeeper: Sendable {
    /// | limit | unit | value | why |
    /// | --- | --- | --- | --- |
    /// | `period` | ms | 2,000 | a new key works soon, a revoked one no longer |
    /// | `patience` | ms | 500 | an unknown key makes the list be read anew at once, but not for each guess |
    /// | `fileSize` | bytes | 64 MiB | a file that is larger is not ours |
    package enum Limits {
        package static let period = 2_000
        package static let patience = Duration.milliseconds(500)
        package static let fileSize = 64 << 20
    }

    private struct State {
        var store: (any KeyStore)?
        /// nil: never known.
        var keys: [AccessKey]?
        var directory = KeyDirectory([])
        /// Why the store could not be asked the last time.
        var problem: String?
        var readAt: ContinuousClock.Instant?
        /// Whether the file holds the list as known.
        var isSaved = true
        var observers: [Observer] = []
    }
    private struct Observer {
        let body: @Sendable ([AccessKey]) -> Bool
        /// It has not taken the list as known.
        var isBehind = false
    }
    private let state = Mutex(State())
    /// One at a time asks the store; the state is free meanwhile.
    private let asking = Mutex(())
    private let thread = Mutex<ServiceThread?>(nil)
    private let stopping = StopSignal()
    private let path: String?
    private let period: Int
    private let open: @Sendable () throws -> any KeyStore
    private let log: Log

    /// - `snapshot`: the file; nil where nothing is kept.
    /// - `open`: opens the store's port; called again for as long as it fails.
    package init(
        snapshot: String?, periodMilliseconds: Int = Limits.period, log: Log,
        open: @escaping @Sendable () throws -> any KeyStore
    ) {
        path = snapshot
        period = periodMilliseconds
        self.log = log
        self.open = open
    }

    /// Asks the store once, or begins with the file, and goes on from there on a thread of its own.
    package func start() {
        refresh()
        if state.withLock({ $0.keys }) == nil, let path, let keys = Self.read(path) {
            publish(keys)
            log(.keysFromSnapshot(file: path, count: keys.count))
        }
        let thread = ServiceThread("keys") { [self] in
            while !stopping.wait(milliseconds: period) { refresh() }
        }
        self.thread.withLock { $0 = thread }
    }

    package func stop() {
        stopping.stop()
        self.thread.withLock { thread in
            thread?.join()
            thread = nil
        }
    }

    /// The list as known; nil: it has never been.
    package var keys: [AccessKey]? { state.withLock { $0.keys } }

    /// Called now with the list where it is known, and with each new one, one call after the other. One that answers
    /// false could not take the list: it gets the list that is known then at the next reading of the store.
    package func observe(_ body: @escaping @Sendable ([AccessKey]) -> Bool) {
        state.withLock { state in
            var observer = Observer(body: body)
            if let keys = state.keys { observer.isBehind = !body(keys) }
            state.observers.append(observer)
        }
    }

    /// nil: no list is known, so nobody can be told apart. An unknown key may be a new one: then the store is asked.
    package func find(_ text: String) -> KeyDirectory.Finding? {
        let (found, readAt) = state.withLock { state in
            (state.keys == nil ? nil : state.directory.find(text), state.readAt)
        }
        if let found {
            guard case .unknown = found, !text.isEmpty else { return found }
        }
        if let readAt, readAt.duration(to: .now) < Limits.patience { return found }
        refresh()
        return state.withLock { $0.keys == nil ? nil : $0.directory.find(text) }
    }

    /// What is wrong, for readiness: nothing is known (`isReady` false), or what is known may be old.
    package var problem: (isReady: Bool, reason: String)? {
        state.withLock { state in
            guard let problem = state.problem else { return nil }
            return state.keys == nil
                ? (false, "no API key is known yet, and the store cannot be asked: \(problem)")
                : (true, "the store cannot be asked, so new and revoked API keys are not noticed: \(problem)")
        }
    }

    // MARK: Asking

    package func refresh() {
        asking.withLock { _ in
            tellBehind()
            do {
                let store = try state.withLock { $0.store } ?? open()
                let keys = try store.keys()
                let (changed, wasAway) = state.withLock { state in
                    defer {
                        state.store = store
                        state.problem = nil
                        state.readAt = .now
                    }
                    return (state.keys != keys, state.problem != nil)
                }
                if wasAway { log(.keysRecovered()) }
                if changed { publish(keys) }
                save(keys, isNew: changed)
            } catch {
                let wasThere = state.withLock { state in
                    defer {
                        state.problem = "\(error)"
                        state.readAt = .now
                    }
                    return state.problem == nil
                }
                if wasThere { log(.keysUnavailable(reason: "\(error)")) }
            }
        }
    }

    /// Before the store is asked, which may take long: a revocation that is known holds.
    private func tellBehind() {
        state.withLock { state in
            guard let keys = state.keys else { return }
            for index in state.observers.indices where state.observers[index].isBehind {
                state.observers[index].isBehind = !state.observers[index].body(keys)
            }
        }
    }

    private func publish(_ keys: [AccessKey]) {
        state.withLock { state in
            state.keys = keys
            state.directory = KeyDirectory(keys)
            for index in state.observers.indices {
                state.observers[index].isBehind = !state.observers[index].body(keys)
            }
        }
    }

    // MARK: The file

    /// A list that could not be saved is tried again each time, and told of once.
    private func save(_ keys: [AccessKey], isNew: Bool) {
        guard let path else { return }
        let wasSaved = state.withLock { $0.isSaved }
        guard isNew || !wasSaved else { return }
        let isSaved = Self.write(KeySnapshot.encode(keys), path)
        if !isSaved, wasSaved { log(.keySnapshotUnwritten(file: path, reason: String(cString: strerror(errno)))) }
        state.withLock { $0.isSaved = isSaved }
    }

    private static func read(_ path: String) -> [AccessKey]? {
        let file = Glibc.open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return nil }
        defer { close(file) }
        var facts = stat()
        guard fstat(file, &facts) == 0, facts.st_size <= Limits.fileSize else { return nil }
        var bytes: [UInt8] = []
        var block = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = Glibc.read(file, &block, block.count)
            if count < 0 && errno == EINTR { continue }
            guard count >= 0 else { return nil }
            if count == 0 { return KeySnapshot.decode(bytes) }
            bytes += block.prefix(count)
        }
    }

    /// Written aside and moved into place whole: a reader sees the old list or the new one. False with errno.
    private static func write(_ bytes: [UInt8], _ path: String) -> Bool {
        let draft = "\(path).\(getpid())"
        let file = Glibc.open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard file >= 0 else { return false }
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.write(file, $0.baseAddress, $0.count) }
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { break }
            rest = rest.dropFirst(count)
        }
        let isWhole = rest.isEmpty && fsync(file) == 0
        let reason = errno
        close(file)
        if isWhole, rename(draft, path) == 0 { return true }
        if !isWhole { errno = reason }
        unlink(draft)
        return false
    }
}
