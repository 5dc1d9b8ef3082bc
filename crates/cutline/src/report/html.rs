//! `report.html` and `study.html`: pages of which each needs nothing else, with the data inside.
//!
//! The page is a fixed file with places for the title, the two sentences, the data, the styles and
//! the scripts. The data is JSON in a script element that is never executed; the scripts write it
//! into the page as text, never as markup. A content security policy forbids every request.

use serde::Serialize;

use super::data::{Data, Headline};

const STYLE: &str = include_str!("../../assets/report.css");
const CHART: &str = include_str!("../../assets/vendor/chart.js/chart.umd.min.js");
const CHART_LICENCES: &str = include_str!("../../assets/vendor/chart.js/LICENSE.md");

/// A fixed file and its scripts.
struct Page {
    template: &'static str,
    scripts: &'static [&'static str],
}

/// The report of `explore`.
const EXPLORE: Page = Page {
    template: include_str!("../../assets/report.html"),
    scripts: &[
        include_str!("../../assets/report.js"),
        include_str!("../../assets/plot.js"),
        include_str!("../../assets/charts.js"),
        include_str!("../../assets/network.js"),
        include_str!("../../assets/main.js"),
    ],
};

/// The report of `study`.
const STUDY: Page = Page {
    template: include_str!("../../assets/study.html"),
    scripts: &[
        include_str!("../../assets/report.js"),
        include_str!("../../assets/plot.js"),
        include_str!("../../assets/study.js"),
        include_str!("../../assets/evidence.js"),
    ],
};

/// The whole page of `explore`.
pub(super) fn page(data: &Data) -> serde_json::Result<String> {
    EXPLORE.with(data, &data.model.name, &data.headline)
}

/// The whole page of `study` about its data.
pub(crate) fn study_page(
    data: &impl Serialize,
    title: &str,
    headline: &Headline,
) -> serde_json::Result<String> {
    STUDY.with(data, title, headline)
}

impl Page {
    fn with(
        &self,
        data: &impl Serialize,
        title: &str,
        headline: &Headline,
    ) -> serde_json::Result<String> {
        let json = script_safe(&serde_json::to_string(data)?);
        Ok(fill(self.template, |name| match name {
            "title" => text_safe(title),
            "what" => with_code(&headline.what),
            "why" => with_code(&headline.why),
            "style" => STYLE.to_owned(),
            "licences" => text_safe(CHART_LICENCES),
            "data" => json.clone(),
            "chart" => without_source_map(CHART),
            _ => self.scripts.concat(),
        }))
    }
}

/// The template with each `{{name}}` replaced, in one pass: what is put in is not looked at again.
fn fill(template: &str, value: impl Fn(&str) -> String) -> String {
    let mut page = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((name, after)) = after.split_once("}}") else { break };
        page.push_str(before);
        page.push_str(&value(name));
        rest = after;
    }
    page.push_str(rest);
    page
}

/// JSON that cannot end the element it is in: the characters of markup, which occur in strings
/// only, as escapes.
fn script_safe(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                safe.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            other => safe.push(other),
        }
    }
    safe
}

fn text_safe(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Text as markup, with what stands between backquotes as code.
fn with_code(text: &str) -> String {
    let mut markup = String::new();
    for (position, piece) in text_safe(text).split('`').enumerate() {
        match position % 2 {
            0 => markup.push_str(piece),
            _ => markup.push_str(&format!("<code>{piece}</code>")),
        }
    }
    markup
}

/// A source map is another file, which a debugger would ask for.
fn without_source_map(script: &str) -> String {
    let lines = script.lines().filter(|line| !line.starts_with("//# sourceMappingURL"));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_layers_cannot_leave_the_data() {
        let hostile = "</script><script>alert('x')</script><!-- \u{2028} & ";
        let json = serde_json::to_string(hostile).unwrap();
        let safe = script_safe(&json);
        assert!(!safe.contains(['<', '>', '&', '\u{2028}']), "{safe}");
        assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), hostile);
        assert_eq!(text_safe("<b>\"&"), "&lt;b&gt;&quot;&amp;");
        assert_eq!(with_code("a `<b>` c"), "a <code>&lt;b&gt;</code> c");
    }

    #[test]
    fn what_is_filled_in_is_not_filled_again() {
        let value = |name: &str| format!("[{name} {{{{b}}}}]");
        assert_eq!(fill("<{{a}}|{{b}}>", value), "<[a {{b}}]|[b {{b}}]>");
    }

    #[test]
    fn each_page_has_a_place_for_everything_and_loads_nothing() {
        for Page { template, scripts } in [EXPLORE, STUDY] {
            for name in ["title", "what", "why", "style", "licences", "data", "chart", "scripts"] {
                assert!(template.contains(&format!("{{{{{name}}}}}")), "{name}");
            }
            let scripts = scripts.concat();
            for text in [template, STYLE, &scripts, &without_source_map(CHART)] {
                for load in [
                    "src=",
                    "<link",
                    "@import",
                    "url(",
                    "fetch(",
                    "XMLHttpRequest",
                    "WebSocket(",
                    "EventSource(",
                    "sendBeacon",
                    "importScripts",
                    "sourceMappingURL",
                ] {
                    assert!(!text.contains(load), "{load}");
                }
                assert!(!text.contains("innerHTML"), "text is written as text");
            }
            for script in [&scripts, CHART] {
                let ends = script.to_ascii_lowercase().contains("</script");
                assert!(!ends, "it would end its element");
            }
        }
    }
}
