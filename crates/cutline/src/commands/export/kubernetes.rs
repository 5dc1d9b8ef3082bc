//! Manifests of Kubernetes.
//!
//! Scalars are written as JSON has them, which YAML reads as the same, whatever is in them.

use std::path::Path;

use cutline_core::units::Bytes;
use serde_json::json;

use super::{Agent, AgentArgs, Common, File, text};

/// Memory that an agent is given beside its stages.
const OWN_MEMORY: u64 = 256 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    pub(super) agent: AgentArgs,
    /// Image that has `cutline` in its search path.
    #[arg(long, value_name = "IMAGE", default_value = concat!("cutline:", env!("CARGO_PKG_VERSION")))]
    image: String,
    /// Namespace of all objects [default: that of who applies them].
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Start agents without encryption, in a cluster network that you trust: they need no Secret, and are
    /// asked over HTTP whether they are ready.
    #[arg(long)]
    insecure: bool,
}

/// The Deployment and the Service of an agent.
pub(super) fn manifests(agent: &Agent, args: &Args) -> File {
    let name = format!("cutline-{}", agent.name);
    let mut arguments = agent.arguments(&format!("0.0.0.0:{}", agent.port), "/var/lib/cutline");
    let (probe, mount, volume, note) = match args.insecure {
        true => {
            arguments.push("--insecure".to_owned());
            let probe = |path| format!("httpGet: {{path: {path}, port: oip}}");
            let probes = [probe("/v2/health/ready"), probe("/v2/health/live")];
            (probes, String::new(), String::new(), String::new())
        }
        false => {
            arguments.extend(["--identity", "/identity"].map(str::to_owned));
            // Nobody without a certificate of the fleet is heard, the kubelet neither.
            let probe = || "tcpSocket: {port: oip}".to_owned();
            let mount = "            - {name: identity, mountPath: /identity, readOnly: true}\n";
            let volume = format!(
                "        - name: identity\n          secret: {{secretName: {name}-identity, defaultMode: 288}}\n"
            );
            let note = format!(
                "# Its credentials, as `cutline pki issue {0} -o {0}` writes them, come from a Secret:\n\
                 #   kubectl create secret generic {name}-identity --from-file={0}/\n",
                agent.name
            );
            ([probe(), probe()], mount.to_owned(), volume, note)
        }
    };
    let [ready, live] = probe;
    let namespace = args.namespace.as_ref();
    let namespace =
        namespace.map_or(String::new(), |name| format!("\n  namespace: {}", scalar(name)));
    let labels = format!(
        "app.kubernetes.io/name: cutline-agent, app.kubernetes.io/instance: {}",
        scalar(&name)
    );
    // What stands in brackets behind a dollar would be a variable of the container.
    let argument = |text: &String| format!("            - {}\n", scalar(&text.replace('$', "$$")));
    let arguments: String = arguments.iter().map(argument).collect();
    let threads = agent.threads.unwrap_or(1);
    let needed = agent.predicted.map_or(0, |predicted| predicted.0).saturating_add(OWN_MEMORY);
    let most = agent.memory.map(|memory| memory.0.saturating_add(OWN_MEMORY).max(needed));
    let limits = most.map_or(String::new(), |most| {
        format!("\n            limits: {{memory: {}}}", mebibytes(Bytes(most)))
    });
    let manifests = format!(
        "\
# Written by `cutline export kubernetes` for device {device}.
{note}apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}{namespace}
  labels: {{{labels}}}
spec:
  replicas: {replicas}
  selector:
    matchLabels: {{{labels}}}
  template:
    metadata:
      labels: {{{labels}}}
      annotations: {{prometheus.io/scrape: \"{scrape}\", prometheus.io/port: \"{port}\"}}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 10
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        runAsGroup: 65532
        fsGroup: 65532
        seccompProfile: {{type: RuntimeDefault}}
      containers:
        - name: agent
          image: {image}
          command: [\"cutline\"]
          args:
{arguments}          ports:
            - {{name: oip, containerPort: {port}}}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {{drop: [\"ALL\"]}}
          resources:
            requests: {{cpu: {threads}, memory: {memory}}}{limits}
          startupProbe:
            {ready}
            failureThreshold: 30
          readinessProbe:
            {ready}
          livenessProbe:
            {live}
            periodSeconds: 20
          volumeMounts:
            - {{name: store, mountPath: /var/lib/cutline}}
            - {{name: tmp, mountPath: /tmp}}
{mount}      volumes:
        - name: store
          emptyDir: {{}}
        - name: tmp
          emptyDir: {{}}
{volume}---
apiVersion: v1
kind: Service
metadata:
  name: {name}{namespace}
  labels: {{{labels}}}
spec:
  selector: {{{labels}}}
  # One connection carries all calls: without a virtual address each replica is found by its own.
  clusterIP: {cluster_ip}
  ports:
    - {{name: oip, port: {port}, targetPort: oip, appProtocol: kubernetes.io/h2c}}
",
        device = scalar(&agent.device),
        replicas = agent.replicas,
        scrape = args.insecure,
        port = agent.port,
        image = scalar(&args.image),
        memory = mebibytes(Bytes(needed)),
        cluster_ip = if agent.replicas > 1 { "None" } else { "\"\"" },
    );
    let manifests = match args.insecure {
        true => manifests,
        // Nothing between may read it.
        false => manifests.replace(", appProtocol: kubernetes.io/h2c", ""),
    };
    text(Path::new(&format!("{name}.yaml")), manifests)
}

/// A text as YAML has it, on one line: as JSON, with what YAML takes for the end of a line, or does not
/// take at all, as its number.
fn scalar(text: &str) -> String {
    let quoted = json!(text).to_string();
    let mut scalar = String::with_capacity(quoted.len());
    for c in quoted.chars() {
        match c {
            '\u{7f}'..='\u{9f}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{feff}'
            | '\u{fffe}'
            | '\u{ffff}' => {
                scalar.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => scalar.push(c),
        }
    }
    scalar
}

/// A quantity that is not less, in mebibytes.
fn mebibytes(bytes: Bytes) -> String {
    format!("{}Mi", bytes.0.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_stays_on_its_line_whatever_yaml_takes_for_its_end() {
        assert_eq!(scalar("pi \"4\""), r#""pi \"4\"""#);
        assert_eq!(scalar("a\nb\u{85}c\u{2028}d\u{7f}é"), r#""a\nb\u0085c\u2028d\u007fé""#);
    }

    #[test]
    fn a_quantity_is_rounded_up() {
        assert_eq!(
            [0, 1, 1 << 20, (1 << 20) + 1].map(|n| mebibytes(Bytes(n))),
            ["0Mi", "1Mi", "1Mi", "2Mi"]
        );
    }
}
