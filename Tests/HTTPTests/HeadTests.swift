import HTTPMessages
import Testing

private func refusal(_ text: String) -> Refusal? {
    let bytes = Array(text.utf8)
    var scanner = HeadScanner()
    switch scanner.scan(bytes.span) {
    case .refused(let refusal): return refusal
    case .incomplete: return nil
    case .complete:
        do throws(Refusal) {
            let head = try RequestHead(bytes.span, scanner)
            return RequestHead.leavesBase(bytes.span, head.path) ? .pathLeavesBase : nil
        } catch { return error }
    }
}

@Suite struct RefusedRequestTests {
    static let shapes: [(String, Refusal)] = [
        ("POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n", .lengthRepeated),
        ("POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n", .lengthRepeated),
        ("POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 5, 5\r\n\r\n", .lengthUnreadable),
        ("POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: +5\r\n\r\n", .lengthUnreadable),
        ("POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 0x5\r\n\r\n", .lengthUnreadable),
        ("POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length:\r\n\r\n", .lengthUnreadable),
        ("POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999\r\n\r\n", .lengthUnreadable),
        (
            "POST /v1/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n",
            .lengthWithTransferCoding
        ),
        ("POST /v1/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n", .transferCodingUnknown),
        ("POST /v1/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n", .transferCodingUnknown),
        ("POST /v1/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n", .transferCodingUnknown),
        ("POST /v1/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n", .transferCodingUnknown),
        (
            "POST /v1/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
            .transferCodingUnknown
        ),
        ("POST /v1/x HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n", .transferCodingInOldVersion),
        ("POST /v1/x HTTP/1.1\nhost: a\r\n\r\n", .bareLineEnd),
        ("POST /v1/x HTTP/1.1\r\nhost: a\n\r\n", .bareLineEnd),
        ("POST /v1/x HTTP/1.1\r\nhost: a\rb\r\n\r\n", .bareLineEnd),
        ("POST /v1/x HTTP/1.1\r\nhost : a\r\n\r\n", .spaceBeforeColon),
        ("POST /v1/x HTTP/1.1\r\nhost\t: a\r\n\r\n", .spaceBeforeColon),
        ("POST /v1/x HTTP/1.1\r\nhost: a\r\n folded\r\n\r\n", .obsoleteFold),
        ("POST /v1/x HTTP/1.1\r\n host: a\r\n\r\n", .obsoleteFold),
        ("POST /v1/x HTTP/1.1\r\nhost: a\u{0}b\r\n\r\n", .controlInValue),
        ("POST /v1/x HTTP/1.1\r\nhost: a\u{1}b\r\n\r\n", .controlInValue),
        ("POST /v1/x HTTP/1.1\r\nhost: a\u{7f}b\r\n\r\n", .controlInValue),
        ("POST /v1/x HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n", .hostRepeated),
        ("POST /v1/x HTTP/1.1\r\n\r\n", .hostMissing),
        ("POST /v1/x HTTP/1.1\r\nhost: a\r\n: b\r\n\r\n", .badFieldName),
        ("POST /v1/x HTTP/1.1\r\nhost: a\r\nna me: b\r\n\r\n", .spaceBeforeColon),
        ("POST /v1/x HTTP/1.1\r\nhost: a\r\nname\r\n\r\n", .badFieldName),
        ("POST /v1/x HTTP/1.1\r\nhost: a\r\nna(me: b\r\n\r\n", .badFieldName),
        ("POST /v1/x HTTP/1.1\r\nhost: a b\r\n\r\n", .hostUnreadable),
        ("POST /v1/x HTTP/1.1\r\nhost: a/b\r\n\r\n", .hostUnreadable),
        ("POST /v1/x HTTP/1.1\r\nhost: u@a\r\n\r\n", .hostUnreadable),
        ("POST /v1/x HTTP/1.1\r\nhost: a\r\nconnection: x, Content-Length\r\n\r\n", .connectionNamesFraming),
        ("POST /v1/x HTTP/1.1\r\nhost: a\r\nconnection: transfer-encoding\r\n\r\n", .connectionNamesFraming),
        ("POST /v1/x HTTP/1.1\r\nhost: a\r\nconnection: host\r\n\r\n", .connectionNamesFraming),
        ("GET http:///v1/x HTTP/1.1\r\nhost: a\r\n\r\n", .badTarget),
        ("GET http://u@a/v1/x HTTP/1.1\r\nhost: a\r\n\r\n", .badTarget),
        ("GET http://a HTTP/1.1\r\nhost: a\r\n\r\n", .badTarget),
        ("GET /v1/\u{e9} HTTP/1.1\r\nhost: a\r\n\r\n", .badTarget),
        ("GET ftp://a/v1/x HTTP/1.1\r\nhost: a\r\n\r\n", .badTarget),
        ("GET /%252e%252e/x HTTP/1.1\r\nhost: a\r\n\r\n", .pathLeavesBase),
        ("GET /..;a=b/x HTTP/1.1\r\nhost: a\r\n\r\n", .pathLeavesBase),
        ("CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n", .connectRefused),
        ("GET /v1/x HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", .upgradeRefused),
        ("GET /v1/x HTTP/2.0\r\nhost: a\r\n\r\n", .badVersion),
        ("GET /v1/x http/1.1\r\nhost: a\r\n\r\n", .badVersion),
        ("GET /v1/x\r\nhost: a\r\n\r\n", .badStartLine),
        ("GET  /v1/x HTTP/1.1\r\nhost: a\r\n\r\n", .badStartLine),
        ("GET /v1/x y HTTP/1.1\r\nhost: a\r\n\r\n", .badStartLine),
        ("G@T /v1/x HTTP/1.1\r\nhost: a\r\n\r\n", .badStartLine),
        ("GET v1/x HTTP/1.1\r\nhost: a\r\n\r\n", .badTarget),
        ("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", .badTarget),
        ("GET /v1/x#y HTTP/1.1\r\nhost: a\r\n\r\n", .badTarget),
        ("GET /../x HTTP/1.1\r\nhost: a\r\n\r\n", .pathLeavesBase),
        ("GET /%2e%2E/x HTTP/1.1\r\nhost: a\r\n\r\n", .pathLeavesBase),
        ("GET /a/..%2f..%2fx HTTP/1.1\r\nhost: a\r\n\r\n", .pathLeavesBase),
        ("GET /a\\..\\..\\x HTTP/1.1\r\nhost: a\r\n\r\n", .pathLeavesBase),
        (
            "GET /" + String(repeating: "a", count: HeadLimits.targetSize) + " HTTP/1.1\r\nhost: a\r\n\r\n",
            .targetTooLong
        ),
        (
            "GET /x HTTP/1.1\r\nhost: a\r\nbig: " + String(repeating: "a", count: HeadLimits.headSize) + "\r\n\r\n",
            .headTooLarge
        ),
        (
            "GET /x HTTP/1.1\r\nhost: a\r\n" + String(repeating: "a: b\r\n", count: HeadLimits.fieldCount) + "\r\n",
            .tooManyFields
        ),
    ]

    @Test(arguments: shapes) func isRefused(_ text: String, _ expected: Refusal) {
        #expect(refusal(text) == expected)
    }

    @Test(arguments: [
        "POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n",
        "\r\nPOST /v1/x?a=b..c HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n\r\n",
        "GET http://somewhere/v1/x HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /v1/a/../b...c/.. HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /v1/x HTTP/1.0\r\n\r\n",
        "GET /v1/x HTTP/1.1\r\nhost:\r\n\r\n",
        "GET /v1/x HTTP/1.1\r\nhost: [::1]:80\r\n\r\n",
        "GET /x HTTP/1.1\r\nhost: a\r\n" + String(repeating: "a: b\r\n", count: HeadLimits.fieldCount - 1) + "\r\n",
        "GET /" + String(repeating: "a", count: HeadLimits.targetSize - 1) + " HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /v1/x HTTP/1.1\r\nhost:\t a \t\r\nx: \r\nutf: \u{e9}\r\n\r\n",
    ])
    func isAccepted(_ text: String) {
        #expect(refusal(text) == nil)
    }

    /// The scanner looks at eight bytes at a time: of each byte, wherever it stands among them and beside whichever other.
    @Test func eachByteOfAValueIsSeenWhereverItStands() {
        for byte in UInt8.min...UInt8.max {
            for place in 0..<20 {
                for neighbour in [UInt8(ascii: "a"), 0x80, 0xFF] {
                    var value = [UInt8](repeating: neighbour, count: 20)
                    value[place] = byte
                    let bytes = Array("GET /v1/x HTTP/1.1\r\nhost: a\r\nx: ".utf8) + value + Array("\r\n\r\n".utf8)
                    var scanner = HeadScanner()
                    let found = scanner.scan(bytes.span)
                    let expected: HeadScanner.Progress =
                        switch byte {
                        case 0x0A, 0x0D: .refused(.bareLineEnd)
                        case 0x09, 0x20...0x7E, 0x80...: .complete(end: bytes.count)
                        default: .refused(.controlInValue)
                        }
                    if found != expected { Issue.record("\(byte) at \(place) beside \(neighbour): \(found)") }
                }
            }
        }
    }

    @Test(arguments: shapes) func isRefusedAlikeWhenItArrivesByteByByte(_ text: String, _ expected: Refusal) {
        let bytes = Array(text.utf8)
        if bytes.count > 10_000 { return }
        var scanner = HeadScanner()
        for count in 1...bytes.count {
            switch scanner.scan(bytes.span.extracting(first: count)) {
            case .incomplete: continue
            case .refused(let refusal): #expect(refusal == expected)
            case .complete(let end):
                #expect(end == count)
                #expect(refusal(text) == expected)
            }
            return
        }
        Issue.record("neither refused nor complete")
    }

    @Test func everyRefusalHasAnAnswerInThe400sOr501() {
        for refusal in Refusal.allCases {
            #expect([400, 414, 431, 501].contains(refusal.answer.status))
            #expect(!refusal.answer.message.isEmpty && !refusal.code.isEmpty)
        }
    }
}

@Suite struct HeadFieldTests {
    @Test func namesAndValuesAreFoundWithoutTheSpaceAroundThem() throws {
        let bytes = Array(
            "POST /v1/proxy/chat?x=1 HTTP/1.1\r\nHost: h\r\nX-Portkey-Meta:  {\"foo\":\"abc\"} \r\nConnection: close, X-Own\r\n\r\n"
                .utf8)
        var scanner = HeadScanner()
        #expect(scanner.scan(bytes.span) == .complete(end: bytes.count))
        #expect(scanner.fields.map(\.name) == [.host, .portkeyMeta, .connection])
        #expect(String(decoding: bytes[scanner.fields[1].valueRange], as: UTF8.self) == "{\"foo\":\"abc\"}")
        let head = try RequestHead(bytes.span, scanner)
        #expect(String(decoding: bytes[head.path], as: UTF8.self) == "/v1/proxy/chat")
        #expect(!head.keepsAlive)
        #expect(head.connectionOptions.map { String(decoding: bytes[$0], as: UTF8.self) } == ["X-Own"])
    }
}
