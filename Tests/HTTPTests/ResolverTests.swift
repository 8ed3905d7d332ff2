import Glibc
import Synchronization
import Testing
import Threading

@testable import HTTPTransport

private func addresses(_ last: Int) -> Resolver.Result {
    Resolver.lookUp(host: "127.0.0.\(last)", port: 80, flags: AI_NUMERICHOST)
}

private func origin(_ host: String) -> UpstreamOrigin { UpstreamOrigin(isTLS: false, host: host, port: 80) }

/// `.1` for the one address 127.0.0.1, or what else was told; `waits` for nil.
private func told(_ result: Resolver.Result?) -> String {
    switch result {
    case .addresses(let found)?:
        (1...9).first { if case .addresses(let expected) = addresses($0) { expected == found } else { false } }
            .map { ".\($0)" } ?? "other"
    case .failure(let reason)?: reason
    case .busy?: "busy"
    case nil: "waits"
    }
}

/// What is decided about names, with a clock of the test's own.
@Suite struct ResolverNamesTests {
    private let a = origin("a.test")

    /// A table that knows `.1` since the time 0.
    private func known() -> ResolverNames<Int> {
        var names = ResolverNames<Int>()
        #expect(told(names.asked(a, by: 0, now: 0)) == "waits")
        #expect(names.nextLookUp() == a)
        #expect(names.lookedUp(a, addresses(1), now: 0).waiting == [0])
        return names
    }

    @Test func addressesAreUsedFor30SecondsAndThenLookedUpOnceWhileTheyServeOn() {
        var names = known()
        #expect(told(names.asked(a, by: 1, now: 29_999)) == ".1" && names.nextLookUp() == nil)
        #expect(told(names.asked(a, by: 2, now: 30_000)) == ".1")
        #expect(names.nextLookUp() == a)
        // It hangs: nobody waits, and no second one begins.
        for now: UInt64 in [30_001, 100_000, 10_000_000] {
            #expect(told(names.asked(a, by: 3, now: now)) == ".1" && names.nextLookUp() == nil)
        }
        #expect(names.lookedUp(a, addresses(2), now: 10_000_000).waiting.isEmpty)
        #expect(told(names.asked(a, by: 4, now: 10_029_999)) == ".2" && names.nextLookUp() == nil)
        #expect(told(names.asked(a, by: 5, now: 10_030_000)) == ".2" && names.nextLookUp() == a)
    }

    @Test func aLookUpThatFailsKeepsTheAddressesAndIsTriedAgainAfterASecond() {
        var names = known()
        #expect(told(names.asked(a, by: 1, now: 30_000)) == ".1")
        #expect(names.nextLookUp() == a)
        _ = names.lookedUp(a, .failure("no name server"), now: 30_000)
        #expect(told(names.asked(a, by: 2, now: 30_999)) == ".1" && names.nextLookUp() == nil)
        #expect(told(names.asked(a, by: 3, now: 31_000)) == ".1" && names.nextLookUp() == a)
    }

    @Test func whoAsksForANameNeverSeenWaitsAndAllHaveTheOneAnswer() {
        var names = ResolverNames<Int>()
        for waiter in 0..<3 { #expect(told(names.asked(a, by: waiter, now: 0)) == "waits") }
        #expect(names.nextLookUp() == a && names.nextLookUp() == nil)
        #expect(told(names.asked(a, by: 3, now: 0)) == "waits" && names.nextLookUp() == nil)
        let (waiting, result) = names.lookedUp(a, addresses(1), now: 5)
        #expect(waiting == [0, 1, 2, 3] && told(result) == ".1")
    }

    @Test func aFailureWithoutAddressesIsKeptForASecond() {
        var names = ResolverNames<Int>()
        #expect(told(names.asked(a, by: 0, now: 0)) == "waits" && names.nextLookUp() == a)
        let (waiting, result) = names.lookedUp(a, .failure("not known"), now: 10)
        #expect(waiting == [0] && told(result) == "not known")
        #expect(told(names.asked(a, by: 1, now: 1_009)) == "not known" && names.nextLookUp() == nil)
        #expect(told(names.asked(a, by: 2, now: 1_010)) == "waits" && names.nextLookUp() == a)
    }

    @Test func forgottenAddressesWaitForANewLookUpAndComeBackOnlyWhereThatFails() {
        var names = known()
        names.forgot(a)
        #expect(told(names.asked(a, by: 1, now: 1)) == "waits" && names.nextLookUp() == a)
        let (waiting, result) = names.lookedUp(a, addresses(2), now: 2)
        #expect(waiting == [1] && told(result) == ".2")
        #expect(told(names.asked(a, by: 2, now: 3)) == ".2")

        names.forgot(a)
        #expect(told(names.asked(a, by: 3, now: 4)) == "waits" && names.nextLookUp() == a)
        #expect(told(names.lookedUp(a, .failure("no name server"), now: 5).result) == ".2")
        #expect(told(names.asked(a, by: 4, now: 6)) == ".2" && names.nextLookUp() == nil)
    }

    @Test func aNumericHostIsNeverLookedUpNorForgotten() {
        var names = ResolverNames<Int>()
        guard case .addresses(let found) = addresses(1) else {
            Issue.record("127.0.0.1 is no address here")
            return
        }
        names.foundNumeric(a, found)
        names.forgot(a)
        #expect(told(names.asked(a, by: 0, now: .max - 1)) == ".1" && names.nextLookUp() == nil)
    }

    @Test func beyondTheLimitOfOneNameTheAnswerIsBusyAndAnotherNameHasAllItsRoom() {
        var names = ResolverNames<Int>()
        let limit = ResolverNames<Int>.waitingLimit
        for waiter in 0..<limit where told(names.asked(a, by: waiter, now: 0)) != "waits" { Issue.record("\(waiter)") }
        #expect(told(names.asked(a, by: limit, now: 0)) == "busy")
        #expect(told(names.asked(origin("b.test"), by: 0, now: 0)) == "waits")
        #expect(names.nextLookUp() == a)
        #expect(names.lookedUp(a, addresses(1), now: 0).waiting.count == limit)
        names.forgot(a)
        #expect(told(names.asked(a, by: 0, now: 0)) == "waits")
    }

}

/// The threads, with a name server that answers when it is told to and a clock that goes when it is told to.
@Suite(.timeLimit(.minutes(2))) struct ResolverTests {
    private final class NameServer: Sendable {
        private struct State {
            var lookUps: [String] = []
            var hanging: [String: StopSignal] = [:]
            var answer = addresses(1)
            var now: UInt64 = 0
        }
        private let state = Mutex(State())

        /// Look-ups of the host wait from now on, until the signal.
        func hang(_ host: String) -> StopSignal {
            let signal = StopSignal()
            state.withLock { $0.hanging[host] = signal }
            return signal
        }
        func answer(_ result: Resolver.Result) { state.withLock { $0.answer = result } }
        func go(to now: UInt64) { state.withLock { $0.now = now } }
        var now: UInt64 { state.withLock { $0.now } }
        var lookUps: [String] { state.withLock { $0.lookUps } }

        func lookUp(_ origin: UpstreamOrigin) -> Resolver.Result {
            let signal = state.withLock {
                $0.lookUps.append(origin.host)
                return $0.hanging[origin.host]
            }
            signal?.wait()
            return state.withLock { $0.answer }
        }
    }

    /// A resolver and a loop to ask it from.
    private final class Asking: Sendable {
        let server = NameServer()
        let loop: EventLoop
        let resolver: Resolver
        private let answers = Mutex<[String]>([])

        init() throws {
            let server = server
            resolver = Resolver(clock: { server.now }, lookUp: { server.lookUp($0) })
            loop = try EventLoop(name: "asking")
            loop.start()
        }

        func ask(_ hosts: String...) { ask(hosts) }

        func ask(_ hosts: [String]) {
            loop.post { [self] in
                for host in hosts {
                    resolver.resolve(origin(host), on: loop) { [self] result in
                        answers.withLock { $0.append("\(host) \(told(result))") }
                    }
                }
            }
        }

        /// Waits for so many answers in all.
        func answers(_ count: Int) -> [String] {
            wait { answers.withLock { $0.count } == count }
            return answers.withLock { $0 }
        }

        func wait(_ isDone: () -> Bool) {
            let deadline = ContinuousClock.now.advanced(by: .seconds(30))
            while !isDone(), ContinuousClock.now < deadline { usleep(1_000) }
        }

        func stop() {
            #expect(resolver.stop() == 0)
            loop.stop()
        }
    }

    @Test func anotherNameIsAnsweredWhileOneHangs() throws {
        let asking = try Asking()
        let signal = asking.server.hang("slow.test")
        asking.ask("slow.test")
        asking.wait { asking.server.lookUps == ["slow.test"] }
        asking.ask("a.test", "b.test", "127.0.0.3")
        #expect(Set(asking.answers(3)) == ["a.test .1", "b.test .1", "127.0.0.3 .3"])
        signal.stop()
        #expect(asking.answers(4).last == "slow.test .1")
        #expect(!asking.server.lookUps.contains("127.0.0.3"))
        asking.stop()
    }

    @Test func staleAddressesServeWhileTheRefreshHangsAndGiveWayToItsAnswer() throws {
        let asking = try Asking()
        asking.ask("a.test")
        #expect(asking.answers(1) == ["a.test .1"])
        let signal = asking.server.hang("a.test")
        asking.server.answer(addresses(2))
        asking.server.go(to: 30_000)
        asking.ask("a.test", "a.test")
        #expect(asking.answers(3) == ["a.test .1", "a.test .1", "a.test .1"])
        asking.wait { asking.server.lookUps.count == 2 }
        asking.server.go(to: 900_000)
        asking.ask("a.test")
        #expect(asking.answers(4).last == "a.test .1")
        #expect(asking.server.lookUps.count == 2)
        signal.stop()
        var count = 4
        asking.wait {
            count += 1
            asking.ask("a.test")
            return asking.answers(count).last == "a.test .2"
        }
        #expect(asking.answers(count).last == "a.test .2" && asking.server.lookUps.count == 2)
        asking.stop()
    }

    @Test func forgottenAddressesAreLookedUpBeforeTheNextRequestHasThem() throws {
        let asking = try Asking()
        asking.ask("a.test")
        #expect(asking.answers(1) == ["a.test .1"])
        asking.server.answer(addresses(2))
        asking.resolver.forget(origin("a.test"))
        asking.ask("a.test")
        #expect(asking.answers(2).last == "a.test .2")
        asking.stop()
    }

    @Test func whoWaitsForTheSameNameTakesItsAnswer() throws {
        let asking = try Asking()
        let signal = asking.server.hang("same.test")
        asking.ask(Array(repeating: "same.test", count: 500))
        asking.wait { asking.server.lookUps.count == 1 }
        signal.stop()
        #expect(asking.answers(500) == Array(repeating: "same.test .1", count: 500))
        #expect(asking.server.lookUps == ["same.test"])
        asking.stop()
    }

    @Test func beyondTheLimitTheAnswerIsBusyAndTheOthersGetTheirs() throws {
        let limit = ResolverNames<Int>.waitingLimit
        let asking = try Asking()
        let signal = asking.server.hang("same.test")
        asking.ask(Array(repeating: "same.test", count: limit + 7))
        #expect(asking.answers(7) == Array(repeating: "same.test busy", count: 7))
        signal.stop()
        #expect(asking.answers(limit + 7).count { $0 == "same.test .1" } == limit)
        asking.stop()
    }

    @Test func aLookUpThatHangsAtTheStopIsLeftBehindAndSaid() throws {
        let asking = try Asking()
        let signal = asking.server.hang("slow.test")
        asking.ask("slow.test")
        asking.wait { asking.server.lookUps.count == 1 }
        #expect(asking.resolver.stop() == 1)
        asking.loop.stop()
        // Its thread ends with it, and tells nobody.
        signal.stop()
        #expect(asking.answers(0) == [])
    }
}
