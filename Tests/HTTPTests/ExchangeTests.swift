import HTTPMessages
import Testing

@Suite struct ExchangeTests {
    @Test func anAnsweredExchangeKeepsBothConnections() {
        var exchange = Exchange(clientKeepsAlive: true, requestIsWhole: true)
        exchange.connected(reused: false)
        exchange.sentToUpstream()
        exchange.answerStarted()
        #expect(
            exchange.answerEnded(upstreamKeepsAlive: true)
                == .init(upstream: .release, client: .next, ending: .answered))
        #expect(exchange.clientLeft() == .init())
    }

    @Test func anEarlyAnswerClosesBothConnections() {
        var exchange = Exchange(clientKeepsAlive: true, requestIsWhole: false)
        exchange.connected(reused: false)
        exchange.answerStarted()
        #expect(!exchange.clientKeepsAlive)
        #expect(
            exchange.answerEnded(upstreamKeepsAlive: true) == .init(upstream: .close, client: .close, ending: .answered)
        )
    }

    @Test func whatTheAnswersHeadSaidHoldsWhenTheRequestEndsMeanwhile() {
        var exchange = Exchange(clientKeepsAlive: true, requestIsWhole: false)
        exchange.connected(reused: false)
        exchange.sentToUpstream()
        exchange.answerStarted()
        exchange.requestEnded()
        #expect(
            exchange.answerEnded(upstreamKeepsAlive: true)
                == .init(upstream: .release, client: .close, ending: .answered))
    }

    @Test func aClientThatLeavesInMidAnswerCancelsTheUpstream() {
        var exchange = Exchange(clientKeepsAlive: true, requestIsWhole: true)
        exchange.connected(reused: true)
        exchange.sentToUpstream()
        exchange.answerStarted()
        #expect(exchange.clientLeft() == .init(upstream: .close, ending: .clientLeft))
        #expect(exchange.upstreamFailed(.brokeOff) == .init())
        #expect(exchange.answerEnded(upstreamKeepsAlive: true) == .init())
    }

    @Test func onlyAnUnsentRequestOnAReusedConnectionIsTriedAgainAndOnce() {
        var exchange = Exchange(clientKeepsAlive: true, requestIsWhole: true)
        exchange.connected(reused: true)
        #expect(exchange.upstreamFailed(.brokeOff) == .init(upstream: .acquire))
        exchange.connected(reused: true)
        #expect(exchange.upstreamFailed(.brokeOff).ending == .failed(.brokeOff))

        var sent = Exchange(clientKeepsAlive: true, requestIsWhole: true)
        sent.connected(reused: true)
        sent.sentToUpstream()
        #expect(sent.upstreamFailed(.brokeOff).client == .answer(.brokeOff))
    }

    @Test func anAnswerThatComesBeforeTheRequestHasLeftAUsedConnectionIsNotTaken() {
        var exchange = Exchange(clientKeepsAlive: true, requestIsWhole: true)
        exchange.connected(reused: true)
        exchange.answerStarted()
        #expect(!exchange.isAnswering)
        #expect(exchange.answerEnded(upstreamKeepsAlive: true) == .init(upstream: .acquire))
        // A second such connection is the end of it.
        exchange.connected(reused: true)
        exchange.answerStarted()
        #expect(
            exchange.answerEnded(upstreamKeepsAlive: true)
                == .init(upstream: .close, client: .answer(.brokeOff), ending: .failed(.brokeOff)))

        var other = Exchange(clientKeepsAlive: true, requestIsWhole: true)
        other.connected(reused: true)
        #expect(other.upstreamFailed(.brokeOff) == .init(upstream: .acquire))
        other.connected(reused: false)
        other.sentToUpstream()
        other.answerStarted()
        #expect(other.answerEnded(upstreamKeepsAlive: true).ending == .answered)
    }

    @Test func overRandomHistoriesAnExchangeEndsOnceAndThenSaysNothing() {
        var generator = SystemRandomNumberGenerator()
        let seed = UInt64.random(in: 0 ... .max, using: &generator)
        print("seed \(seed)")
        var state = seed
        func next(_ bound: UInt64) -> UInt64 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return (state >> 33) % bound
        }
        for _ in 0..<20_000 {
            var exchange = Exchange(clientKeepsAlive: next(2) == 0, requestIsWhole: next(2) == 0)
            var endings = 0
            var acquisitions = 1
            var upstreamIsOurs = false
            var isAsked = false
            for _ in 0..<next(12) {
                var step = Exchange.Step()
                switch next(7) {
                case 0:
                    if exchange.hasUpstream || exchange.isEnded { continue }
                    let isReused = next(2) == 0
                    exchange.connected(reused: isReused)
                    upstreamIsOurs = true
                    isAsked = !isReused
                case 1:
                    exchange.sentToUpstream()
                    isAsked = isAsked || upstreamIsOurs
                case 2: exchange.answerStarted()
                case 3: step = exchange.answerEnded(upstreamKeepsAlive: next(2) == 0)
                case 4: step = exchange.upstreamFailed([.brokeOff, .badAnswer, .timedOut][Int(next(3))])
                case 5: step = exchange.clientLeft()
                default: step = exchange.connectionFailed(.unreachable)
                }
                switch step.upstream {
                case .release, .close:
                    #expect(upstreamIsOurs)
                    upstreamIsOurs = false
                case .acquire:
                    acquisitions += 1
                    upstreamIsOurs = false
                case .withdraw: #expect(!upstreamIsOurs)
                case .none: break
                }
                if step.ending != nil { endings += 1 }
                #expect(step.ending != .answered || isAsked)
                #expect(endings == (exchange.isEnded ? 1 : 0))
            }
            #expect(acquisitions <= 2)
            #expect(!exchange.isEnded || !upstreamIsOurs)
        }
    }
}
