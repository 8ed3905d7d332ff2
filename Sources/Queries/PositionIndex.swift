/// Series id -> position in an ascending list of ids: in the order of the list, whatever ids a store gives.
struct PositionIndex: Sendable {
    private var first: Int64 = 0
    private var last: Int64 = -1
    /// Ids are looked up by their distance from the first, less its low bits: about one to each.
    private var shift = 0
    /// `starts[n] ..< starts[n + 1]` are the positions of those of distance n.
    private var starts: [Int32] = []

    init(_ ids: [Int64]) {
        guard let least = ids.first, let greatest = ids.last else { return }
        (first, last) = (least, greatest)
        let range = UInt64(bitPattern: last &- first)
        while range >> UInt64(shift) > UInt64(ids.count) * 2 { shift += 1 }
        starts.reserveCapacity(Int(range >> UInt64(shift)) + 2)
        for (position, id) in ids.enumerated() {
            let distance = Int(UInt64(bitPattern: id &- first) >> UInt64(shift))
            while starts.count <= distance { starts.append(Int32(position)) }
        }
        starts.append(Int32(ids.count))
    }

    /// `ids`: those that it was made of.
    func position(of id: Int64, in ids: [Int64]) -> Int? {
        guard id >= first, id <= last else { return nil }
        let distance = Int(UInt64(bitPattern: id &- first) >> UInt64(shift))
        var (low, high) = (Int(starts[distance]), Int(starts[distance + 1]))
        while low < high {
            let middle = (low + high) / 2
            if ids[middle] < id { low = middle + 1 } else { high = middle }
        }
        return low < ids.count && ids[low] == id ? low : nil
    }
}
