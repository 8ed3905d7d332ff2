// Stands in until the fold arrives.
import EventCodec
import Rollups

extension RollupDelta { mutating func subtract(fields: EventFields, series: Int32) {} }
