// libcurl -> one HTTP request of the command line, on a connection of its own: URL, body → status, body.

import CCurl
import Configuration
import Glibc

enum HTTPCall {
    private static let connectSeconds = 20
    private static let timeoutSeconds = 60
    private static let answerLimit = 256 << 20

    /// To the API at `url`. Host name and chain of `https` are verified, by the system's authorities or those that
    /// `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
    static func request(
        _ method: String, _ url: ProviderURL, path: String, _ headers: [(String, String)] = [], _ body: [UInt8] = []
    ) throws -> (status: Int, body: [UInt8]) {
        let easy = try handle(url, url.path + path, connectSeconds: connectSeconds)
        defer { curl_easy_cleanup(easy) }
        var lines: UnsafeMutablePointer<curl_slist>?
        defer { curl_slist_free_all(lines) }
        // Without the first the library waits a second for leave to send a large body.
        for (name, value) in [("Expect", "")] + headers {
            guard value.utf8.allSatisfy({ $0 >= 0x20 && $0 != 0x7F }) else {
                throw Failure("The value of the header \(name) holds a control character.", status: 2)
            }
            guard let longer = curl_slist_append(lines, value.isEmpty ? "\(name):" : "\(name): \(value)") else {
                throw noMemory
            }
            lines = longer
        }
        millrace_curl_set_pointer(easy, CURLOPT_HTTPHEADER, lines)
        millrace_curl_set_long(easy, CURLOPT_TIMEOUT_MS, timeoutSeconds * 1_000)
        if method != "GET" {
            millrace_curl_set_size(easy, CURLOPT_POSTFIELDSIZE_LARGE, curl_off_t(body.count))
            body.withUnsafeBytes { _ = millrace_curl_set_pointer(easy, CURLOPT_COPYPOSTFIELDS, $0.baseAddress) }
            millrace_curl_set_pointer(easy, CURLOPT_CUSTOMREQUEST, method)
        }
        let answer = Answer()
        millrace_curl_set_pointer(easy, CURLOPT_WRITEDATA, Unmanaged.passUnretained(answer).toOpaque())
        millrace_curl_set_receive(easy, CURLOPT_WRITEFUNCTION) { bytes, size, count, context in
            guard let bytes, let context else { return 0 }
            let answer = Unmanaged<Answer>.fromOpaque(context).takeUnretainedValue()
            guard answer.bytes.count + size * count <= HTTPCall.answerLimit else { return 0 }
            answer.bytes.append(contentsOf: UnsafeRawBufferPointer(start: bytes, count: size * count))
            return size * count
        }
        let result = withExtendedLifetime(answer) { curl_easy_perform(easy) }
        guard result == CURLE_OK else {
            throw failure(easy, result, url, hint: " Start 'millrace up' or 'millrace api', or correct --api.")
        }
        var status = 0
        _ = millrace_curl_status(easy, &status)
        return (status, answer.bytes)
    }

    /// Connects, shakes hands where it is `https`, and no more.
    static func reach(_ url: ProviderURL, seconds: Int) throws {
        let easy = try handle(url, "/", connectSeconds: seconds)
        defer { curl_easy_cleanup(easy) }
        millrace_curl_set_long(easy, CURLOPT_CONNECT_ONLY, 1)
        let result = curl_easy_perform(easy)
        guard result == CURLE_OK else { throw failure(easy, result, url, hint: "") }
    }

    /// What the callback fills, which runs only inside `curl_easy_perform`.
    private final class Answer {
        var bytes: [UInt8] = []
    }

    private static let library: Void = { curl_global_init(Int(CURL_GLOBAL_ALL)) }()
    private static let noMemory = Failure("There is no memory for an HTTP request.")

    private static func handle(
        _ url: ProviderURL, _ path: String, connectSeconds: Int
    ) throws -> UnsafeMutableRawPointer {
        _ = library
        guard let easy = curl_easy_init() else { throw noMemory }
        millrace_curl_set_pointer(easy, CURLOPT_URL, "\(url.isTLS ? "https" : "http")://\(address(of: url))\(path)")
        millrace_curl_go_straight(easy, url.isTLS ? 1 : 0)
        millrace_curl_set_long(easy, CURLOPT_CONNECTTIMEOUT_MS, connectSeconds * 1_000)
        return easy
    }

    private static func address(of url: ProviderURL) -> String {
        "\(url.host.contains(":") ? "[\(url.host)]" : url.host):\(url.port)"
    }

    private static func failure(
        _ easy: UnsafeMutableRawPointer, _ result: CURLcode, _ url: ProviderURL, hint: String
    ) -> Failure {
        let address = address(of: url)
        switch result {
        case CURLE_COULDNT_RESOLVE_HOST: return Failure("\(url.host) cannot be resolved.")
        case CURLE_COULDNT_CONNECT:
            var number = 0
            _ = millrace_curl_system_error(easy, &number)
            let reason = number == 0 ? "connection refused" : String(cString: strerror(Int32(number)))
            return Failure("\(address) cannot be reached: \(reason).\(hint)")
        case CURLE_PEER_FAILED_VERIFICATION:
            return Failure(
                "\(address) is not trusted: its certificate is not for that name, or of no known authority. Name its "
                    + "authority in SSL_CERT_FILE.")
        case CURLE_GOT_NOTHING:
            return Failure("\(address) closed the connection without an answer. Is it Millrace's API?")
        case CURLE_UNSUPPORTED_PROTOCOL, CURLE_WEIRD_SERVER_REPLY:
            return Failure("\(address) does not speak HTTP. Is it Millrace's API?")
        case CURLE_OPERATION_TIMEDOUT: return Failure("\(address) did not answer in time.\(hint)")
        case CURLE_WRITE_ERROR: return Failure("The answer is larger than \(answerLimit) bytes.")
        default: return Failure("\(address) broke off: \(String(cString: curl_easy_strerror(result))).")
        }
    }
}
