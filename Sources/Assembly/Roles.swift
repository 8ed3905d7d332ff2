// The wiring: configuration → services. Each `start…` starts one part and says how it is stopped; what is started
// later is stopped earlier.
//
// In `up` the order is: journal, shipper, consumer, proxy, API. So a stop closes the API, lets the proxy finish its
// exchanges, lets the consumer apply what it holds, flushes the shipper, and marks the journal's end last.

import Access
import CaptureProxy
import Configuration
import HTTPTransport
import Ingest
import Journal
import KeyKeeping
import Normalizer
import QueryAPI
import Reconciling
import RecordLog
import RecordLogKafka
import RollupStore
import Shipping
import Telemetry
import Threading

final class Roles {
    private let configuration: MillraceConfiguration
    private let running: Running
    private let inputs: Preparation.Inputs
    private let journalMetrics = JournalMetrics()
    private let kafkaMetrics = KafkaMetrics()
    private var journal: Journal?
    private var store: OpenStore?
    private var checks: [HealthCheck] = []
    private var hasKafkaMetrics = false
    private var hasSaidOpen = false
    private var keeper: KeyKeeper?
    private var rulesReload: RulesReload?

    /// What is flushed to the broker at a stop; the rest is shipped by the next start.
    private static let flushMilliseconds = 5_000
    /// Threads that answer questions, each with a connection to the store.
    private static let queriesAtOnce = 4
    /// How often it is looked whether the consumer has ended by itself.
    private static let watchMilliseconds = 200

    init(_ configuration: MillraceConfiguration, _ running: Running) throws {
        self.configuration = configuration
        self.running = running
        inputs = try Preparation.read(configuration)
    }

    var operations: Operations { Operations(metrics: running.metrics, checks: checks) }

    /// The journal, and with Kafka as the log the shipper that empties it.
    func startJournal() throws {
        let journal = try Journal(
            directory: configuration.journal.directory, options: configuration.journal.options, log: running.log,
            metrics: journalMetrics)
        running.metrics.register(journalMetrics.all)
        journal.start()
        running.onStop { journal.stop() }
        checks.append(HealthCheck(name: "journal", isNeeded: true) { journal.degraded })
        self.journal = journal
        guard configuration.log.kind == .kafka else { return }
        let (options, log, metrics) = (configuration.log.kafka.options, running.log, kafkaMetrics)
        let shippingMetrics = ShippingMetrics()
        running.metrics.register(shippingMetrics.all)
        registerKafkaMetrics()
        let shipper = Shipper(
            journalDirectory: configuration.journal.directory, log: log, metrics: shippingMetrics,
            journalMetrics: journalMetrics
        ) { () throws(RecordLogError) in try KafkaProducer(options, log: log, metrics: metrics) }
        try shipper.start(takesOver: configuration.proxy.reusesPort)
        running.onStop { shipper.stop(flushMilliseconds: Self.flushMilliseconds) }
        checks.append(HealthCheck(name: "log", isNeeded: false) { shipper.degraded })
    }

    /// Opens a journal lane for each of its loops; `startJournal` comes before. Answers the address in use.
    func startProxy() throws -> ListenAddress {
        guard let journal else { throw Failure("The proxy was started before its journal.") }
        let address = configuration.proxy.listen
        let metrics = ProxyMetrics()
        let keeper = keepKeys(snapshot: "\(configuration.journal.directory)/keys.json")
        let access: ProxyAccess =
            if let keeper {
                keeper.keys.map { .keys(KeyDirectory($0)) } ?? .unknown
            } else {
                .open(ProxyIdentity(workspace: Preparation.openWorkspace, apiKey: ""))
            }
        let loops = configuration.proxy.loops
        let certificate = try ListenerCertificate(configuration.proxy.tls, of: "proxy.listen", running)
        var options = ProxyOptions(
            listen: address.description, loops: loops == 0 ? Preparation.cores : loops,
            providers: configuration.proxy.upstreams,
            strictMetadata: configuration.proxy.strictMetadata,
            metadataMaxSize: configuration.proxy.maxMetadataSizeBytes,
            tls: certificate?.context, access: access,
            prices: inputs.prices, holdsForDurability: configuration.journal.fsync == .always,
            redactor: try Preparation.normalizer(configuration, inputs.rules).redactor)
        options.clients = configuration.proxy.limits.clients
        options.upstream = configuration.proxy.upstream.limits
        options.concurrency = configuration.proxy.limits.concurrency
        options.concurrencyPerKey = configuration.proxy.limits.concurrencyPerKey
        options.sharesPort = configuration.proxy.reusesPort
        options.drainMilliseconds = UInt64(configuration.proxy.drainMilliseconds)
        Preparation.raiseDescriptorLimit()
        let service = try ProxyService(options: options, journal: journal, log: running.log, metrics: metrics)
        running.metrics.register(metrics.all)
        keeper?.observe { service.update(keys: $0) }
        checks.append(.loops("proxy") { service.silence })
        running.onStop { service.stop() }
        reloadRules { service.update(redactor: $0.redactor) }
        certificate?.whenRead(anew: { service.use($0) }, running)
        return ListenAddress(host: address.host, port: service.port)
    }

    /// Log -> store. It ends the process where it cannot go on: another consumer has the partitions, the store is newer.
    func startConsumer() throws {
        let open = try openStore()
        let writer = try open.makeWriter()
        let metrics = ConsumerMetrics(
            deadLetterCodes: DeadLetter.Code.allCases.map(\.rawValue), lateAges: LateAge.allCases.map(\.label))
        running.metrics.register(metrics.all)
        let log = running.log
        var options = Consumer.Options()
        options.maxEvents = configuration.consumer.maxEvents
        options.maxWaitMilliseconds = configuration.consumer.maxWaitMilliseconds
        let retention = configuration.retention
        options.retention = RetentionDays(
            events: retention.eventsDays, minute: retention.minuteDays, hour: retention.hourDays,
            day: retention.dayDays)
        let normalizer = try Preparation.normalizer(configuration, inputs.rules)
        let expiring = ExpiringWork(open, normalizer)
        options.settleExpiring = { try expiring.settle(before: $0) }
        let consumer: Consumer
        switch configuration.log.kind {
        case .journal:
            let reader = JournalLogReader(directory: configuration.journal.directory, log: log, metrics: journalMetrics)
            consumer = Consumer(
                reader: reader, writer: writer, normalizer: normalizer, options: options, log: log, metrics: metrics)
        case .kafka:
            registerKafkaMetrics()
            let topic = DeadLetterTopic(
                configuration.log.kafka.deadLetterTopic, configuration.log.kafka.options,
                refused: metrics.deadLettersRefused, log: log, metrics: kafkaMetrics)
            running.onStop { topic.close() }
            options.publishDeadLetters = { try topic.publish($0) }
            // A SQLite store has one writer, so its consumer needs no group to share the partitions with.
            let membership: KafkaLogReader.Membership =
                switch configuration.store {
                case .sqlite: .alone
                case .postgres, .clickhouse: .group
                }
            let reader = try KafkaLogReader(
                configuration.log.kafka.options, membership: membership, createsTopic: true, log: log,
                metrics: kafkaMetrics)
            consumer = Consumer(
                reader: reader, writer: writer, normalizer: normalizer, options: options, log: log, metrics: metrics)
        }
        consumer.start()
        reloadRules {
            consumer.use($0)
            return true
        }
        checks.append(HealthCheck(name: "consumer", isNeeded: true) { consumer.degraded })
        let stopped = StopSignal()
        let fail = running.fail
        let watch = ServiceThread("mr-watch") {
            while !stopped.wait(milliseconds: Self.watchMilliseconds) {
                guard let failure = consumer.failure else { continue }
                return fail("consumer", Failure(failure))
            }
        }
        running.onStop {
            stopped.stop()
            watch.join()
            consumer.stop()
        }
    }

    /// The API and the page. `proxy` is shown on the page where it runs in this process. Answers the address in use.
    func startAPI(proxy: ListenAddress?) throws -> ListenAddress {
        let address = configuration.api.listen
        let store = try openStore()
        let metrics = APIMetrics()
        running.metrics.register(metrics.all)
        let access = APIAccess(keeper: keepKeys(snapshot: nil))
        if configuration.log.kind == .kafka { registerKafkaMetrics() }
        let (reconciler, closeReconciler) = Preparation.reconciler(configuration, running.log, kafkaMetrics)
        running.onStop { closeReconciler() }
        running.metrics.register(ReconciliationGauge(reconciler, store.reader).metrics)
        let replays = ReplayDesk(configuration, store, rules: inputs.rules, log: running.log)
        running.onStop { replays.stop() }
        running.metrics.register(ReplayGauge { try replays.list() }.metrics)
        let redrives = RedriveDesk(configuration, store.deadLetters, stop: running.stop, log: running.log)
        let operations = operations
        let respond = QueryService.responder(
            reader: store.reader, authenticate: { access.decide($0) }, metrics: metrics, registry: running.metrics,
            log: running.log,
            readiness: {
                let state = operations.state()
                return Readiness(isReady: state.isReady, degraded: state.degraded)
            },
            corsOrigins: Set(configuration.api.corsOrigins),
            proxyURL: proxy.map { "http://\($0)" } ?? "",
            reconcile: { try reconciler.balance(reader: store.reader, from: $0, to: $1).json },
            replays: replays, deadLetters: store.deadLetters, redrive: { try redrives.send($0) })
        let certificate = try ListenerCertificate(configuration.api.tls, of: "api.listen", running)
        let server = try HTTPServer(
            listen: address.description, name: "api", workers: Self.queriesAtOnce,
            bodyLimit: QueryService.Limits.bodySize,
            tls: certificate?.context, log: running.log, responder: respond)
        certificate?.whenRead(anew: { server.use($0) }, running)
        checks.append(.loops("api") { server.silence })
        running.onStop { server.stop() }
        let bound = ListenAddress(host: address.host, port: server.port)
        running.log(.apiStarted(address: bound.description))
        return bound
    }

    // MARK: Shared by parts of one process

    /// A server that is away is waited for by whoever reads or writes; readiness says so.
    private func openStore() throws -> OpenStore {
        if let store { return store }
        let opened = try Stores.open(
            configuration.store, mustConnect: false, readers: Self.queriesAtOnce, log: running.log)
        store = opened
        return opened
    }

    /// Without a rules file there is nothing to read anew.
    private func reloadRules(_ user: @escaping RulesReload.User) {
        if let rulesReload { return rulesReload.add(user) }
        let metrics = RulesMetrics()
        running.metrics.register(metrics.all)
        let reload = RulesReload(configuration, running.log, metrics)
        rulesReload = reload
        reload.add(user)
        if configuration.normalization.rules != nil { running.onReload { reload.run() } }
    }

    private func registerKafkaMetrics() {
        if hasKafkaMetrics { return }
        hasKafkaMetrics = true
        running.metrics.register(kafkaMetrics.all)
    }

    /// Says once that nobody is asked for a key.
    private func sayOpen() {
        if hasSaidOpen { return }
        hasSaidOpen = true
        running.log(.authOpen())
    }

    /// The one that knows the keys, started; nil in open mode.
    ///
    /// `snapshot`: where the list is kept for a start without the store.
    private func keepKeys(snapshot: String?) -> KeyKeeper? {
        guard configuration.auth == .keys else {
            sayOpen()
            return nil
        }
        if let keeper { return keeper }
        let configuration = configuration
        let made = KeyKeeper(snapshot: snapshot, log: running.log) {
            try Preparation.openKeyStore(configuration, makesStore: false)
        }
        made.start()
        running.onStop { made.stop() }
        checks.append(
            HealthCheck(name: "keys", isNeeded: true) { made.problem.flatMap { $0.isReady ? nil : $0.reason } })
        checks.append(
            HealthCheck(name: "keys", isNeeded: false) { made.problem.flatMap { $0.isReady ? $0.reason : nil } })
        keeper = made
        return made
    }
}
