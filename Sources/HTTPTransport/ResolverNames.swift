// What is known of each name, and who waits for it: decides what a request is told and what is looked up.
//
// An address serves until the next look-up's answer replaces it, however late that comes (serve stale; the idea is RFC
// 8767's): once its time is up, the next request has it and one look-up begins. A request waits only where no address
// is known, or where none of them answered it. At most one look-up of a name is under way, for all who ask.

/// `Waiter`: a request that waits.
struct ResolverNames<Waiter> {
    /// How long addresses are used without looking the name up again: short, so that a provider's moved name is followed.
    static var keptMilliseconds: UInt64 { 30_000 }
    /// How long a failure is, so that a dead name server is asked once a second, not once a request.
    static var failureKeptMilliseconds: UInt64 { 1_000 }
    /// Requests that wait for one name; beyond it the answer is `busy`.
    static var waitingLimit: Int { 4_096 }

    private enum Known {
        case nothing
        case failure(String, until: UInt64)
        case addresses([SocketAddress], until: UInt64)
        /// None of them answered: used again only where a look-up fails.
        case forgotten([SocketAddress])
    }

    private struct Name {
        var known = Known.nothing
        var isBeingLookedUp = false
        var waiting: [Waiter] = []
    }

    // As many as providers are configured.
    private var names: [UpstreamOrigin: Name] = [:]
    private var due: [UpstreamOrigin] = []
    private var isStopped = false

    /// What the request is told at once; nil where it waits. `nextLookUp` may have something to do.
    mutating func asked(_ origin: UpstreamOrigin, by waiter: Waiter, now: UInt64) -> Resolver.Result? {
        if isStopped { return .busy }
        var name = names[origin] ?? Name()
        defer { names[origin] = name }
        switch name.known {
        case .addresses(let addresses, let until):
            if until <= now { begin(origin, &name) }
            return .addresses(addresses)
        case .failure(let reason, let until) where until > now: return .failure(reason)
        case .nothing, .failure, .forgotten:
            guard name.waiting.count < Self.waitingLimit else { return .busy }
            name.waiting.append(waiter)
            begin(origin, &name)
            return nil
        }
    }

    private mutating func begin(_ origin: UpstreamOrigin, _ name: inout Name) {
        if name.isBeingLookedUp { return }
        name.isBeingLookedUp = true
        due.append(origin)
    }

    /// Nobody has asked for it yet.
    func isNew(_ origin: UpstreamOrigin) -> Bool { !isStopped && names[origin] == nil }

    /// The host is an address itself: it never changes.
    mutating func foundNumeric(_ origin: UpstreamOrigin, _ addresses: [SocketAddress]) {
        names[origin, default: Name()].known = .addresses(addresses, until: .max)
    }

    var hasLookUp: Bool { !due.isEmpty }

    /// The next name to be looked up; `lookedUp` must follow.
    mutating func nextLookUp() -> UpstreamOrigin? { due.isEmpty ? nil : due.removeFirst() }

    /// Who waited, and what they are told. A look-up that failed changes no address.
    mutating func lookedUp(
        _ origin: UpstreamOrigin, _ result: Resolver.Result, now: UInt64
    ) -> (waiting: [Waiter], result: Resolver.Result) {
        var name = names[origin] ?? Name()
        defer { names[origin] = name }
        let waiting = name.waiting
        name.waiting = []
        name.isBeingLookedUp = false
        switch (result, name.known) {
        case (.addresses(let addresses), _):
            name.known = .addresses(addresses, until: now + Self.keptMilliseconds)
            return (waiting, result)
        case (_, .addresses(let addresses, _)), (_, .forgotten(let addresses)):
            name.known = .addresses(addresses, until: now + Self.failureKeptMilliseconds)
            return (waiting, .addresses(addresses))
        case (.failure(let reason), .nothing), (.failure(let reason), .failure):
            name.known = .failure(reason, until: now + Self.failureKeptMilliseconds)
            return (waiting, result)
        case (.busy, .nothing), (.busy, .failure):
            return (waiting, result)
        }
    }

    /// None of the addresses answered: the next request waits for a new look-up.
    mutating func forgot(_ origin: UpstreamOrigin) {
        guard case .addresses(let addresses, let until)? = names[origin]?.known, until != .max else { return }
        names[origin]?.known = .forgotten(addresses)
    }

    /// Nothing is looked up any more, and nobody told.
    mutating func stopped() {
        isStopped = true
        names = [:]
        due = []
    }
}
