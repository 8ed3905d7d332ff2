// Bytes of one connection -> heads, bodies and ends of messages.
//
// Two readers in a row: `HeadScanner` refuses what has more than one meaning and finds the lines; http-parser then
// reads the same bytes and keeps the framing. Of a chunked body `ChunkGuard` does the same. Both must agree.

import CHTTPParser
import CLibevent
import Glibc
package import HTTPMessages

/// What a parser tells, in order: head, bodies, end.
package protocol MessageSink: AnyObject {
    /// `bytes` holds the head; `parser.scanner` has its lines. Answer how to go on.
    func headParsed(_ bytes: Span<UInt8>) -> MessageParser.Verdict
    func bodyParsed(_ bytes: UnsafeRawBufferPointer)
    /// `bytesFollow`: the same read brought bytes beyond the message.
    func messageEnded(bytesFollow: Bool)
}

package final class MessageParser {
    package enum Verdict {
        case proceed
        /// A chunked body follows.
        case chunked
        /// A body is not sent, whatever the head says (answers to HEAD, 204, 304).
        case withoutBody
        case refuse(Refusal)
    }

    package enum Progress {
        /// All was taken; the message goes on.
        case needsMore
        /// The message ended after that many bytes.
        case ended(consumed: Int)
        case refused(Refusal)
    }

    // Written once, in this initializer, and only read by http-parser afterwards.
    nonisolated(unsafe) private static let settings: UnsafeMutablePointer<http_parser_settings> = {
        // Our own limit is checked by the scanner; http-parser's must only be above it.
        http_parser_set_max_header_size(UInt32(HeadLimits.headSize * 2))
        let settings = UnsafeMutablePointer<http_parser_settings>.allocate(capacity: 1)
        http_parser_settings_init(settings)
        settings.pointee.on_headers_complete = { MessageParser.of($0)?.headersComplete() ?? -1 }
        settings.pointee.on_body = { parser, start, count in
            guard let reader = MessageParser.of(parser) else { return -1 }
            reader.sink?.bodyParsed(UnsafeRawBufferPointer(start: start, count: count))
            return 0
        }
        settings.pointee.on_message_complete = { parser in
            guard let reader = MessageParser.of(parser) else { return -1 }
            reader.hasEnded = true
            // Stops here, so that what follows is not read as a second message before its time.
            http_parser_pause(parser, 1)
            return 0
        }
        return settings
    }()

    private static func of(_ parser: UnsafeMutablePointer<http_parser>?) -> MessageParser? {
        guard let data = parser?.pointee.data else { return nil }
        return Unmanaged<MessageParser>.fromOpaque(data).takeUnretainedValue()
    }

    private let parser = UnsafeMutablePointer<http_parser>.allocate(capacity: 1)
    private let type: http_parser_type
    package private(set) var scanner = HeadScanner()
    /// A head that has not arrived whole.
    private var partial: [UInt8] = []
    private var isInBody = false
    private var chunks: ChunkGuard?
    private var hasEnded = false
    private var refusal: Refusal?
    private var head: UnsafeRawBufferPointer?
    // The connection that owns this parser; it clears this before it goes.
    package unowned(unsafe) var sink: (any MessageSink)?

    package init(answers: Bool) {
        type = answers ? HTTP_RESPONSE : HTTP_REQUEST
        reset()
    }

    deinit { parser.deallocate() }

    /// True where a message has begun and not ended.
    var isInMessage: Bool { isInBody || !partial.isEmpty }

    private func reset() {
        http_parser_init(parser, type)
        parser.pointee.data = Unmanaged.passUnretained(self).toOpaque()
        scanner.reset()
        partial.removeAll(keepingCapacity: partial.capacity <= 16_384)
        isInBody = false
        chunks = nil
        hasEnded = false
        refusal = nil
    }

    /// Takes the next bytes of the connection.
    package func consume(_ bytes: UnsafeRawBufferPointer) -> Progress {
        if isInBody { return execute(bytes, offset: 0) }
        if partial.isEmpty {
            switch scanner.scan(bytes.bindMemory(to: UInt8.self).span) {
            case .incomplete:
                partial.append(contentsOf: bytes)
                return .needsMore
            case .refused(let refusal): return .refused(refusal)
            case .complete(let end):
                return take(head: UnsafeRawBufferPointer(rebasing: bytes[..<end]), then: bytes, from: end)
            }
        }
        let before = partial.count
        partial.append(contentsOf: bytes)
        switch scanner.scan(partial.span) {
        case .incomplete: return .needsMore
        case .refused(let refusal): return .refused(refusal)
        case .complete(let end):
            // The callbacks must not find `partial` borrowed: it is taken out for their time.
            let whole = partial
            return whole.withUnsafeBytes {
                take(head: UnsafeRawBufferPointer(rebasing: $0[..<end]), then: bytes, from: end - before)
            }
        }
    }

    private func take(head: UnsafeRawBufferPointer, then bytes: UnsafeRawBufferPointer, from start: Int) -> Progress {
        self.head = head
        isInBody = true
        let taken = http_parser_execute(parser, Self.settings, head.bindMemory(to: CChar.self).baseAddress, head.count)
        self.head = nil
        if let refusal { return .refused(refusal) }
        if hasEnded { return ended(consumed: start, of: bytes.count) }
        guard taken == head.count, errorCode == HPE_OK else { return .refused(refused(head)) }
        return start == bytes.count ? .needsMore : execute(bytes, offset: start)
    }

    private func execute(_ bytes: UnsafeRawBufferPointer, offset: Int) -> Progress {
        let rest = UnsafeRawBufferPointer(rebasing: bytes[offset...])
        if let refusal = chunks?.check(rest.bindMemory(to: UInt8.self).span) { return .refused(refusal) }
        let taken = http_parser_execute(parser, Self.settings, rest.bindMemory(to: CChar.self).baseAddress, rest.count)
        if hasEnded { return ended(consumed: offset + taken, of: bytes.count) }
        return taken == rest.count && errorCode == HPE_OK ? .needsMore : .refused(refused)
    }

    private func ended(consumed: Int, of count: Int) -> Progress {
        reset()
        sink?.messageEnded(bytesFollow: consumed < count)
        return .ended(consumed: consumed)
    }

    /// The connection ended. True where that ends a message in good order (a body until close).
    package func connectionEnded() -> Bool {
        guard isInBody else { return false }
        _ = http_parser_execute(parser, Self.settings, nil, 0)
        guard hasEnded else { return false }
        _ = ended(consumed: 0, of: 0)
        return true
    }

    private func headersComplete() -> Int32 {
        guard let head, let sink else { return -1 }
        switch sink.headParsed(head.bindMemory(to: UInt8.self).span) {
        case .proceed: return 0
        case .chunked:
            chunks = ChunkGuard()
            return 0
        case .withoutBody: return 1
        case .refuse(let refusal):
            self.refusal = refusal
            return -1
        }
    }

    /// Where both readers refuse a request, ours says it better.
    private func refused(_ head: UnsafeRawBufferPointer) -> Refusal {
        guard type == HTTP_REQUEST else { return refused }
        do throws(Refusal) {
            _ = try RequestHead(head.bindMemory(to: UInt8.self).span, scanner)
            return refused
        } catch { return error }
    }

    private var errorCode: http_errno { http_errno(rawValue: parser.pointee.http_errno) }

    private var refused: Refusal {
        switch errorCode {
        case HPE_INVALID_METHOD: .methodUnknown
        case HPE_INVALID_CHUNK_SIZE, HPE_STRICT, HPE_LF_EXPECTED: .badChunk
        case HPE_INVALID_CONTENT_LENGTH, HPE_UNEXPECTED_CONTENT_LENGTH: .lengthUnreadable
        case HPE_HEADER_OVERFLOW: isInBody ? .badChunk : .headTooLarge
        case HPE_INVALID_VERSION: .badVersion
        case HPE_INVALID_URL, HPE_INVALID_HOST, HPE_INVALID_PATH: .badTarget
        default: .badStartLine
        }
    }
}
