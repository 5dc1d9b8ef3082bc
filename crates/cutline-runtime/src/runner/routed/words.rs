//! Why the route changed, in words.

use cutline_core::routing::{Cause, LinkId, Router, Why};

/// Why, with what was known at the time; `trouble` is the last error of anything.
pub(super) fn why(why: Why, router: &Router, devices: &[String], trouble: Option<&str>) -> String {
    let device = |link: LinkId| {
        let to = router.table().links()[link.index()].to;
        devices.get(to.index()).map_or("?", String::as_str).to_owned()
    };
    let trouble = trouble.map_or(String::new(), |text| format!(": {text}"));
    match why {
        Why::First => "it is the first that can be used".to_owned(),
        Why::Better => match router.rate().filter(|_| router.table().measured().is_some()) {
            Some(rate) => format!("it is better at {rate}"),
            None => "it is the one that was planned".to_owned(),
        },
        Why::Back => "it can be used again".to_owned(),
        Why::Asked => "it was asked for".to_owned(),
        Why::Lost(Cause::Silent(link)) => {
            let silence = router.settings().detection();
            format!("nothing was heard of `{}` for {silence}", device(link))
        }
        Why::Lost(Cause::Unreachable(link)) => {
            format!("`{}` cannot be reached{trouble}", device(link))
        }
        Why::Lost(Cause::Restarted(link)) => format!("`{}` was started again", device(link)),
        Why::Lost(Cause::Late) => "an answer took far longer than usual".to_owned(),
        Why::Lost(Cause::Failed) => format!("a frame came back unanswered{trouble}"),
        Why::Lost(Cause::NotLoaded) => format!("its stages could not be loaded{trouble}"),
    }
}
