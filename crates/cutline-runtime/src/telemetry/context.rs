//! W3C Trace Context: which trace a call belongs to, as two headers.
//!
//! ```text
//! traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
//!              │  trace: 16 bytes                  span: 8 bytes     └ flags: 1 is "sampled"
//!              └ version
//! tracestate:  vendor=opaque,other=opaque
//! ```
//!
//! Source: <https://www.w3.org/TR/trace-context/>. Where it lets a receiver choose: a newer version
//! is read by the fields of version 00; a `tracestate` that breaks the rules is dropped alone, a
//! `traceparent` that does is dropped with it.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    sync::Arc,
};

use axum::http::HeaderMap;
use tonic::metadata::MetadataMap;

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// Length of a `traceparent` of version 00.
const LENGTH: usize = 55;

/// Members of a `tracestate` at most, by the recommendation.
const MAX_MEMBERS: usize = 32;

/// Characters of a `tracestate` that are passed on: those that the recommendation asks for.
const MAX_STATE: usize = 512;

/// A place in a trace: the trace, and the span that what follows is part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace: u128,
    span: u64,
    sampled: bool,
    /// What tracing systems of others add, as it came.
    state: Option<Arc<str>>,
}

impl TraceContext {
    /// The first place of a new trace, which is sampled.
    pub fn root() -> Self {
        let trace = u128::from(random()) << 64 | u128::from(random());
        Self { trace, span: random(), sampled: true, state: None }
    }

    /// A new span of the same trace.
    pub(super) fn child(&self) -> Self {
        Self { span: random(), ..self.clone() }
    }

    /// What a call brought; `None` where that is nothing, or not well formed. Bounded by the headers'
    /// length.
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all(TRACEPARENT).iter();
        let (Some(parent), None) = (parents.next(), parents.next()) else { return None };
        let (trace, span, sampled) = parse(parent.as_bytes())?;
        let states = headers.get_all(TRACESTATE).iter().map(|value| value.to_str().ok());
        let state = states.collect::<Option<Vec<&str>>>().and_then(|lines| state(&lines.join(",")));
        Some(Self { trace, span, sampled, state })
    }

    /// Adds the headers to a call.
    pub(crate) fn write(&self, metadata: &mut MetadataMap) {
        let headers = [(TRACEPARENT, Some(self.traceparent())), (TRACESTATE, self.state_text())];
        for (name, text) in headers {
            if let Some(Ok(value)) = text.map(|text| text.parse()) {
                metadata.insert(name, value);
            }
        }
    }

    /// The header that names the place.
    pub fn traceparent(&self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }

    /// Whether whoever began the trace records it.
    pub fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// The trace, as bytes.
    pub(super) fn trace_id(&self) -> [u8; 16] {
        self.trace.to_be_bytes()
    }

    /// The span, as bytes.
    pub(super) fn span_id(&self) -> [u8; 8] {
        self.span.to_be_bytes()
    }

    /// What tracing systems of others added.
    pub(super) fn state_text(&self) -> Option<String> {
        self.state.as_deref().map(str::to_owned)
    }
}

/// A random number that is not 0. The standard library seeds its hashers from the system once per
/// thread, so that it costs no call of the system and cannot fail; nothing secret hangs on it.
fn random() -> u64 {
    RandomState::new().build_hasher().finish().max(1)
}

/// Trace, span and whether it is sampled, of a `traceparent`.
fn parse(text: &[u8]) -> Option<(u128, u64, bool)> {
    let (head, rest) = text.split_at_checked(LENGTH)?;
    let version = hex(&head[..2])?;
    let ends = match version {
        0 => rest.is_empty(),
        // What a later version adds stands behind a dash.
        1..=0xfe => rest.first().is_none_or(|&next| next == b'-'),
        _ => false,
    };
    let dashes = [2, 35, 52].iter().all(|&at| head[at] == b'-');
    let (trace, span, flags) = (hex(&head[3..35])?, hex(&head[36..52])?, hex(&head[53..])?);
    let span = u64::try_from(span).ok()?;
    (ends && dashes && trace != 0 && span != 0).then_some((trace, span, flags & 1 == 1))
}

/// At most 32 digits, in lower case only.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// A `tracestate` as it is passed on: its first members, as many as are allowed; nothing of one that
/// breaks the rules.
fn state(text: &str) -> Option<Arc<str>> {
    let mut passed = String::new();
    let members = text.split(',').map(|member| member.trim_matches([' ', '\t']));
    for (number, member) in members.filter(|member| !member.is_empty()).enumerate() {
        let (key, value) = member.split_once('=')?;
        if !is_key(key) || !is_value(value) {
            return None;
        }
        if number < MAX_MEMBERS && passed.len() + 1 + member.len() <= MAX_STATE {
            passed.extend((!passed.is_empty()).then_some(','));
            passed.push_str(member);
        }
    }
    (!passed.is_empty()).then(|| passed.into())
}

fn is_key(key: &str) -> bool {
    let first = key.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let rest = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"_-*/@".contains(&c);
    first && key.len() <= 256 && key.bytes().all(rest)
}

fn is_value(value: &str) -> bool {
    (1..=256).contains(&value.len())
        && value.bytes().all(|c| (0x20..=0x7e).contains(&c) && c != b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn headers(parents: &[&str], states: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, values) in [(TRACEPARENT, parents), (TRACESTATE, states)] {
            for value in values {
                headers.append(name, value.parse().unwrap());
            }
        }
        headers
    }

    #[test]
    fn a_parent_that_is_well_formed_is_read() {
        for (text, sampled) in [
            (format!("00-{TRACE}-{SPAN}-01"), true),
            (format!("00-{TRACE}-{SPAN}-00"), false),
            (format!("00-{TRACE}-{SPAN}-03"), true),
            (format!("00-{TRACE}-{SPAN}-fe"), false),
            (format!("01-{TRACE}-{SPAN}-01"), true),
            (format!("fe-{TRACE}-{SPAN}-01-what-is-new"), true),
        ] {
            let context = TraceContext::read(&headers(&[&text], &[])).unwrap();
            assert_eq!(context.is_sampled(), sampled, "{text}");
            let flag = u8::from(sampled);
            assert_eq!(context.traceparent(), format!("00-{TRACE}-{SPAN}-0{flag}"), "{text}");
        }
    }

    #[test]
    fn a_parent_that_is_not_well_formed_is_none() {
        let zeros = "0".repeat(32);
        for text in [
            String::new(),
            "00".to_owned(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-011"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("01-{TRACE}-{SPAN}-01more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("0-{TRACE}-{SPAN}-001"),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{}-01", SPAN.to_uppercase()),
            format!("0A-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-0G"),
            format!("00_{TRACE}_{SPAN}_01"),
            format!("00-{}+-{SPAN}-01", &TRACE[..31]),
            format!("00-{TRACE}{SPAN}--01"),
            format!(" 00-{TRACE}-{SPAN}-01"),
            format!("{}-{TRACE}-{SPAN}-01", "0".repeat(60_000)),
        ] {
            let headers = headers(&[&text], &["a=b"]);
            assert_eq!(TraceContext::read(&headers), None, "{}", &text[..text.len().min(99)]);
        }
        let one = format!("00-{TRACE}-{SPAN}-01");
        assert_eq!(TraceContext::read(&headers(&[&one, &one], &[])), None, "two of them");
        assert_eq!(TraceContext::read(&headers(&[], &["a=b"])), None, "none of them");
        let mut bytes = headers(&[], &[]);
        bytes.insert(TRACEPARENT, [b'0', 0xff].as_slice().try_into().unwrap());
        assert_eq!(TraceContext::read(&bytes), None);
    }

    #[test]
    fn a_byte_that_is_damaged_is_found_or_is_another_digit() {
        let text = format!("00-{TRACE}-{SPAN}-01").into_bytes();
        for at in 0..text.len() {
            for byte in 0..=u8::MAX {
                let mut damaged = text.clone();
                damaged[at] = byte;
                let fits = match text[at] {
                    b'-' => byte == b'-',
                    _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
                };
                assert_eq!(parse(&damaged).is_some(), fits, "{byte} at {at}");
            }
            assert_eq!(parse(&text[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn the_state_of_others_is_passed_on_within_its_bounds() {
        let parent = format!("00-{TRACE}-{SPAN}-01");
        let many: Vec<String> = (0..40).map(|n| format!("k{n}=v")).collect();
        let long = format!("a={},b={},c=1", "x".repeat(256), "y".repeat(256));
        for (states, passed) in [
            (vec!["vendor=opaque"], Some("vendor=opaque".to_owned())),
            (vec!["a=1 , b@t=2,", "c=3"], Some("a=1,b@t=2,c=3".to_owned())),
            (vec![], None),
            (vec![""], None),
            (vec!["a"], None),
            (vec!["a="], None),
            (vec!["a=1=2"], None),
            (vec!["A=1"], None),
            (vec!["a=1,-b=2"], None),
            (vec![&many.join(",")], Some(many[..32].join(","))),
            (vec![&long], Some(format!("a={},c=1", "x".repeat(256)))),
            (vec![&format!("a={}", "x".repeat(257))], None),
        ] {
            let context = TraceContext::read(&headers(&[&parent], &states)).unwrap();
            assert_eq!(context.state_text(), passed, "{states:?}");
            let mut metadata = MetadataMap::new();
            context.write(&mut metadata);
            assert_eq!(TraceContext::read(metadata.as_ref()), Some(context), "{states:?}");
        }
    }

    #[test]
    fn every_trace_and_every_span_is_another() {
        let (one, other) = (TraceContext::root(), TraceContext::root());
        let child = one.child();
        assert_ne!(one.trace, other.trace);
        assert_eq!((one.trace, one.sampled), (child.trace, child.sampled));
        assert_ne!(one.span, child.span);
        let again = TraceContext::read(&headers(&[&one.traceparent()], &[]));
        assert_eq!(again, Some(one));
    }
}
