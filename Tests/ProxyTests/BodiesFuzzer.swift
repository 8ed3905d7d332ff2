// Any bytes as a body or as metadata -> the same findings wherever they are cut, and always one JSON object or none.

import Events
import JSONText

#if !FUZZING
    import CaptureProxy
#endif

private func read(_ bytes: UnsafeRawBufferPointer, _ form: AnswerBodyReader.Form, step: Int) -> RequestEvent {
    var reader = AnswerBodyReader()
    reader.reset(form)
    for begin in stride(from: 0, to: bytes.count, by: step) {
        reader.feed(UnsafeRawBufferPointer(rebasing: bytes[begin..<min(begin + step, bytes.count)]))
    }
    reader.finish()
    var event = RequestEvent(id: EventID(high: 1, low: 1), time: EventTime(microseconds: 0))
    event.operation = "responses"
    reader.report(to: &event, isWhole: true)
    return event
}

private func metadata(_ bytes: UnsafeRawBufferPointer, step: Int) -> CapturedMetadata {
    var body = RequestBodyReader(metadataLimit: 256)
    for begin in stride(from: 0, to: bytes.count, by: step) {
        body.feed(UnsafeRawBufferPointer(rebasing: bytes[begin..<min(begin + step, bytes.count)]))
    }
    var reader = MetadataReader(maxSize: 256)
    body.addMetadata(to: &reader)
    // Two headers out of the same bytes, and pairs.
    let half = bytes.count / 2
    reader.add(.metadataHeader, UnsafeRawBufferPointer(rebasing: bytes[..<half]))
    reader.add(.metaHeader, UnsafeRawBufferPointer(rebasing: bytes[half...]))
    let span = bytes.bindMemory(to: UInt8.self).span
    reader.addPair(.helicone, span.extracting(0..<min(8, half)), span.extracting(half..<bytes.count))
    reader.addTags(span)
    return reader.finish()
}

private func form(_ bytes: UnsafeRawBufferPointer, step: Int) -> FormReader {
    var reader = FormReader(boundary: [UInt8(ascii: "b")])
    for begin in stride(from: 0, to: bytes.count, by: step) {
        reader.feed(UnsafeRawBufferPointer(rebasing: bytes[begin..<min(begin + step, bytes.count)]))
    }
    return reader
}

/// What `make fuzz` feeds, and `FuzzCorpusTests` with what it has found. The first byte decides where the rest is cut.
func fuzzBodies(_ input: UnsafeRawBufferPointer) {
    guard let first = input.first, input.count > 1 else { return }
    let bytes = UnsafeRawBufferPointer(rebasing: input[1...])
    let step = Int(first) % 17 + 1
    for form in [AnswerBodyReader.Form.json, .lines, .events] {
        precondition(read(bytes, form, step: bytes.count) == read(bytes, form, step: step), "found only when cut so")
    }
    let (inOne, cut) = (form(bytes, step: bytes.count), form(bytes, step: step))
    precondition(inOne.model == cut.model && inOne.isStreamed == cut.isStreamed, "another form when cut so")
    let whole = metadata(bytes, step: bytes.count)
    precondition(whole == metadata(bytes, step: step), "other metadata when cut so")
    if !whole.raw.isEmpty {
        do throws(JSONTextError) {
            let parsed = try JSONValue.parse(whole.raw)
            guard case .object = parsed else { preconditionFailure("the merge is no object") }
        } catch { preconditionFailure("the merge does not parse: \(error)") }
    }
}

#if FUZZING
    @_cdecl("LLVMFuzzerTestOneInput")
    public func fuzz(_ start: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
        fuzzBodies(UnsafeRawBufferPointer(start: start, count: count))
        return 0
    }
#endif
