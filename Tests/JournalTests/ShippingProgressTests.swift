// Order of shipping, with no producer: a manifest goes once all before it is settled, and nothing waits for it.

import Shipping
import Testing

@Suite struct ShippingProgressTests {
    @Test func whatIsDeferredGoesOnceAllBeforeItIsSettled() {
        var progress = ShippingProgress(checkpoint: 10)
        progress.recordsRead(10..<14)
        progress.recordSent(10)
        progress.recordSent(11)
        #expect(progress.nextToSend() == 12)
        progress.recordDeferred(12)
        #expect(progress.nextToSend() == 13)
        progress.recordSent(13)
        #expect(progress.nextToSend() == nil)
        progress.recordSettled(11)
        progress.recordSettled(13)
        #expect(progress.nextToSend() == nil)
        progress.recordSettled(10)
        #expect(progress.checkpoint == 12)
        #expect(progress.nextToSend() == 12)
        progress.recordSent(12)
        #expect(progress.nextToSend() == nil)
        progress.recordSettled(12)
        #expect(progress.checkpoint == 14 && progress.unsettled == 0)
    }

    @Test func aDeferredRecordOutlivesFailuresAndProducers() {
        var progress = ShippingProgress(checkpoint: 0)
        progress.recordsRead(0..<3)
        progress.recordSent(0)
        progress.recordDeferred(1)
        progress.recordDeferred(2)
        #expect(progress.producerLost() == 1)
        #expect(progress.nextToSend() == 0)
        progress.recordSent(0)
        #expect(progress.nextToSend() == nil)
        progress.recordFailed(0)
        #expect(progress.nextToSend() == 0)
        progress.recordSent(0)
        progress.recordSettled(0)
        #expect(progress.nextToSend() == 1)
        progress.recordSent(1)
        // It failed itself: first in line, it needs no deferring again.
        progress.recordFailed(1)
        #expect(progress.nextToSend() == 1)
        progress.recordSent(1)
        progress.recordSettled(1)
        #expect(progress.nextToSend() == 2)
        // One that the log refuses is settled without being sent.
        progress.recordSettled(2)
        #expect(progress.nextToSend() == nil && progress.checkpoint == 3 && progress.unsettled == 0)
    }

    @Test(arguments: [1, 2, 3, 4, 5, 6, 7, 8] as [UInt64])
    func everyRecordIsSentAndNoDeferredOneBeforeItsTime(_ seed: UInt64) {
        var state = seed
        func random(below limit: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(state >> 33) % limit
        }
        var progress = ShippingProgress(checkpoint: 0)
        let manifests = Set((0..<300).filter { _ in random(below: 5) == 0 }.map(Int64.init))
        var inFlight: [Int64] = []
        var settled: Set<Int64> = []
        var read: Int64 = 0
        for _ in 0..<20_000 where progress.checkpoint < 300 {
            switch random(below: 4) {
            case 0 where read < 300:
                let end = min(300, read + Int64(1 + random(below: 20)))
                progress.recordsRead(read..<end)
                read = end
            case 1, 2:
                guard let next = progress.nextToSend() else { continue }
                if manifests.contains(next), next > progress.checkpoint {
                    progress.recordDeferred(next)
                } else {
                    if manifests.contains(next) {
                        #expect((0..<next).allSatisfy { settled.contains($0) }, "seed \(seed)")
                    }
                    progress.recordSent(next)
                    inFlight.append(next)
                }
            default:
                guard !inFlight.isEmpty else { continue }
                let one = inFlight.remove(at: random(below: inFlight.count))
                switch random(below: 10) {
                case 0: progress.recordFailed(one)
                case 1:
                    inFlight.append(one)
                    #expect(progress.producerLost() == inFlight.count, "seed \(seed)")
                    inFlight = []
                default:
                    progress.recordSettled(one)
                    settled.insert(one)
                }
            }
        }
        #expect(progress.checkpoint == 300 && progress.unsettled == 0 && settled.count == 300, "seed \(seed)")
    }
}
