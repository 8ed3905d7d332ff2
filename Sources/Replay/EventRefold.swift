// Stored events, normalized and priced again -> a step of a replay. Pure.

import EventCodec
package import Events
import Ingest
package import Normalizer
package import RollupStore
package import Rollups

/// What an event costs, and by which table; nil: no price is known.
package typealias Reprice = @Sendable (RequestEvent) -> (cost: NanoUSD, version: String)?

package struct EventRefold {
    /// The rules that the events were counted under, and those that they are to be counted under now.
    private var before: RulesEras
    private var after: RulesEras
    private let reprice: Reprice?
    private let plan: ReplayPlan
    /// What the generation that is built has. An event whose metadata comes out as before stays filed as it is.
    private var admission = SetAdmission()
    private var folder = BatchFolder()
    private var step = ReplayStep()
    private var encoded: [UInt8] = []

    /// - `normalizer`: any that has the key of hashed values.
    /// - `reprice`: applied to the events of the plan's range.
    package init(
        _ plan: ReplayPlan, normalizer: Normalizer, before: RulesTimeline, after: RulesTimeline, reprice: Reprice?
    ) throws(RollupStoreError) {
        self.plan = plan
        self.reprice = reprice
        self.before = RulesEras(replaying: normalizer)
        self.after = RulesEras(replaying: normalizer)
        try self.before.use(before)
        try self.after.use(after)
        try admission.use(after)
    }

    /// Hour rows that the generation has already.
    package mutating func know(_ row: StoredRollup, _ series: SeriesKey) {
        admission.know(series.set, of: series.workspace, in: row.bucket)
    }

    package mutating func add(_ event: ReplayEvent) throws(RollupStoreError) {
        let stored = event.stored
        var full = stored.event
        full.workspace = event.series.workspace
        full.apiKey = event.series.apiKey
        full.provider = event.series.provider
        full.operation = event.series.operation
        full.outcome = event.series.outcome
        // `truncated` is what normalization made of `ok`; everything else is how the metadata came.
        if full.metadataStatus == .truncated { full.metadataStatus = .ok }
        let (raw, metadata, conflicts) = normalize(full, event)
        var new = full
        new.metadataRaw = raw
        new.metadataConflicts = conflicts
        if let reprice, full.time >= plan.from, full.time < plan.to, full.usageSource == .response {
            let price = reprice(full)
            new.cost = price?.cost
            new.priceVersion = price?.version ?? ""
        }
        encoded.removeAll(keepingCapacity: true)
        EventEncoder.encode(new, into: &encoded)
        let series: Int32
        do {
            series = try encoded.withUnsafeBytes { bytes in
                folder.add(try EventDecoder.decode(bytes, base: 0), bytes: bytes, set: metadata.set)
            }
        } catch {
            throw RollupStoreError(
                code: .corrupt, tried: "replay the event \(full.id)", reason: "\(error)",
                next: "Look at it with 'GET /v1/events/\(full.id)'.")
        }
        step.events += 1
        let isSame =
            metadata.set == event.series.set && metadata.extra == stored.extra
            && metadata.status == stored.event.metadataStatus && conflicts == stored.event.metadataConflicts
            && raw == stored.event.metadataRaw && new.cost == stored.event.cost
            && new.priceVersion == stored.event.priceVersion
        if !isSame { step.changed += 1 }
        // Without a revision of its own the event reads as ingest has made it, whatever another replay makes of it.
        if isSame && !stored.isRevised { return }
        step.revisions.append(
            EventRevision(
                time: full.time, id: full.id, series: series, metadataStatus: metadata.status,
                metadataConflicts: conflicts, metadataRaw: raw, extra: metadata.extra, cost: new.cost,
                priceVersion: new.priceVersion))
    }

    private mutating func normalize(
        _ event: RequestEvent, _ stored: ReplayEvent
    ) -> (raw: [UInt8], metadata: NormalizedMetadata, conflicts: UInt32) {
        event.metadataRaw.withUnsafeBytes { raw in
            let old = before.normalize(raw: raw, status: event.metadataStatus, at: event.time)
            let kept = after.redact(raw, at: event.time) ?? event.metadataRaw
            var new = after.normalize(raw: kept, status: event.metadataStatus, at: event.time)
            let hour = Grain.hour.bucket(of: event.time)
            if SetText.isFiled(new.set, new.extra, as: stored.series.set, stored.stored.extra) {
                (new.set, new.extra) = (stored.series.set, stored.stored.extra)
                admission.know(new.set, of: event.workspace, in: hour)
            } else if let filing = admission.admit(new.set, of: event.workspace, in: hour, { _, _ in nil }) {
                (new.set, new.extra) = (filing.set, filing.extra(new.extra))
            }
            // What the proxy has counted stays; what normalization has counted is counted anew.
            return (kept, new, event.metadataConflicts &- old.conflicts &+ new.conflicts)
        }
    }

    /// What was added since the last step.
    package mutating func finish() -> ReplayStep {
        (step.series, step.delta) = folder.finish()
        defer { step = ReplayStep() }
        return step
    }
}
