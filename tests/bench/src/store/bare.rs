// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the sockets allow a server that sleeps when it has nothing to do: connections with one request
//! in flight each, and a thread that waits for any of them, receives, and sends as many bytes as an
//! answer has. It looks at nothing. No server that makes these calls does more on a processor.

use std::io::{ErrorKind, Result as IoResult};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use tmem_remote_protocol::HEADER_LEN;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::floor::{ANSWER, ASK};
use super::pipe::{Address, Socket};
use crate::pin::{self, Processors};
use crate::{Error, Result};

/// Bytes of a request and of its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    ask: usize,
    answer: usize,
}

impl Sizes {
    /// As of the ping-pong.
    pub(super) const GET: Self = Self {
        ask: ASK,
        answer: ANSWER,
    };
    /// Header, entry and page; header and one result.
    pub(super) const PUT: Self = Self {
        ask: HEADER_LEN + 20 + 4096,
        answer: HEADER_LEN + 1,
    };
}

/// Answers for each second of the server's processor.
pub(super) fn per_core(
    sizes: Sizes,
    connections: usize,
    processors: Processors,
    time: Duration,
) -> Result<f64> {
    let failed = "answer with no store";
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(Error::system(failed))?;
    let address = listener.local_addr().map_err(Error::system(failed))?;
    let (mut clients, mut servers) = (Vec::new(), Vec::new());
    for _ in 0..connections {
        let client = Socket::connect(&Address::Tcp(address)).map_err(Error::system(failed))?;
        let (server, _) = listener.accept().map_err(Error::system(failed))?;
        (server.set_nonblocking(true))
            .and_then(|()| server.set_nodelay(true))
            .map_err(Error::system(failed))?;
        clients.push(Client {
            socket: client,
            to_send: sizes.ask,
            to_come: sizes.answer,
        });
        servers.push(server);
    }
    thread::scope(|scope| {
        let server = scope.spawn(|| pin::on(processors.server, || serve(servers, sizes)));
        let answers = ask(clients, sizes, time);
        // The clients are gone, so the server ends.
        let ran = match server.join() {
            Ok(ran) => ran?.map_err(Error::system(failed))?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark")]
        let answers = answers.map_err(Error::system(failed))? as f64;
        Ok(answers / ran.as_secs_f64().max(1e-9))
    })
}

struct Client {
    socket: Socket,
    /// Bytes of the request and of its answer that are still to go.
    to_send: usize,
    to_come: usize,
}

/// Asks for some time, on all connections by turns. Returns how many answers came.
fn ask(mut clients: Vec<Client>, sizes: Sizes, time: Duration) -> IoResult<u64> {
    let request = vec![1; sizes.ask];
    let mut answer = vec![0; sizes.answer];
    let (start, mut answers) = (Instant::now(), 0);
    while start.elapsed() < time {
        for client in &mut clients {
            if client.to_send > 0 {
                client.to_send -= client.socket.write_now(&request[..client.to_send])?;
            }
            client.to_come -= client.socket.read_now(&mut answer[..client.to_come])?;
            if client.to_come == 0 {
                answers += 1;
                (client.to_send, client.to_come) = (sizes.ask, sizes.answer);
            }
        }
    }
    Ok(answers)
}

/// Answers until all connections have ended. Returns how long this thread ran for it.
fn serve(sockets: Vec<TcpStream>, sizes: Sizes) -> IoResult<Duration> {
    let epoll = Epoll::new()?;
    for (number, socket) in (0..).zip(&sockets) {
        let event = EpollEvent::new(EventSet::IN, number);
        epoll.ctl(ControlOperation::Add, socket.as_raw_fd(), event)?;
    }
    let mut sockets: Vec<_> = (sockets.into_iter())
        .map(|socket| (Socket::Tcp(socket), 0))
        .collect();
    let mut events = vec![EpollEvent::default(); sockets.len()];
    let mut input = vec![0; 2 * sizes.ask];
    let answer = vec![2; sizes.answer];
    let (mut left, before) = (sockets.len(), pin::ran());
    while left > 0 {
        let ready = epoll.wait(-1, &mut events)?;
        for event in events.iter().take(ready) {
            let number = usize::try_from(event.data()).unwrap_or(0);
            let (socket, came) = &mut sockets[number];
            match socket.read_now(&mut input) {
                Ok(read) => *came += read,
                Err(error) if is_the_end(error.kind()) => {
                    if let Socket::Tcp(stream) = socket {
                        let event = EpollEvent::default();
                        epoll.ctl(ControlOperation::Delete, stream.as_raw_fd(), event)?;
                    }
                    left -= 1;
                    continue;
                }
                Err(error) => return Err(error),
            }
            if *came >= sizes.ask {
                *came -= sizes.ask;
                send(socket, &answer)?;
            }
        }
    }
    Ok(pin::ran().saturating_sub(before))
}

fn is_the_end(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset)
}

/// Sends all of an answer, unless nobody waits for it any more.
fn send(socket: &mut Socket, mut answer: &[u8]) -> IoResult<()> {
    while !answer.is_empty() {
        match socket.write_now(answer) {
            Ok(sent) => answer = &answer[sent..],
            // The next read says so, too.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
                ) =>
            {
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
