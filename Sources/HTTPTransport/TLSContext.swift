// TLS for both sides: OpenSSL contexts, made once and shared by every connection of their kind.

import CLibevent
import COpenSSL
import Glibc

/// @unchecked: an SSL_CTX counts its references atomically and is only read once it is set up.
package final class TLSContext: @unchecked Sendable {
    private let context: OpaquePointer

    /// For upstreams: the system's certificate authorities (`SSL_CERT_FILE` and `SSL_CERT_DIR` override them), host name
    /// and chain verified, TLS 1.2 or later.
    package static func client() throws(HTTPTransportError) -> TLSContext {
        let made = try TLSContext(TLS_client_method())
        SSL_CTX_set_verify(made.context, SSL_VERIFY_PEER, nil)
        SSL_CTX_set_default_verify_paths(made.context)
        return made
    }

    /// For a listener: PEM files.
    package static func server(certificate: String, key: String) throws(HTTPTransportError) -> TLSContext {
        let made = try TLSContext(TLS_server_method())
        guard SSL_CTX_use_certificate_chain_file(made.context, certificate) == 1 else {
            throw HTTPTransportError(
                code: .tls, tried: "read the TLS certificate \(certificate)", reason: lastError(),
                next: "Name a PEM file with the certificate and its chain.")
        }
        guard SSL_CTX_use_PrivateKey_file(made.context, key, SSL_FILETYPE_PEM) == 1,
            SSL_CTX_check_private_key(made.context) == 1
        else {
            throw HTTPTransportError(
                code: .tls, tried: "read the TLS key \(key)", reason: lastError(),
                next: "Name the PEM file with the private key of that certificate.")
        }
        return made
    }

    private init(_ method: OpaquePointer?) throws(HTTPTransportError) {
        guard let context = SSL_CTX_new(method) else {
            throw HTTPTransportError(
                code: .tls, tried: "set up TLS", reason: Self.lastError(), next: "Check the OpenSSL installation.")
        }
        self.context = context
        SSL_CTX_ctrl(context, SSL_CTRL_SET_MIN_PROTO_VERSION, Int(TLS1_2_VERSION), nil)
        let modes = SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS
        SSL_CTX_ctrl(context, SSL_CTRL_MODE, Int(modes), nil)
    }

    deinit { SSL_CTX_free(context) }

    /// A connection on that socket; nil where OpenSSL has no memory for one.
    func connection(descriptor: Int32, serverName: String?) -> OpaquePointer? {
        guard let tls = SSL_new(context) else { return nil }
        SSL_set_fd(tls, descriptor)
        if let serverName {
            SSL_set1_host(tls, serverName)
            var name = Array(serverName.utf8CString)
            name.withUnsafeMutableBufferPointer {
                _ = SSL_ctrl(tls, SSL_CTRL_SET_TLSEXT_HOSTNAME, Int(TLSEXT_NAMETYPE_host_name), $0.baseAddress)
            }
            SSL_set_connect_state(tls)
        } else {
            SSL_set_accept_state(tls)
        }
        return tls
    }

    static func lastError() -> String {
        let code = ERR_get_error()
        if code == 0 { return errno == 0 ? "the peer broke off" : String(cString: strerror(errno)) }
        var text = [CChar](repeating: 0, count: 256)
        ERR_error_string_n(code, &text, text.count)
        return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    static func handshakeError(_ tls: OpaquePointer) -> String {
        let verification = SSL_get_verify_result(tls)
        if verification != Int(X509_V_OK), let text = X509_verify_cert_error_string(verification) {
            return "certificate not accepted: \(String(cString: text))"
        }
        return "TLS handshake failed: \(lastError())"
    }
}
