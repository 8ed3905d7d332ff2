// Every module's error → exit status: 2 where the configuration is to blame, else 1.

import HTTPTransport
import Journal
import RecordLog
import RollupStore
import Simulation

extension Failure {
    static func status(of error: any Error) -> Int32 {
        switch error {
        case let error as Failure: error.status
        case let error as RecordLogError: error.code == .configuration ? 2 : 1
        case let error as RollupStoreError: error.code == .configuration ? 2 : 1
        case let error as HTTPTransportError: error.code == .tls ? 2 : 1
        case let error as SimulationError: error.code == .sink ? 1 : 2
        default: 1
        }
    }
}
