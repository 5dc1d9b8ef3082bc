//! Two sentences in plain words: what to do, and why.

use cutline_core::{
    cost::Costs,
    dag::Dag,
    planner::{Answer, Choice, Proof},
    units::Nanos,
};

use super::data::{Headline, Plan};

/// What to do and why; `best` is the best plan as it is listed.
pub(super) fn headline(dag: &Dag, costs: &Costs, answer: &Answer, best: Option<&Plan>) -> Headline {
    let (Some(plan), Ok(choice)) = (best, &answer.best) else {
        return Headline {
            what: "No plan that the request allows can be run.".to_owned(),
            why: sentence(&answer.reason),
        };
    };
    Headline { what: what(dag, costs, plan), why: why(answer, plan, choice) }
}

fn what(dag: &Dag, costs: &Costs, plan: &Plan) -> String {
    let name = |device: usize| costs.devices()[device].name.as_str();
    let latency = plan.figures.latency_ns;
    let predicted = format!("one frame then takes {latency}, as predicted");
    let input = plan.input_encoding.as_deref().unwrap_or("fp32");
    match (plan.stages.as_slice(), plan.hops.as_slice()) {
        ([only], []) => {
            format!(
                "Run the whole network on {} and do not split it: {predicted}.",
                name(only.device)
            )
        }
        ([only], _) => format!(
            "Send the input to {} as {input}, run the whole network there and do not split it: \
             {predicted}.",
            name(only.device)
        ),
        (stages, hops) => {
            let all: usize = stages.iter().map(|stage| stage.layers).sum();
            let crossing = |device: usize| {
                hops.iter().find(|hop| hop.to == device).map(|hop| {
                    let values: Vec<&str> =
                        hop.values.iter().map(|&flow| dag.flows()[flow].name.as_str()).collect();
                    let values = match values.as_slice() {
                        [] => "nothing".to_owned(),
                        [one] => format!("`{one}`"),
                        many => format!("{} values", many.len()),
                    };
                    let how = match hop.encoding.as_str() {
                        "fp32" => String::new(),
                        other => format!(" as {other}"),
                    };
                    format!("send {values} ({}{how})", hop.bytes)
                })
            };
            let mut words: Vec<String> = Vec::new();
            let mut at = None;
            for (position, stage) in stages.iter().enumerate() {
                if stage.joined_by.is_some() {
                    words.extend(crossing(stage.device));
                    words.push(format!("meanwhile run {} on {}", stage.layers, name(stage.device)));
                    continue;
                }
                let moves = at.is_some_and(|at| at != stage.device);
                at = Some(stage.device);
                let first = if position == 0 { "Run the first" } else { "run the next" };
                let run = match position + 1 == stages.len() {
                    true => format!("run the other {} on {}", stage.layers, name(stage.device)),
                    false => format!(
                        "{first} {} on {}",
                        of(stage.layers, all, position),
                        name(stage.device)
                    ),
                };
                words.extend(crossing(stage.device).filter(|_| moves));
                words.push(run);
            }
            let last = words.pop().unwrap_or_default();
            format!("{}, and {last}: {predicted}.", words.join(", "))
        }
    }
}

fn of(layers: usize, all: usize, position: usize) -> String {
    match (position, layers) {
        (0, 1) => format!("of {all} layers"),
        (0, _) => format!("{layers} of {all} layers"),
        (_, 1) => "one".to_owned(),
        _ => layers.to_string(),
    }
}

fn why(answer: &Answer, plan: &Plan, best: &Choice) -> String {
    let latency = best.evaluation.latency;
    let proof = match best.proof {
        Proof::Optimal => "and nothing that is allowed is faster, which is proven over the table \
                           of costs"
            .to_owned(),
        Proof::Within(bound) => {
            format!("and whatever is faster is so by at most {}, which is proven", Nanos(bound))
        }
        Proof::Front(_) => "and it is on the front".to_owned(),
        Proof::Unproven => "though there may be faster ones".to_owned(),
    };
    if plan.stages.len() > 1 {
        let plain = answer
            .baselines
            .iter()
            .filter(|baseline| baseline.allowed)
            .filter_map(|baseline| Some((baseline.outcome.as_ref().ok()?, baseline)))
            .min_by_key(|(choice, _)| choice.evaluation.latency);
        return match plain {
            Some((choice, baseline)) => format!(
                "Without a split the best is {}, which takes {}, {}, {proof}.",
                baseline.name,
                choice.evaluation.latency,
                ratio(choice.evaluation.latency, latency),
            ),
            None => format!("No allowed plan on one device can be run, {proof}."),
        };
    }
    match &answer.best_split {
        Ok(split) => {
            let evaluation = &split.evaluation;
            format!(
                "The best split would take {}, {}: it computes for {} on the source, for {} \
                 elsewhere, and its upload takes {}.",
                evaluation.latency,
                ratio(evaluation.latency, latency),
                evaluation.edge_compute(),
                evaluation.cloud_compute(),
                evaluation.upload(),
            )
        }
        Err(why) => format!("There is no split to compare with: {why}, {proof}."),
    }
}

/// How much longer one takes than the other.
fn ratio(longer: Nanos, shorter: Nanos) -> String {
    let hundredths = u128::from(longer.0) * 100 / u128::from(shorter.0.max(1));
    match hundredths {
        0..=100 => "about as long".to_owned(),
        101..200 => format!("{} % longer", hundredths - 100),
        _ => format!("{}.{} times as long", hundredths / 100, hundredths % 100 / 10),
    }
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{}.", letters.as_str().trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_read_as_people_say_them() {
        let cases = [
            (100, 100, "about as long"),
            (125, 100, "25 % longer"),
            (200, 100, "2.0 times as long"),
            (1234, 100, "12.3 times as long"),
            (5, 0, "5.0 times as long"),
        ];
        for (longer, shorter, text) in cases {
            assert_eq!(ratio(Nanos(longer), Nanos(shorter)), text);
        }
        assert_eq!(sentence("no plan: it is so."), "No plan: it is so.");
    }
}
