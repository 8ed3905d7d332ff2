import Glibc
import Synchronization
import Testing
import Threading

@testable import HTTPTransport

/// Names that wait to be looked up, with a name server that answers when it is told to.
@Suite(.timeLimit(.minutes(1))) struct ResolverTests {
    /// A resolver and a loop to ask it from.
    private final class Asking: Sendable {
        let loop: EventLoop
        let resolver: Resolver
        let gate: StopSignal
        let lookUps: Counter
        private let answers = Mutex<[String]>([])

        final class Counter: Sendable {
            let value = Atomic<Int>(0)
        }

        init() throws {
            let (gate, lookUps) = (StopSignal(), Counter())
            (self.gate, self.lookUps) = (gate, lookUps)
            resolver = Resolver { origin in
                lookUps.value.wrappingAdd(1, ordering: .relaxed)
                gate.wait()
                if origin.host.hasPrefix("none") { return .failure("not known") }
                return Resolver.lookUp(host: "127.0.0.1", port: origin.port, flags: AI_NUMERICHOST)
            }
            loop = try EventLoop(name: "asking")
            loop.start()
        }

        func ask(_ hosts: [String]) {
            loop.post { [self] in
                for host in hosts {
                    resolver.resolve(UpstreamOrigin(isTLS: false, host: host, port: 80), on: loop) { [self] result in
                        let told =
                            switch result {
                            case .addresses(let addresses): "addresses \(addresses.count)"
                            case .failure(let reason): reason
                            case .busy: "busy"
                            }
                        answers.withLock { $0.append(told) }
                    }
                }
            }
        }

        func wait(_ isDone: ([String]) -> Bool) -> [String] {
            let deadline = ContinuousClock.now.advanced(by: .seconds(30))
            while ContinuousClock.now < deadline {
                let now = answers.withLock { $0 }
                if isDone(now) { return now }
                usleep(1_000)
            }
            return answers.withLock { $0 }
        }

        func stop() {
            gate.stop()
            resolver.stop()
            loop.stop()
        }
    }

    @Test func beyondTheLimitTheAnswerIsBusyAndTheOthersGetTheirs() throws {
        let asking = try Asking()
        asking.ask(["first.test"])
        _ = asking.wait { _ in asking.lookUps.value.load(ordering: .relaxed) == 1 }
        // The first is being looked up: the queue has all its room.
        asking.ask((0..<Resolver.waitingLimit + 7).map { "none-\($0).test" })
        let refused = asking.wait { $0.count >= 7 }
        #expect(refused == Array(repeating: "busy", count: 7))
        asking.gate.stop()
        let all = asking.wait { $0.count == Resolver.waitingLimit + 8 }
        #expect(all.count { $0 == "busy" } == 7)
        #expect(all.count { $0 == "addresses 1" } == 1)
        #expect(all.count { $0 == "not known" } == Resolver.waitingLimit)
        // There is room again.
        asking.ask(["last.test"])
        #expect(asking.wait { $0.count == Resolver.waitingLimit + 9 }.last == "addresses 1")
        asking.stop()
    }

    @Test func whoWaitsBehindTheSameNameTakesItsAnswer() throws {
        let asking = try Asking()
        asking.ask(Array(repeating: "same.test", count: 500))
        _ = asking.wait { _ in asking.lookUps.value.load(ordering: .relaxed) == 1 }
        asking.gate.stop()
        #expect(asking.wait { $0.count == 500 } == Array(repeating: "addresses 1", count: 500))
        #expect(asking.lookUps.value.load(ordering: .relaxed) == 1)
        asking.stop()
    }
}
