//! Who gets what from an agent with credentials: controllers everything, other agents and clients
//! their share, strangers a TLS alert; and how an agent comes by its credentials.
#![allow(clippy::unwrap_used)]

mod fleet;

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use cutline_runtime::{
    agent::{Agent, AgentConfig},
    client::{AgentClient, ClientError, ClientOptions},
    engine,
    pki::{
        Authority, Credentials, Role,
        pairing::{self, PairingCode, Waiting},
    },
    runner::{RunOptions, Runner},
    stage::Content,
};
use fleet::{Device, chain, deploy_double, expected, frame, vector, wait};
use rustls::{ClientConfig, ClientConnection, RootCertStore, pki_types::pem::PemObject};
use tonic::Code;

const X: [f32; 4] = [0.5, -1.0, 2.0, 3.25];
const TIMEOUT: Duration = Duration::from_secs(20);

fn issue(authority: &Authority, role: Role) -> Arc<Credentials> {
    Arc::new(authority.issue("tested", role, &[]).unwrap())
}

fn secured(authority: &Authority) -> Device {
    Device::with(|config| config.credentials = Some(issue(authority, Role::Agent)))
}

fn showing(credentials: &Arc<Credentials>) -> ClientOptions {
    ClientOptions { credentials: Some(Arc::clone(credentials)), ..ClientOptions::default() }
}

async fn dial(device: &Device, who: &Arc<Credentials>) -> Result<AgentClient, ClientError> {
    AgentClient::connect("pi", &format!("https://{}", device.address()), showing(who)).await
}

/// Runs one order of the control service.
async fn order(client: &AgentClient, name: &str) -> Result<(), ClientError> {
    let folder = tempfile::tempdir().unwrap();
    let model = fleet::store(&folder, "m.onnx", b"anything");
    let files = [(model.0.sha256.clone(), model.1)].into();
    match name {
        "missing" => client.missing(vec![model.0.sha256]).await.map(drop),
        "put" => client.put(&folder.path().join("m.onnx"), &model.0.sha256, 0).await,
        "deploy" => {
            let stage =
                chain(&folder, &["a:1".to_owned(), "b:1".to_owned()]).stages[1].spec.clone();
            let bare = cutline_runtime::stage::StageSpec { model: None, answers: vec![], ..stage };
            client.deploy("bare", &bare, &files, "").await.map(drop)
        }
        "remove" => client.remove("double").await.map(drop),
        "profile" => client.profile("{}".to_owned(), |_| {}).await.map(drop),
        "kernels" => client.kernels("{}".to_owned(), |_| {}).await.map(drop),
        "measure-link" => client.measure_link(client.address(), &[1], 1, |_| {}).await.map(drop),
        "describe" => client.describe().await.map(drop),
        "clock" => client.clock_offset().await.map(drop),
        "beat" => client.beat(&[], TIMEOUT).await.map(drop),
        "beat-behind" => client.beat(&[client.address().to_owned()], TIMEOUT).await.map(drop),
        other => panic!("no order {other}"),
    }
}

#[test]
fn a_role_gets_what_it_needs_and_no_more() {
    let authority = Authority::generate().unwrap();
    let device = secured(&authority);
    wait(async {
        let controller = dial(&device, &issue(&authority, Role::Controller)).await.unwrap();
        deploy_double(&controller).await;
        for role in [Role::Agent, Role::Client] {
            let client = dial(&device, &issue(&authority, role)).await.unwrap();
            for allowed in ["describe", "clock", "beat"] {
                order(&client, allowed).await.unwrap();
            }
            for refused in
                ["missing", "put", "deploy", "remove", "profile", "kernels", "measure-link"]
            {
                let error = order(&client, refused).await.unwrap_err();
                assert_eq!(error.code(), Code::PermissionDenied, "{role}: {refused}: {error}");
            }
            let behind = order(&client, "beat-behind").await;
            assert_eq!(behind.is_ok(), role == Role::Agent, "{role}: {behind:?}");
            let values = vec![("x".to_owned(), Content::Tensor(vector(X)))];
            let answer = client.infer("double", values, false, TIMEOUT).await.unwrap();
            assert_eq!(answer.outputs, [("y".to_owned(), vector(X.map(|x| x + x)))], "{role}");
        }
        // Whatever else is wrong with these orders, it is not who gives them.
        for order_name in
            ["missing", "put", "deploy", "profile", "kernels", "measure-link", "remove"]
        {
            let outcome = order(&controller, order_name).await;
            let denied = outcome.is_err_and(|error| error.code() == Code::PermissionDenied);
            assert!(!denied, "controller: {order_name}");
        }
    });
}

#[test]
fn agents_hand_frames_on_under_their_own_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::generate().unwrap();
    let devices: Vec<Device> = (0..3).map(|_| secured(&authority)).collect();
    let addresses: Vec<_> = devices.iter().map(|d| format!("https://{}", d.address())).collect();
    wait(async {
        let client = showing(&issue(&authority, Role::Controller));
        let options = RunOptions { client, ..RunOptions::default() };
        let runner = Runner::deploy(chain(&folder, &addresses), options, |_| {}).await.unwrap();
        assert_eq!(runner.infer(frame(X)).await.unwrap().outputs, expected(X));
    });
}

#[test]
fn strangers_learn_what_to_do_and_nothing_else() {
    let authority = Authority::generate().unwrap();
    let device = secured(&authority);
    let plain = Device::start();
    wait(async {
        // Of another authority, and so is the agent to them.
        let stranger = issue(&Authority::generate().unwrap(), Role::Controller);
        let error = dial(&device, &stranger).await.unwrap_err();
        assert!(error.to_string().contains("another authority"), "{error}");

        // Without credentials there is no dialling off this machine, and no TLS.
        for address in ["192.0.2.1:9001", "https://127.0.0.1:9001"] {
            let nothing = ClientOptions::default();
            let error = AgentClient::connect("pi", address, nothing).await.unwrap_err();
            assert!(error.to_string().contains("cutline pki init"), "{error}");
        }

        // In plain text at an agent that speaks TLS, which may close before its alert is read; and
        // the other way round.
        let nothing = ClientOptions::default();
        if let Ok(client) = AgentClient::connect("pi", &device.address(), nothing).await {
            client.describe().await.unwrap_err();
        }
        let controller = issue(&authority, Role::Controller);
        let error = dial(&plain, &controller).await.unwrap_err();
        assert!(error.to_string().contains("without encryption"), "{error}");
    });
}

/// What an agent sends to a peer who writes this and then only listens.
fn answer_to(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    socket.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // A reset is an end as good as any.
    let _ = socket.read_to_end(&mut answer);
    answer
}

#[test]
fn an_unauthenticated_peer_gets_an_alert() {
    let authority = Authority::generate().unwrap();
    let device = secured(&authority);
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for bytes in [&http2[..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 64]] {
        let answer = answer_to(device.address, bytes);
        // Content type 21, version, two bytes of level and description: seven in all.
        assert!(answer.is_empty() || (answer.len() == 7 && answer[0] == 21), "{answer:?}");
    }

    // One who speaks TLS, trusts the authority, and shows no certificate.
    let folder = tempfile::tempdir().unwrap();
    authority.write(folder.path()).unwrap();
    let mut roots = RootCertStore::empty();
    let pem = folder.path().join("ca.pem");
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(pem).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = Role::Agent.dns_name().try_into().unwrap();
    let mut session = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut socket = TcpStream::connect(device.address).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut stream = rustls::Stream::new(&mut session, &mut socket);
    let mut answer = Vec::new();
    let refused = stream.write_all(http2).and_then(|()| stream.read_to_end(&mut answer));
    assert!(refused.unwrap_err().to_string().contains("CertificateRequired"));
    assert!(answer.is_empty(), "{answer:?}");
}

#[test]
fn credentials_are_kept_for_their_owner_and_checked_when_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let authority = Authority::generate().unwrap();
    authority.write(&path("own")).unwrap();
    authority.issue("me", Role::Controller, &[]).unwrap().write(&path("own")).unwrap();
    let read = Credentials::read(&path("own")).unwrap();
    assert!(read.has(Role::Controller) && !read.has(Role::Agent) && !read.has(Role::Client));
    // The authority signs on after it was read again.
    let again = Authority::read(&path("own")).unwrap();
    again.issue("pi", Role::Agent, &["pi.local".to_owned()]).unwrap().write(&path("pi")).unwrap();
    assert!(Credentials::read(&path("pi")).unwrap().has(Role::Agent));
    #[cfg(unix)]
    for secret in ["own/ca.key", "own/identity.key", "pi/identity.key"] {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(path(secret)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let replaced = Authority::generate().unwrap().write(&path("own")).unwrap_err();
    assert!(replaced.to_string().contains("exists"), "{replaced}");

    let other = Authority::generate().unwrap();
    other.write(&path("other")).unwrap();
    other.issue("pi", Role::Agent, &[]).unwrap().write(&path("other")).unwrap();
    for (file, from, words) in [
        ("ca.pem", "other/ca.pem", "was not signed by the authority"),
        ("identity.key", "other/identity.key", "do not belong together"),
        ("identity.pem", "pi/identity.key", "is not valid"),
        ("identity.pem", "nowhere", "cannot read"),
    ] {
        let mixed = path("mixed");
        fs::create_dir_all(&mixed).unwrap();
        for name in ["ca.pem", "identity.pem", "identity.key"] {
            fs::copy(path("pi").join(name), mixed.join(name)).unwrap();
        }
        let _ = fs::remove_file(mixed.join(file));
        let _ = fs::copy(path(from), mixed.join(file));
        let error = Credentials::read(&mixed).unwrap_err().to_string();
        assert!(error.contains(words), "{file} from {from}: {error}");
    }
    fs::copy(path("other/ca.key"), path("own/ca.key")).unwrap();
    let error = Authority::read(&path("own")).unwrap_err().to_string();
    assert!(error.contains("is not the key of ca.pem"), "{error}");
}

#[test]
fn only_an_agents_credentials_make_an_agent() {
    wait(async {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::generate().unwrap();
        let bind = |role: Role| {
            let engines = vec![engine::open("rten").unwrap()];
            let config = AgentConfig::new("0.0.0.0:0", folder.path().to_owned(), engines);
            let credentials = Some(issue(&authority, role));
            Agent::bind(AgentConfig { credentials, ..config })
        };
        assert!(bind(Role::Agent).is_ok());
        let error = bind(Role::Controller).err().unwrap().to_string();
        assert!(error.contains("not those of an agent"), "{error}");
    });
}

#[test]
fn a_code_brings_an_agent_its_credentials_once() {
    let authority = Authority::generate().unwrap();
    let adopt = async |address: SocketAddr, code: &PairingCode, role: Role| {
        let credentials = authority.issue("pi", role, &[]).unwrap();
        pairing::adopt(&address.to_string(), code, &credentials).await
    };
    wait(async {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let waiting = Waiting::bind(loopback).unwrap();
        let (address, code) = (waiting.local_addr(), waiting.code().clone());
        let waiting = tokio::spawn(waiting.paired(TIMEOUT));

        let wrong = PairingCode::generate().unwrap();
        let error = adopt(address, &wrong, Role::Agent).await.unwrap_err().to_string();
        assert!(error.contains("that the code is the one it shows"), "{error}");
        let error = adopt(address, &code, Role::Controller).await.unwrap_err().to_string();
        assert!(error.contains("not the credentials of an agent"), "{error}");
        adopt(address, &code, Role::Agent).await.unwrap();
        let credentials = Arc::new(waiting.await.unwrap().unwrap());
        adopt(address, &code, Role::Agent).await.unwrap_err();

        // The port is free for the agent, which the controller now knows.
        let store = tempfile::tempdir().unwrap();
        let engines = vec![engine::open("rten").unwrap()];
        let config = AgentConfig::new(address.to_string(), store.path().to_owned(), engines);
        let agent = Agent::bind(AgentConfig { credentials: Some(credentials), ..config }).unwrap();
        tokio::spawn(agent.serve(std::future::pending()));
        let controller = showing(&issue(&authority, Role::Controller));
        let address = format!("https://{address}");
        AgentClient::connect("pi", &address, controller).await.unwrap().describe().await.unwrap();

        let waiting = Waiting::bind(loopback).unwrap();
        let error = waiting.paired(Duration::from_millis(10)).await.unwrap_err().to_string();
        assert!(error.contains("start it again for a new code"), "{error}");
    });
}

#[test]
fn a_path_without_credentials_says_how_to_get_them() {
    let error = Credentials::read(Path::new("/nonexistent")).unwrap_err().to_string();
    assert!(error.contains("cutline pki"), "{error}");
}
