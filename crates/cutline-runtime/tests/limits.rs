//! What strangers may take of an agent: connections and memory, and no more than it has set aside.
#![allow(clippy::unwrap_used)]

mod fleet;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use bytes::Bytes;
use cutline_core::{
    tensor::{DType, Shape},
    units::Bytes as Size,
};
use cutline_runtime::{
    client::{AgentClient, ClientError},
    stage::{Coded, Content, StageSpec, TensorSpec},
    tensor::Tensor,
};
use fleet::{Device, deploy_double, vector, wait};
use tonic::Code;

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

#[test]
fn a_coded_request_is_refused_by_the_memory_of_its_tensor_before_it_is_decoded() {
    // Answers what came, which takes the tensor itself.
    const LENGTH: u64 = 16 << 20;
    let tensor = |name: &str| TensorSpec {
        name: name.to_owned(),
        dtype: DType::U8,
        shape: Some(Shape(vec![1, LENGTH])),
    };
    let stage = StageSpec {
        plan: "tiny".to_owned(),
        name: "0-pi".to_owned(),
        device: "pi".to_owned(),
        inputs: vec![tensor("x")],
        picture: None,
        model: None,
        answers: vec![tensor("x")],
        branches: Vec::new(),
        next: None,
    };
    let ask = |memory: Option<u64>, shape: Vec<u64>, code: Bytes| {
        let device = Device::with(|config| config.memory = memory.map(Size));
        let stage = &stage;
        wait(async move {
            let client = device.client().await;
            client.deploy("same", stage, &BTreeMap::new(), "").await.unwrap();
            let x = Content::Coded(Coded::new(Shape(shape), code));
            let answer = client.infer("same", vec![("x".to_owned(), x)], false, TIMEOUT).await;
            let taken = metric(device.address, "cutline_memory_reserved_bytes");
            assert_eq!(taken, Some(0), "what was reserved is given back");
            answer.map(|answer| answer.outputs[0].1.clone())
        })
    };
    let whole = vec![1, LENGTH];
    // A code that nobody made: whoever reads it says so.
    let damaged = Bytes::from_static(&[1, 0, 0]);
    for (memory, shape, code, words) in [
        (Some(LENGTH - 1), whole.clone(), Code::ResourceExhausted, "a request, decoded, needs 16."),
        (Some(2 * LENGTH), whole.clone(), Code::InvalidArgument, "entropy code"),
        (None, whole.clone(), Code::InvalidArgument, "entropy code"),
        (Some(2 * LENGTH), vec![1 << 40, 1 << 20], Code::InvalidArgument, "expected UINT8"),
        (None, vec![1 << 40, 1 << 40], Code::InvalidArgument, "expected UINT8"),
    ] {
        let error = ask(memory, shape.clone(), damaged.clone()).unwrap_err();
        assert_eq!(error.code(), code, "{memory:?} {shape:?}: {error}");
        assert!(error.to_string().contains(words), "{memory:?} {shape:?}: {error}");
    }
    let zeros = Tensor::new(DType::U8, Shape(whole.clone()), vec![0; LENGTH as usize]).unwrap();
    let code = Coded::of(&zeros).unwrap().code().clone();
    assert!(code.len() < 4096, "{}", code.len());
    assert_eq!(ask(Some(2 * LENGTH), whole, code).unwrap(), zeros);
}
