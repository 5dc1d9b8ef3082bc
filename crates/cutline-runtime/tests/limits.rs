//! What strangers may take of an agent: connections, and no more than it has set aside.
#![allow(clippy::unwrap_used)]

mod fleet;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use cutline_runtime::{
    client::{AgentClient, ClientError},
    stage::Content,
    tensor::Tensor,
};
use fleet::{Device, deploy_double, vector, wait};

const TIMEOUT: Duration = Duration::from_secs(20);

/// One of the agent's metrics.
fn metric(address: SocketAddr, name: &str) -> Option<u64> {
    let mut agent = TcpStream::connect(address).ok()?;
    write!(agent, "GET /metrics HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    agent.read_to_string(&mut text).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map(|number| number.trim().parse().unwrap())
}

/// Waits until the agent lets a scrape in, and something in it is so.
fn until(address: SocketAddr, name: &str, is: impl Fn(u64) -> bool) {
    let began = Instant::now();
    while !metric(address, name).is_some_and(&is) {
        assert!(began.elapsed() < TIMEOUT, "{name} is {:?}", metric(address, name));
    }
}

/// Whether the agent has closed a connection.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    match stream.read(&mut [0]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

async fn double(client: &AgentClient) -> Result<Tensor, ClientError> {
    let x = Content::Tensor(vector([0.5, -1.0, 2.0, 3.25]));
    let answer = client.infer("double", vec![("x".to_owned(), x)], false, TIMEOUT).await?;
    Ok(answer.outputs[0].1.clone())
}

#[test]
fn idle_connections_take_their_share_only_and_make_room_when_they_end() {
    let device = Device::with(|config| config.max_connections = 8);
    let expected = vector([1.0, -2.0, 4.0, 6.5]);
    wait(async {
        let client = device.client().await;
        deploy_double(&client).await;
        let mut idle: Vec<TcpStream> =
            (0..60).map(|_| TcpStream::connect(device.address).unwrap()).collect();
        // The last one comes when all others were seen.
        assert!(is_closed(idle.last_mut().unwrap()));
        for _ in 0..3 {
            assert_eq!(double(&client).await.unwrap(), expected, "who was let in is served");
        }
        idle.clear();
        until(device.address, "cutline_connections_refused_total", |refused| refused >= 53);
        until(device.address, "cutline_connections", |open| open <= 2);
        assert_eq!(metric(device.address, "cutline_connections_limit"), Some(8));
        assert_eq!(metric(device.address, "cutline_connections_failed_total"), Some(0));
        let other = device.client().await;
        assert_eq!(double(&other).await.unwrap(), expected, "there is room again");
    });
}
