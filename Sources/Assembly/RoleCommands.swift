// `proxy`, `consumer`, `api`: one role each.

import CommandLine
import Configuration

enum RoleCommands {
    static func proxy(_ invocation: Invocation) throws -> Int32 {
        let configuration = try invocation.configuration()
        return try Running(role: "proxy").run { running in
            let roles = try Roles(configuration, running)
            try roles.startJournal()
            _ = try roles.startProxy()
            try roles.operations.serve(
                on: configuration.proxy.opsListen, "proxy.ops_listen", tls: configuration.proxy.opsTLS,
                sharesPort: configuration.proxy.reusesPort, running)
            running.supervise(roles.operations)
        }
    }

    static func consumer(_ invocation: Invocation) throws -> Int32 {
        let configuration = try invocation.configuration()
        return try Running(role: "consumer").run { running in
            let roles = try Roles(configuration, running)
            try roles.startConsumer()
            try roles.operations.serve(
                on: configuration.consumer.opsListen, "consumer.ops_listen", tls: configuration.consumer.opsTLS, running
            )
            running.supervise(roles.operations)
        }
    }

    static func api(_ invocation: Invocation) throws -> Int32 {
        let configuration = try invocation.configuration()
        return try Running(role: "api").run { running in
            let roles = try Roles(configuration, running)
            _ = try roles.startAPI(proxy: nil)
            running.supervise(roles.operations)
        }
    }
}
