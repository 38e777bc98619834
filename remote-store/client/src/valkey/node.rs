// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Connections to single nodes.
//!
//! A connection never comes back by itself: when anything goes wrong with one it is dropped, and
//! whoever needs another asks for it. So a WAIT that is answered has travelled on the connection of the
//! SETs before it, and a connection that was lost takes its SETs' standing with it: they are sent again.
//!
//! # What a dropped connection may still do
//! The node may have requests of it that it has not read yet: a frozen process finds them when it goes
//! on, and nothing orders them with those of the next connection. A late SET would overwrite a newer
//! page of the slot. So the next writer's connection to the same node first ends the earlier one by
//! CLIENT KILL, with its number and its address as the node itself tells them, and sends nothing before
//! the answer: the node has either read all of the earlier one's requests by then, or never will.

use std::time::Duration;

use redis::{Client, Cmd, Connection, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo};
use redis::{ServerError, Value, cmd};

use super::ValkeyError;
use super::map::Address;

/// How a node took a request.
#[derive(Debug)]
pub(super) enum Answer {
    /// With this.
    Value(Value),
    /// Another node has the hash slot.
    Moved(Option<Address>),
    /// Another node has the key already, while the hash slot moves.
    Ask(Option<Address>),
    /// Not now: it loads, or knows no primary, or has just been made a replica.
    Later(String),
    /// No.
    Refused { code: String, detail: String },
}

/// What tells a connection from all others, at its node.
#[derive(Clone, Debug)]
pub(super) struct ClientId {
    id: i64,
    address: String,
}

/// Makes connections.
#[derive(Debug)]
pub(super) struct Dialer {
    pub(super) settings: RedisConnectionInfo,
    pub(super) connect: Duration,
    pub(super) response: Duration,
    pub(super) wait: Duration,
}

impl Dialer {
    /// A connection for reading, or for questions.
    pub(super) fn reader(&self, node: &Address) -> Result<Connection, ValkeyError> {
        self.dial(node, self.response)
    }

    /// A connection for writing. The earlier one to this node is ended first.
    pub(super) fn writer(
        &self,
        node: &Address,
        earlier: Option<&ClientId>,
    ) -> Result<(Connection, ClientId), ValkeyError> {
        // The answer to a WAIT comes after the wait.
        let mut connection = self.dial(node, self.response + self.wait)?;
        let id = client_id(&mut connection, node)?;
        if let Some(earlier) = earlier {
            let mut kill = cmd("CLIENT");
            kill.arg("KILL").arg("ID").arg(earlier.id);
            kill.arg("ADDR").arg(&earlier.address);
            match ask(&mut connection, node, &kill)? {
                Answer::Value(Value::Int(_)) => (),
                other => return Err(unexpected(node, "CLIENT KILL", other)),
            }
        }
        check_settings(&mut connection, node)?;
        Ok((connection, id))
    }

    fn dial(&self, node: &Address, response: Duration) -> Result<Connection, ValkeyError> {
        let failed = ValkeyError::node(node);
        let address = ConnectionAddr::Tcp(node.host.clone(), node.port);
        let info = address.into_connection_info().map_err(&failed)?;
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info
            .set_tcp_settings(tcp)
            .set_redis_settings(self.settings.clone());
        let connection = Client::open(info)
            .and_then(|client| client.get_connection_with_timeout(self.connect))
            .map_err(&failed)?;
        connection
            .set_read_timeout(Some(response))
            .and_then(|()| connection.set_write_timeout(Some(self.response)))
            .map_err(&failed)?;
        Ok(connection)
    }
}

/// Sends one request and takes its answer.
pub(super) fn ask(
    connection: &mut Connection,
    node: &Address,
    command: &Cmd,
) -> Result<Answer, ValkeyError> {
    connection
        .send_packed_command(&command.get_packed_command())
        .map_err(ValkeyError::node(node))?;
    receive(connection, node)
}

/// Takes the next answer. After an error the connection is of no use any more.
pub(super) fn receive(connection: &mut Connection, node: &Address) -> Result<Answer, ValkeyError> {
    let value = connection
        .recv_response()
        .map_err(ValkeyError::node(node))?;
    Ok(match value {
        Value::ServerError(error) => understood(&error, node),
        value => Answer::Value(value),
    })
}

/// What an error means to this client.
fn understood(error: &ServerError, node: &Address) -> Answer {
    let detail = error.details().unwrap_or_default();
    // "MOVED 3999 127.0.0.1:6381"; without a host, the one that answered is meant.
    let target = || {
        let text = detail.split_ascii_whitespace().nth(1)?;
        match text.strip_prefix(':') {
            Some(port) => Address::parse(&format!("{}:{port}", node.host)),
            None => Address::parse(text),
        }
    };
    match error.code() {
        "MOVED" => Answer::Moved(target()),
        "ASK" => Answer::Ask(target()),
        code @ ("TRYAGAIN" | "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" | "READONLY") => {
            Answer::Later(format!("{node} answered {code}"))
        }
        code => Answer::Refused {
            code: code.to_owned(),
            detail: detail.to_owned(),
        },
    }
}

/// The error of an answer that is none to `command`.
pub(super) fn unexpected(node: &Address, command: &'static str, answer: Answer) -> ValkeyError {
    match answer {
        Answer::Refused { code, detail } => ValkeyError::Refused {
            node: node.to_string(),
            code,
            detail,
        },
        Answer::Value(_) | Answer::Moved(_) | Answer::Ask(_) | Answer::Later(_) => {
            ValkeyError::Answer {
                node: node.to_string(),
                command,
            }
        }
    }
}

/// Who this connection is to its node.
fn client_id(connection: &mut Connection, node: &Address) -> Result<ClientId, ValkeyError> {
    let command = "CLIENT INFO";
    let answer = ask(connection, node, cmd("CLIENT").arg("INFO"))?;
    let Answer::Value(value) = answer else {
        return Err(unexpected(node, command, answer));
    };
    let text = text_of(&value).unwrap_or_default();
    let field = |name: &str| {
        let mut words = text.split_ascii_whitespace();
        words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    };
    match (field("id").and_then(|id| id.parse().ok()), field("addr")) {
        (Some(id), Some(address)) => Ok(ClientId {
            id,
            address: address.to_owned(),
        }),
        _ => Err(ValkeyError::Answer {
            node: node.to_string(),
            command,
        }),
    }
}

/// Refuses a node that could drop pages to make room, or acknowledge them with no replica connected.
/// Asked of each new writer's connection, since a failover brings nodes that were never looked at.
pub(super) fn check_settings(
    connection: &mut Connection,
    node: &Address,
) -> Result<(), ValkeyError> {
    let unfit = |what: String| ValkeyError::Unfit {
        node: node.to_string(),
        what,
    };
    let policy = setting(connection, node, "maxmemory-policy")?;
    if policy != "noeviction" {
        return Err(unfit(format!(
            "its maxmemory-policy is {policy}, which drops pages when memory is short; set it to \
             noeviction: valkey-cli CONFIG SET maxmemory-policy noeviction, and in its configuration"
        )));
    }
    let replicas = setting(connection, node, "min-replicas-to-write")?;
    if replicas
        .parse::<u32>()
        .map_or(true, |replicas| replicas < 1)
    {
        return Err(unfit(format!(
            "its min-replicas-to-write is {replicas}, so it takes writes that no replica will get; \
             set it to 1 or more: valkey-cli CONFIG SET min-replicas-to-write 1, and in its configuration"
        )));
    }
    Ok(())
}

/// Refuses a node without cluster mode.
pub(super) fn check_cluster(
    connection: &mut Connection,
    node: &Address,
) -> Result<(), ValkeyError> {
    let text = info(connection, node, "cluster")?;
    if text.lines().any(|line| line.trim() == "cluster_enabled:1") {
        return Ok(());
    }
    Err(ValkeyError::Unfit {
        node: node.to_string(),
        what:
            "it is not in cluster mode; start it with cluster-enabled yes and make it a node of a \
               cluster: valkey-cli --cluster create"
                .to_owned(),
    })
}

/// Refuses a primary with fewer replicas than writes wait for. It knows best which are connected.
pub(super) fn check_replicas(
    connection: &mut Connection,
    node: &Address,
    wanted: u32,
) -> Result<(), ValkeyError> {
    let text = info(connection, node, "replication")?;
    let has = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("connected_slaves:")?.parse().ok())
        .unwrap_or(0_u32);
    if has >= wanted {
        return Ok(());
    }
    Err(ValkeyError::Unfit {
        node: node.to_string(),
        what: format!(
            "it has {has} replicas and writes are to wait for {wanted}; start those that are down, or \
             add some: valkey-cli --cluster add-node NEW OLD --cluster-slave"
        ),
    })
}

fn info(connection: &mut Connection, node: &Address, section: &str) -> Result<String, ValkeyError> {
    let answer = ask(connection, node, cmd("INFO").arg(section))?;
    match &answer {
        Answer::Value(value) => text_of(value),
        _ => None,
    }
    .ok_or_else(|| unexpected(node, "INFO", answer))
}

fn setting(connection: &mut Connection, node: &Address, name: &str) -> Result<String, ValkeyError> {
    let answer = ask(connection, node, cmd("CONFIG").arg("GET").arg(name))?;
    let fields = match &answer {
        Answer::Value(Value::Array(fields)) => fields.as_slice(),
        _ => return Err(unexpected(node, "CONFIG GET", answer)),
    };
    let value = match fields {
        [_, value] => text_of(value),
        _ => None,
    };
    value.ok_or_else(|| ValkeyError::Answer {
        node: node.to_string(),
        command: "CONFIG GET",
    })
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text.clone()),
        _ => None,
    }
}
