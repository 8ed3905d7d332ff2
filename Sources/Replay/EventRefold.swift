// Stored events, or those of the log, normalized and priced again -> a step of a replay. Pure.

package import EventCodec
package import Events
import Ingest
package import Normalizer
package import RollupStore
package import Rollups

/// What an event costs, and by which table; nil: no price is known.
package typealias Reprice = @Sendable (RequestEvent) -> (cost: NanoUSD, version: String)?

/// Prices of a stretch of time that a replay has put in place of those that were recorded.
package struct Repricing: Sendable {
    package var from: EventTime
    package var to: EventTime
    /// nil: of all.
    package var workspace: String?
    package var reprice: Reprice

    package init(from: EventTime, to: EventTime, workspace: String? = nil, reprice: @escaping Reprice) {
        self.from = from
        self.to = to
        self.workspace = workspace
        self.reprice = reprice
    }
}

package struct EventRefold {
    /// The rules that the events were counted under, and those that they are to be counted under now.
    private var before: RulesEras
    private var after: RulesEras
    private let reprice: Reprice?
    private let repriced: [Repricing]
    private let plan: ReplayPlan
    /// What the generation that is built has. An event whose metadata comes out as before stays filed as it is.
    private var admission = SetAdmission()
    private var folder = BatchFolder()
    private var step = ReplayStep()
    /// Of this step, by the store's number.
    private var seriesOfStored: [Int64: Int32] = [:]

    /// - `normalizer`: any that has the key of hashed values.
    /// - `reprice`: applied to the events that the plan changes.
    /// - `repriced`: what earlier replays have made of costs, the latest last; a stored event has it already.
    package init(
        _ plan: ReplayPlan, normalizer: Normalizer, before: RulesTimeline, after: RulesTimeline, reprice: Reprice?,
        repriced: [Repricing] = []
    ) throws(RollupStoreError) {
        self.plan = plan
        self.reprice = reprice
        self.repriced = repriced
        self.before = RulesEras(replaying: normalizer)
        self.after = RulesEras(replaying: normalizer)
        try self.before.use(before)
        try self.after.use(after)
        try admission.use(after)
    }

    /// Where a budget left values of an entity out: those that are counted by name. Of events that stay as they are, the
    /// others stay filed.
    private var named: [EntityHour: Set<[UInt8]>] = [:]

    private struct EntityHour: Hashable {
        var workspace: String
        var key: String
        var hour: Int32
    }

    /// Hour rows that the generation has already.
    package mutating func know(_ row: StoredRollup, _ series: SeriesKey) {
        admission.know(series.set, of: series.workspace, in: row.bucket)
    }

    /// Whether what answers now leaves any value of an entity out.
    package var hasFiledEntities: Bool { !named.isEmpty }

    package mutating func forgetEntities() { named = [:] }

    /// Entities' hour rows of what answers: all of them first, to see where values are left out; then with `named`.
    package mutating func recall(_ row: StoredRollup, _ series: SeriesKey, named isSecond: Bool) {
        guard row.measures.requests != 0, isSecond || EntitySet.isFiled(series.set),
            let key = EntitySet.key(of: series.set)
        else { return }
        let place = EntityHour(workspace: series.workspace, key: key, hour: row.bucket)
        if isSecond { named[place]?.insert(series.set) } else { named[place] = [] }
    }

    package mutating func add(_ event: ReplayEvent) {
        let old = event.stored.event
        // `truncated` is what normalization made of `ok`; everything else is how the metadata came.
        let status = old.metadataStatus == .truncated ? .ok : old.metadataStatus
        let (raw, metadata, conflicts) = normalize(event, status)
        var (cost, priceVersion) = (old.cost, old.priceVersion)
        if let reprice, plan.changes(old.time, of: event.series.workspace), old.usageSource == .response {
            let price = reprice(full(event))
            cost = price?.cost
            priceVersion = price?.version ?? ""
        }
        let series = series(of: event, metadata.set)
        let fields = EventFields(measured: old, cost: cost)
        folder.add(fields, series: series)
        addEntities(
            of: event.series.workspace, metadata.extra, fields, series,
            staysFiled: metadata.extra == event.stored.extra)
        step.events += 1
        let isSame =
            metadata.set == event.series.set && metadata.extra == event.stored.extra
            && metadata.status == old.metadataStatus && conflicts == old.metadataConflicts
            && raw.map { $0 == old.metadataRaw } ?? true && cost == old.cost && priceVersion == old.priceVersion
        if !isSame { step.changed += 1 }
        // Without a revision of its own the event reads as ingest has made it, whatever another replay makes of it.
        if isSame && !event.stored.isRevised { return }
        step.revisions.append(
            EventRevision(
                time: old.time, id: old.id, series: series, metadataStatus: metadata.status,
                metadataConflicts: conflicts, metadataRaw: raw ?? old.metadataRaw, extra: metadata.extra, cost: cost,
                priceVersion: priceVersion))
    }

    /// An event of the log, which the store has no more: `bytes` is what its ranges point into. No revision is made of it.
    package mutating func add(_ fields: EventFields, _ bytes: UnsafeRawBufferPointer) {
        let (time, status) = (fields.time, fields.metadataStatus)
        let raw = UnsafeRawBufferPointer(rebasing: bytes[fields.metadataRaw.range])
        let workspace = String(decoding: UnsafeRawBufferPointer(rebasing: bytes[fields.workspace.range]), as: UTF8.self)
        let new = Self.normalize(raw, status, at: time, of: workspace, &after)
        var priced = fields
        var isChanged = false
        var staysFiled = true
        if fields.usageSource == .response {
            func cost(_ reprice: Reprice) -> NanoUSD? { reprice(RequestEvent(fields, in: bytes))?.cost }
            if let earlier = repriced.last(where: {
                $0.from <= time && time < $0.to && ($0.workspace ?? workspace) == workspace
            }) {
                priced.cost = cost(earlier.reprice)
            }
            let old = priced.cost
            if let reprice, plan.changes(time, of: workspace) { priced.cost = cost(reprice) }
            isChanged = priced.cost != old
        }
        if plan.rules != nil, plan.changes(time, of: workspace) {
            let old = Self.normalize(raw, status, at: time, of: workspace, &before)
            staysFiled = old.extra == new.extra
            isChanged = isChanged || old.set != new.set || old.extra != new.extra || old.status != new.status
        }
        if isChanged { step.changed += 1 }
        let filing = admission.admit(new.set, of: workspace, in: Grain.hour.bucket(of: time)) { _, _ in nil }
        let series = folder.add(priced, bytes: bytes, set: filing?.set ?? new.set)
        addEntities(of: workspace, new.extra, priced, series, staysFiled: staysFiled)
    }

    private static func normalize(
        _ raw: UnsafeRawBufferPointer, _ status: MetadataStatus, at time: EventTime, of workspace: String,
        _ eras: inout RulesEras
    ) -> NormalizedMetadata {
        let line = eras.line(of: workspace)
        guard let kept = eras.redact(raw, at: time, line: line) else {
            return eras.normalize(raw: raw, status: status, at: time, line: line)
        }
        return eras.normalize(raw: kept, status: status, at: time, line: line)
    }

    private mutating func addEntities(
        of workspace: String, _ extra: [UInt8], _ fields: EventFields, _ series: Int32, staysFiled: Bool
    ) {
        let hour = Grain.hour.bucket(of: fields.time)
        let entities = after.entities(at: fields.time, line: after.line(of: workspace))
        let staysFiled =
            staysFiled && entities == before.entities(at: fields.time, line: before.line(of: workspace))
        entities.each(of: extra) { set in
            var counted = set
            if staysFiled {
                if !isNamed(set, workspace, hour), let filed = EntitySet.filed(set) { counted = filed }
                admission.know(counted, of: workspace, in: hour)
            } else if let filing = admission.admit(set, of: workspace, in: hour, { _, _ in nil }) {
                counted = filing.set
            }
            _ = folder.add(fields, of: series, entity: counted)
        }
    }

    private func isNamed(_ set: [UInt8], _ workspace: String, _ hour: Int32) -> Bool {
        guard !named.isEmpty, let key = EntitySet.key(of: set) else { return true }
        return named[EntityHour(workspace: workspace, key: key, hour: hour)]?.contains(set) ?? true
    }

    /// With what its series holds.
    private func full(_ event: ReplayEvent) -> RequestEvent {
        var full = event.stored.event
        full.workspace = event.series.workspace
        full.apiKey = event.series.apiKey
        full.provider = event.series.provider
        full.operation = event.series.operation
        full.outcome = event.series.outcome
        return full
    }

    /// Most events stay in their series; others go to that of the new set.
    private mutating func series(of event: ReplayEvent, _ set: [UInt8]) -> Int32 {
        if set == event.series.set {
            if let known = seriesOfStored[event.stored.series] { return known }
            let series = folder.series(event.series)
            seriesOfStored[event.stored.series] = series
            return series
        }
        var key = event.series
        key.set = set
        return folder.series(key)
    }

    /// `raw` is nil where it stays.
    private mutating func normalize(
        _ event: ReplayEvent, _ status: MetadataStatus
    ) -> (raw: [UInt8]?, metadata: NormalizedMetadata, conflicts: UInt32) {
        let (old, series) = (event.stored.event, event.series)
        let (then, now) = (before.line(of: series.workspace), after.line(of: series.workspace))
        return old.metadataRaw.withUnsafeBytes { raw in
            // What the proxy has counted of conflicts stays; what normalization has counted is counted anew.
            var others: UInt32 = 0
            if old.metadataConflicts > 0 {
                let counted = before.normalize(raw: raw, status: status, at: old.time, line: then).conflicts
                // Of what came under a replay that is taken back by now, the rules of then are not known here.
                others = old.metadataConflicts - min(counted, old.metadataConflicts)
            }
            let kept = after.redact(raw, at: old.time, line: now)
            var new =
                if let kept {
                    after.normalize(raw: kept, status: status, at: old.time, line: now)
                } else {
                    after.normalize(raw: raw, status: status, at: old.time, line: now)
                }
            let hour = Grain.hour.bucket(of: old.time)
            if SetText.isFiled(new.set, new.extra, as: series.set, event.stored.extra) {
                (new.set, new.extra) = (series.set, event.stored.extra)
                admission.know(new.set, of: series.workspace, in: hour)
            } else if let filing = admission.admit(new.set, of: series.workspace, in: hour, { _, _ in nil }) {
                (new.set, new.extra) = (filing.set, filing.extra(new.extra))
            }
            return (kept, new, others &+ new.conflicts)
        }
    }

    /// What was added since the last step.
    package mutating func finish() -> ReplayStep {
        (step.series, step.delta) = folder.finish()
        seriesOfStored.removeAll(keepingCapacity: true)
        defer { step = ReplayStep() }
        return step
    }
}

extension EventFields {
    /// The time and what is measured; no texts.
    fileprivate init(measured event: RequestEvent, cost: NanoUSD?) {
        self.init()
        time = event.time
        inputTokens = event.inputTokens
        outputTokens = event.outputTokens
        cachedTokens = event.cachedTokens
        reasoningTokens = event.reasoningTokens
        self.cost = cost
        requestBytes = event.requestBytes
        responseBytes = event.responseBytes
        latencyMicroseconds = event.latencyMicroseconds
        firstTokenMicroseconds = event.firstTokenMicroseconds
        overheadMicroseconds = event.overheadMicroseconds
    }
}
