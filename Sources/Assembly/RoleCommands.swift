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
                on: configuration.proxy.opsListen, sharesPort: configuration.proxy.reusesPort, running)
        }
    }

    static func consumer(_ invocation: Invocation) throws -> Int32 {
        let configuration = try invocation.configuration()
        return try Running(role: "consumer").run { running in
            let roles = try Roles(configuration, running)
            try roles.startConsumer()
            try roles.operations.serve(on: configuration.consumer.opsListen, running)
        }
    }

    static func api(_ invocation: Invocation) throws -> Int32 {
        let configuration = try invocation.configuration()
        return try Running(role: "api").run { running in
            let roles = try Roles(configuration, running)
            _ = try roles.startAPI(proxy: nil)
        }
    }
}
