// TLS for both sides: OpenSSL contexts, made once and shared by every connection of their kind.

import CLibevent
import COpenSSL
import Glibc
package import Synchronization

/// @unchecked: an SSL_CTX counts its references atomically and is only read once it is set up; sessions are behind
/// their mutex.
package final class TLSContext: @unchecked Sendable {
    private let context: OpaquePointer
    /// The last session with each server, by name: the next handshake with it is a short one. As many as there are
    /// providers.
    private let sessions = Mutex<[String: Session]>([:])
    /// Handshakes that went on from an earlier session.
    package let resumptions = Atomic<Int>(0)

    private final class Session: @unchecked Sendable {
        // @unchecked: an SSL_SESSION counts its references atomically and is not changed.
        let pointer: OpaquePointer
        init(_ pointer: OpaquePointer) { self.pointer = pointer }
        deinit { SSL_SESSION_free(pointer) }
    }

    /// For upstreams: the system's certificate authorities (`SSL_CERT_FILE` and `SSL_CERT_DIR` override them), host name
    /// and chain verified, TLS 1.2 or later.
    package static func client() throws(HTTPTransportError) -> TLSContext {
        let made = try TLSContext(TLS_client_method())
        SSL_CTX_set_verify(made.context, SSL_VERIFY_PEER, nil)
        SSL_CTX_set_default_verify_paths(made.context)
        made.keepSessions()
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

    /// Server names come from the configuration, so there are few.
    private func keepSessions() {
        SSL_CTX_ctrl(
            context, SSL_CTRL_SET_SESS_CACHE_MODE, Int(SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL_STORE), nil)
        // Connections keep a reference on the context, and the pool one on this object, for as long as they live.
        SSL_CTX_set_ex_data(context, 0, Unmanaged.passUnretained(self).toOpaque())
        SSL_CTX_sess_set_new_cb(context) { tls, session in
            guard let tls, let session, let name = SSL_get_servername(tls, TLSEXT_NAMETYPE_host_name),
                let owner = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(tls), 0)
            else { return 0 }
            let kept = Session(session)
            Unmanaged<TLSContext>.fromOpaque(owner).takeUnretainedValue().sessions
                .withLock { $0[String(cString: name)] = kept }
            return 1
        }
    }

    static func handshakeEnded(_ tls: OpaquePointer) {
        guard SSL_session_reused(tls) == 1, let owner = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(tls), 0) else { return }
        Unmanaged<TLSContext>.fromOpaque(owner).takeUnretainedValue().resumptions.wrappingAdd(1, ordering: .relaxed)
    }

    /// A connection on that socket; nil where OpenSSL has no memory for one.
    func connection(descriptor: Int32, serverName: String?) -> OpaquePointer? {
        guard let tls = SSL_new(context) else { return nil }
        SSL_set_fd(tls, descriptor)
        if let serverName {
            var address = in6_addr()
            let isAddress =
                inet_pton(AF_INET, serverName, &address) == 1 || inet_pton(AF_INET6, serverName, &address) == 1
            if isAddress {
                // An address is checked as one, and is no server name (RFC 6066 §3).
                guard X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(tls), serverName) == 1 else {
                    SSL_free(tls)
                    return nil
                }
            } else {
                // Without the name in place any certificate of the authority would do.
                guard SSL_set1_host(tls, serverName) == 1 else {
                    SSL_free(tls)
                    return nil
                }
                var name = Array(serverName.utf8CString)
                name.withUnsafeMutableBufferPointer {
                    _ = SSL_ctrl(tls, SSL_CTRL_SET_TLSEXT_HOSTNAME, Int(TLSEXT_NAMETYPE_host_name), $0.baseAddress)
                }
                if let session = sessions.withLock({ $0[serverName] }) { SSL_set_session(tls, session.pointer) }
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
