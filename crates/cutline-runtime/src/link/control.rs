//! The control port of a link: one command per line, one line of JSON as the answer.
//!
//! ```text
//! > set up=5mbit delay=10ms
//! < {"up_bytes_per_s":625000, ... ,"cut":false, ...}
//! > cut
//! > resume
//! > reset
//! > status
//! ```

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use serde_json::json;

use super::{LinkError, proxy, proxy::Shared, schedule::parse_command};

/// Longest command line, and how many lines one connection may send.
const MAX_LINE: u64 = 4096;

/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(600);

/// Serves commands, one connection at a time, until the link stops.
pub(super) fn spawn(listener: TcpListener, shared: &Arc<Shared>) -> Result<(), LinkError> {
    let shared = Arc::clone(shared);
    proxy::spawn("link-control", move || {
        for client in listener.incoming() {
            if shared.is_stopped() {
                return;
            }
            if let Ok(client) = client {
                let shared = Arc::clone(&shared);
                let _ = proxy::spawn("link-control-client", move || serve(&shared, client));
            }
        }
    })
}

fn serve(shared: &Shared, client: TcpStream) {
    let _ = client.set_read_timeout(Some(IDLE));
    let Ok(mut answers) = client.try_clone() else { return };
    let mut lines = BufReader::new(client);
    let mut line = String::new();
    while !shared.is_stopped() {
        line.clear();
        match lines.by_ref().take(MAX_LINE).read_line(&mut line) {
            Ok(length) if length > 0 => {}
            _ => return,
        }
        let answer = answer(shared, line.trim());
        if writeln!(answers, "{answer}").is_err() {
            return;
        }
    }
}

fn answer(shared: &Shared, line: &str) -> serde_json::Value {
    let command = match line.split_once(char::is_whitespace) {
        _ if line == "status" => None,
        Some(("set", change)) => Some(parse_command(change)),
        _ => Some(parse_command(line)),
    };
    match command {
        Some(Err(error)) => return json!({ "error": error.to_string() }),
        Some(Ok(command)) => command.apply(shared),
        None => {}
    }
    json!(shared.status())
}
