import HTTPMessages
import Testing

@Suite struct ChunkGuardTests {
    static let refused: [(String, Refusal)] = [
        ("zz\r\n", .badChunk), ("\r\n", .badChunk), ("-5\r\n", .badChunk), ("+5\r\n", .badChunk),
        ("0x5\r\n", .badChunk),
        (" 5\r\n", .badChunk), ("5 \r\n", .badChunk), ("5\n", .badChunk), ("5\r5", .badChunk), ("5,5\r\n", .badChunk),
        ("1000000000000000\r\n", .badChunk), ("5;a\nb\r\n", .badChunk), ("5;a\u{0}\r\n", .badChunk),
        ("5;a=\"b\r\n", .badChunk), ("5;a\rb\r\n", .badChunk), ("5\r\nhello0\r\n", .badChunk),
        ("5\r\nhello\n0\r\n", .badChunk), ("5\r\nhello\r0", .badChunk), ("5\r\nhello\r\n\r\n", .badChunk),
        ("0\r\n\n", .badTrailer), ("0\r\na\r\n", .badTrailer), ("0\r\na b: c\r\n", .badTrailer),
        ("0\r\na : c\r\n", .badTrailer), ("0\r\n a: c\r\n", .badTrailer), ("0\r\na: b\nc: d\r\n", .badTrailer),
        ("0\r\na: b\u{0}\r\n", .badTrailer), ("0\r\n: b\r\n", .badTrailer), ("0\r\n\rx", .badTrailer),
        ("5;" + String(repeating: "a", count: HeadLimits.chunkLineSize) + "\r\n", .badChunk),
        ("0\r\na: " + String(repeating: "b", count: HeadLimits.trailerSize) + "\r\n\r\n", .trailerTooLarge),
        ("0\r\n" + String(repeating: "a: b\r\n", count: HeadLimits.fieldCount + 1) + "\r\n", .trailerTooLarge),
    ]
    static let accepted = [
        "0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "00000005\r\nhello\r\n00\r\n\r\n", "a;b\r\n0123456789\r\n0;c=d\r\n\r\n",
        "5 ; a = \"b;\\\"c\u{e9}\"\r\nhello\r\n0\r\n\r\n", "5\r\n\r\n0\r\n\r\n0\r\na: b\r\nc:\r\n\r\n",
        "A\r\n0123456789\r\n0\r\n\r\n",
    ]

    @Test(arguments: refused) func isRefusedWholeAndByteByByte(_ text: String, _ expected: Refusal) {
        let bytes = Array(text.utf8)
        var whole = ChunkGuard()
        #expect(whole.check(bytes.span) == expected)
        var single = ChunkGuard()
        var found: Refusal?
        for index in bytes.indices where found == nil { found = single.check(bytes.span.extracting(index..<index + 1)) }
        #expect(found == expected)
    }

    @Test(arguments: accepted) func isAcceptedWhereverItIsCut(_ text: String) {
        // What follows the body is the next message's.
        let bytes = Array((text + "GET / HTTP/1.1\r\n\r\n").utf8)
        for cut in 0...text.utf8.count {
            var chunks = ChunkGuard()
            #expect(chunks.check(bytes.span.extracting(0..<cut)) == nil)
            #expect(chunks.isEnded == (cut == text.utf8.count))
            #expect(chunks.check(bytes.span.extracting(cut..<bytes.count)) == nil)
            #expect(chunks.isEnded)
        }
    }
}
