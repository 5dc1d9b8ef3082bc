//! What the control topic may say, and what is answered.
//!
//! ```json
//! {"id": "7", "command": "route", "route": "edge-only"}
//! {"id": "7", "ok": true, "result": {...}}
//! {"id": "7", "ok": false, "error": "..."}
//! ```
//!
//! Who may say it is the broker's to decide, by its access control.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

/// Largest message on the control topic that is looked at, in bytes.
pub const MAX_ORDER: usize = 64 << 10;

/// Longest identifier of an order, in bytes.
const MAX_ID: usize = 128;

/// Longest topic that an answer is sent to, in bytes.
const MAX_TOPIC: usize = 1024;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// A sign of life.
    Ping,
    /// How it is.
    Status,
    /// What it measured.
    Metrics,
    /// Take no more frames until told to go on.
    Pause,
    /// Go on.
    Resume,
    /// Take no more frames and end.
    Stop,
    /// Send frames over a route, while nothing speaks against it; `None`: over the best again.
    Route {
        /// Its name.
        route: Option<String>,
    },
}

/// Where an answer goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reply {
    /// Named by the order itself, under MQTT 5.
    pub(super) topic: Option<String>,
    /// What the asker knows its question by, under MQTT 5.
    pub(super) correlation: Option<Bytes>,
}

impl Reply {
    /// As a message named it; a topic to which nothing can be published counts as none.
    pub(super) fn new(topic: Option<String>, correlation: Option<Bytes>) -> Self {
        let valid = |topic: &String| {
            !topic.is_empty() && topic.len() <= MAX_TOPIC && !topic.contains(['+', '#', '\0'])
        };
        let short = |data: &Bytes| data.len() <= MAX_ID;
        Self { topic: topic.filter(valid), correlation: correlation.filter(short) }
    }
}

/// A message on the control topic: its identifier, as far as it has one, and what it asks for or why
/// it is refused.
pub(super) fn parse(payload: &[u8], retained: bool) -> (Value, Result<Command, String>) {
    if payload.len() > MAX_ORDER {
        let text = format!("it has {} bytes; at most {MAX_ORDER} are read", payload.len());
        return (Value::Null, Err(text));
    }
    let value: Value = match serde_json::from_slice(payload) {
        Ok(value) => value,
        Err(error) => return (Value::Null, Err(format!("it is not JSON: {error}"))),
    };
    let id = match &value["id"] {
        id @ (Value::String(_) | Value::Number(_)) if id.to_string().len() <= MAX_ID => id.clone(),
        _ => Value::Null,
    };
    if retained {
        // It was meant for whoever was there when it was said.
        return (id, Err("it was retained by the broker; orders are not".to_owned()));
    }
    let command = Command::deserialize(&value).map_err(|error| {
        format!(
            "{error}; it has to be an object such as {{\"id\": 1, \"command\": \"ping\"}}, whose \
             command is ping, status, metrics, pause, resume, stop or route"
        )
    });
    (id, command)
}

/// The answer to the order of an identifier.
pub(super) fn answer(id: &Value, result: Result<Value, String>) -> Bytes {
    let document = match result {
        Ok(result) => json!({ "id": id, "ok": true, "result": result }),
        Err(error) => json!({ "id": id, "ok": false, "error": error }),
    };
    document.to_string().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn orders_are_read_with_their_identifiers() {
        let read = |text: &str| parse(text.as_bytes(), false);
        assert_eq!(read(r#"{"id": 7, "command": "ping"}"#), (json!(7), Ok(Command::Ping)));
        let route = Command::Route { route: Some("edge-only".to_owned()) };
        let order = r#"{"id": "a", "command": "route", "route": "edge-only", "more": [1]}"#;
        assert_eq!(read(order), (json!("a"), Ok(route)));
        let best = r#"{"command": "route"}"#;
        assert_eq!(read(best), (Value::Null, Ok(Command::Route { route: None })));
    }

    #[test]
    fn what_is_no_order_is_refused_with_the_identifier_that_it_has() {
        for (text, id, words) in [
            ("", Value::Null, "not JSON"),
            ("ping", Value::Null, "not JSON"),
            ("[]", Value::Null, "ping"),
            (r#"{"id": 3}"#, json!(3), "command"),
            (r#"{"id": 3, "command": "format-disk"}"#, json!(3), "unknown variant"),
            (r#"{"id": {"a": 1}, "command": "x"}"#, Value::Null, "unknown variant"),
            (r#"{"id": 3, "command": "route", "route": 5}"#, json!(3), "string"),
        ] {
            let (found, result) = parse(text.as_bytes(), false);
            let error = result.unwrap_err();
            assert!(found == id && error.contains(words), "{text}: {found} {error}");
        }
        let (_, retained) = parse(br#"{"command": "stop"}"#, true);
        assert!(retained.unwrap_err().contains("retained"));
        let large = vec![b' '; MAX_ORDER + 1];
        assert!(parse(&large, false).1.unwrap_err().contains("bytes"));
        let deep = "[".repeat(MAX_ORDER);
        assert!(parse(deep.as_bytes(), false).1.is_err());
    }

    #[test]
    fn an_answer_goes_only_where_one_can_be_published() {
        for (topic, expected) in
            [("a/b", true), ("", false), ("a/#", false), ("+", false), ("a\0", false)]
        {
            let reply = Reply::new(Some(topic.to_owned()), None);
            assert_eq!(reply.topic.is_some(), expected, "{topic}");
        }
        assert_eq!(
            Reply::new(Some("x".repeat(2000)), Some(vec![0; 2000].into())),
            Reply::default()
        );
    }

    proptest! {
        #[test]
        fn nothing_on_the_control_topic_panics(payload in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (id, result) = parse(&payload, false);
            let text = answer(&id, result.map(|_| Value::Null));
            prop_assert!(serde_json::from_slice::<Value>(&text).is_ok());
        }
    }
}
