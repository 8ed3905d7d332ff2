// TLS for the tests' own sockets, blocking, either side; and certificates made for it.

import COpenSSL
import Foundation
import Glibc

/// A certificate authority of the test's own and a certificate for one name, as PEM files.
struct Certificates {
    let directory: String
    var authority: String { directory + "/ca.pem" }
    var certificate: String { directory + "/cert.pem" }
    var key: String { directory + "/key.pem" }

    init(_ name: String = "localhost") throws {
        directory = "/tmp/millrace-tls-tests-\(getpid())-\(UInt32.random(in: 0 ... .max))"
        mkdir(directory, 0o700)
        let d = directory
        let script = """
            cd \(d) && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem \
            -subj /CN=test-ca -days 2 2>/dev/null && openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
            -keyout key.pem -out cert.csr -subj /CN=\(name) 2>/dev/null && printf 'subjectAltName=DNS:\(name)' > ext && \
            openssl x509 -req -in cert.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 2 -extfile ext 2>/dev/null
            """
        struct OpenSSLFailed: Error {}
        if system(script) != 0 { throw OpenSSLFailed() }
    }
}

/// One side of a connection whose handshake is done. It does not own the socket.
///
/// @unchecked: used by one thread at a time.
final class RawTLS: @unchecked Sendable {
    /// @unchecked: an SSL_CTX counts its references atomically and is only read once it is set up.
    final class Context: @unchecked Sendable {
        fileprivate let pointer: OpaquePointer
        fileprivate let isServer: Bool

        struct Unusable: Error {}

        /// A server's.
        init(_ certificates: Certificates) throws {
            guard let made = SSL_CTX_new(TLS_server_method()) else { throw Unusable() }
            pointer = made
            isServer = true
            guard SSL_CTX_use_certificate_chain_file(made, certificates.certificate) == 1,
                SSL_CTX_use_PrivateKey_file(made, certificates.key, SSL_FILETYPE_PEM) == 1
            else { throw Unusable() }
        }

        /// A client's.
        init(trusting certificates: Certificates) throws {
            guard let made = SSL_CTX_new(TLS_client_method()) else { throw Unusable() }
            pointer = made
            isServer = false
            SSL_CTX_set_verify(made, SSL_VERIFY_PEER, nil)
            guard SSL_CTX_load_verify_locations(made, certificates.authority, nil) == 1 else { throw Unusable() }
        }

        deinit { SSL_CTX_free(pointer) }
    }

    private let tls: OpaquePointer

    struct NoHandshake: Error {}

    init(_ context: Context, descriptor: Int32) throws {
        guard let made = SSL_new(context.pointer) else { throw NoHandshake() }
        tls = made
        SSL_set_fd(made, descriptor)
        if !context.isServer { SSL_set1_host(made, "localhost") }
        guard (context.isServer ? SSL_accept(made) : SSL_connect(made)) == 1 else { throw NoHandshake() }
    }

    deinit { SSL_free(tls) }

    /// As `recv`: 0 or less at the end.
    func read(_ buffer: UnsafeMutableRawBufferPointer) -> Int {
        Int(SSL_read(tls, buffer.baseAddress, Int32(buffer.count)))
    }

    /// As `send`.
    func write(_ bytes: UnsafeRawBufferPointer) -> Int { Int(SSL_write(tls, bytes.baseAddress, Int32(bytes.count))) }
}
