// SIGHUP → the rules file read anew → proxy and consumer go on by it; a file that cannot be used changes nothing.

import Configuration
import Ingest
import Normalizer
import RollupStore
import Synchronization
import Telemetry

/// One for all roles of a process, so that they go by the same reading.
final class RulesReload: Sendable {
    /// False: it could not be told; the next reload does.
    typealias User = @Sendable (Normalizer) -> Bool

    private let configuration: MillraceConfiguration
    private let log: Log
    private let metrics: RulesMetrics
    private let users = Mutex<[User]>([])

    init(_ configuration: MillraceConfiguration, _ log: Log, _ metrics: RulesMetrics) {
        self.configuration = configuration
        self.log = log
        self.metrics = metrics
    }

    func add(_ user: @escaping User) { users.withLock { $0.append(user) } }

    func run() {
        do {
            let normalizer = try Preparation.reread(configuration)
            let users = users.withLock { $0 }
            let areTold = users.map { $0(normalizer) }
            guard areTold.allSatisfy({ $0 }) else {
                throw Failure("a part of the process is too busy to take them; send SIGHUP again")
            }
            metrics.reloaded.add()
            log(.rulesReloaded(fingerprint: RulesText(normalizer.rules).fingerprint))
        } catch {
            metrics.refused.add()
            log(.rulesNotReloaded(reason: "\(error)"))
        }
    }
}
