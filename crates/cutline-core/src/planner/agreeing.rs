//! The best plan among those whose answers agree well enough: branch and bound over lossy steps.
//!
//! How well a plan's answers agree is not in the table: somebody has to run it. So the best plan of
//! all is found and judged; where it does not hold, one problem for each of its lossy steps is
//! opened in which that step is forbidden, and the problem with the best optimum is taken next. The
//! first plan that holds is the best of all that do, if what fails is not mended by another lossy
//! step more: then every plan that holds lacks one of the steps that failed together.
//!
//! ```text
//! {}: fp16 at a, uint8 at b: fails ─┬─ no fp16 at a: uint8 at a, uint8 at b: ...
//!                                   └─ no uint8 at b: fp16 at a, fp16 at b: holds
//! ```

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use super::{Answer, Choice, Infeasible, PlannerError, Proof, Request, solve_until};
use crate::{
    cost::Costs,
    dag::Dag,
    evaluate::Setting,
    partition::{Mapping, derive_in_order},
};

/// Problems after which the search ends with the best plan without any lossy step.
const MOST_PROBLEMS: usize = 500;

/// One way in which a plan changes what it sends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LossyStep {
    /// The network's input travels in this encoding.
    Input(String),
    /// Where exactly these values cross, the network's inputs apart, they travel in this codec.
    Cut {
        /// Names, in the order of the network.
        values: Vec<String>,
        /// Name of the codec.
        codec: String,
    },
}

/// The lossy steps of a plan.
pub fn lossy_steps(
    dag: &Dag,
    costs: &Costs,
    mapping: &Mapping,
    setting: &Setting,
) -> BTreeSet<LossyStep> {
    let partition = derive_in_order(dag, mapping, &setting.order);
    let mut steps = BTreeSet::new();
    for hop in &partition.hops {
        let (inputs, values): (Vec<_>, Vec<_>) =
            hop.message.iter().map(|&id| dag.flow(id)).partition(|flow| flow.from.is_none());
        let input = &costs.inputs()[setting.input];
        if input.lossy && !inputs.is_empty() {
            steps.insert(LossyStep::Input(input.name.clone()));
        }
        let codec = &costs.codecs()[setting.codecs[hop.from.index()]];
        if codec.lossy && values.iter().any(|flow| flow.encodable) {
            let values = values.iter().map(|flow| flow.name.clone()).collect();
            steps.insert(LossyStep::Cut { values, codec: codec.name.clone() });
        }
    }
    steps
}

/// Which plan of an answer is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The best of everything that is allowed.
    Best,
    /// The best with work on two devices.
    Split,
}

/// What can go wrong besides there being no plan.
#[derive(Debug)]
pub enum AgreeingError<E> {
    /// The problem itself.
    Planner(PlannerError),
    /// A plan could not be judged.
    Judge(E),
}

impl<E> From<PlannerError> for AgreeingError<E> {
    fn from(error: PlannerError) -> Self {
        AgreeingError::Planner(error)
    }
}

/// A request whose lossy plans are judged, and what is known of it so far.
pub struct Agreeing<'a> {
    dag: &'a Dag,
    costs: &'a Costs,
    request: Request,
    /// By the steps that are forbidden.
    solved: BTreeMap<BTreeSet<LossyStep>, Answer>,
    /// By the steps of the plan.
    judged: BTreeMap<BTreeSet<LossyStep>, bool>,
}

/// A problem to be looked at: the value of its best plan, and what is forbidden in it.
type Open = BinaryHeap<Reverse<(u64, BTreeSet<LossyStep>)>>;

impl<'a> Agreeing<'a> {
    /// Every encoding and codec on offer may be used, unless the request names those that may.
    pub fn new(dag: &'a Dag, costs: &'a Costs, request: &Request) -> Self {
        let inputs = || costs.inputs().iter().map(|input| input.name.clone()).collect();
        let codecs = || costs.codecs().iter().map(|codec| codec.name.clone()).collect();
        let request = Request {
            input_encodings: Some(request.input_encodings.clone().unwrap_or_else(inputs)),
            cut_encodings: Some(request.cut_encodings.clone().unwrap_or_else(codecs)),
            ..request.clone()
        };
        Agreeing { dag, costs, request, solved: BTreeMap::new(), judged: BTreeMap::new() }
    }

    /// The best plan of a kind that `judge` says holds, with the answer that it is part of. A plan
    /// without a lossy step is not judged: it holds. Plans of equal steps are judged once.
    pub fn find<E>(
        &mut self,
        kind: Kind,
        judge: &mut dyn FnMut(&Choice) -> Result<bool, E>,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<Answer, AgreeingError<E>> {
        let objective = self.request.objective;
        let value = |choice: &Choice, costs: &Costs| {
            objective.of(&choice.evaluation, costs).unwrap_or_default()
        };
        let plain = self.without_loss(stop)?;
        let safe = picked(&plain, kind).as_ref().ok().map(|choice| value(choice, self.costs));
        let mut open = Open::new();
        let mut seen = BTreeSet::from([BTreeSet::new()]);
        self.open(BTreeSet::new(), kind, &mut open, stop)?;
        while let Some(Reverse((least, forbidden))) = open.pop() {
            if let Some(safe) = safe.filter(|&safe| safe <= least) {
                let bound = self.bound(&forbidden, &open, kind);
                return Ok(proven(plain, kind, safe, bound));
            }
            let answer = self.solved[&forbidden].clone();
            let Ok(choice) = picked(&answer, kind) else { continue };
            let steps = lossy_steps(self.dag, self.costs, &choice.mapping, &choice.setting);
            if self.holds(&steps, choice, judge)? {
                let bound = self.bound(&forbidden, &open, kind);
                return Ok(proven(answer, kind, least, bound));
            }
            if seen.len() > MOST_PROBLEMS || stop() {
                let bound = self.bound(&forbidden, &open, kind);
                return Ok(proven(plain, kind, safe.unwrap_or(least), bound));
            }
            for step in steps {
                let mut child = forbidden.clone();
                child.insert(step);
                if seen.insert(child.clone()) {
                    self.open(child, kind, &mut open, stop)?;
                }
            }
        }
        // What is not lossy holds; where there is no such plan, none does.
        Ok(plain)
    }

    /// The answer without any lossy encoding.
    fn without_loss(&self, stop: &mut dyn FnMut() -> bool) -> Result<Answer, PlannerError> {
        let lossless = |named: &Option<Vec<String>>, lossy: &dyn Fn(&str) -> bool| {
            named
                .as_ref()
                .map(|names| names.iter().filter(|name| !lossy(name)).cloned().collect::<Vec<_>>())
        };
        let inputs = self.costs.inputs();
        let codecs = self.costs.codecs();
        let lossy_input = |name: &str| inputs.iter().any(|i| i.name == name && i.lossy);
        let lossy_codec = |name: &str| codecs.iter().any(|c| c.name == name && c.lossy);
        let mut request = Request {
            input_encodings: lossless(&self.request.input_encodings, &lossy_input),
            cut_encodings: lossless(&self.request.cut_encodings, &lossy_codec),
            ..self.request.clone()
        };
        // Something must be allowed; what is as it is, always holds.
        for names in [&mut request.input_encodings, &mut request.cut_encodings] {
            if names.as_ref().is_some_and(Vec::is_empty) {
                *names = None;
            }
        }
        solve_until(self.dag, self.costs, &request, stop)
    }

    /// Solves the problem in which these steps are forbidden; opens it if it has a plan.
    fn open(
        &mut self,
        forbidden: BTreeSet<LossyStep>,
        kind: Kind,
        open: &mut Open,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<(), PlannerError> {
        if !self.solved.contains_key(&forbidden) {
            let Some(request) = self.restricted(&forbidden) else { return Ok(()) };
            let answer = solve_until(self.dag, self.costs, &request, stop)?;
            self.solved.insert(forbidden.clone(), answer);
        }
        if let Ok(choice) = picked(&self.solved[&forbidden], kind) {
            let value = self.request.objective.of(&choice.evaluation, self.costs);
            open.push(Reverse((value.unwrap_or_default(), forbidden)));
        }
        Ok(())
    }

    /// The request without these steps; `None` where no encoding of the input is left.
    fn restricted(&self, forbidden: &BTreeSet<LossyStep>) -> Option<Request> {
        let mut request = self.request.clone();
        for step in forbidden {
            match step {
                LossyStep::Input(encoding) => {
                    let inputs = request.input_encodings.as_mut()?;
                    inputs.retain(|name| name != encoding);
                    if inputs.is_empty() {
                        return None;
                    }
                }
                LossyStep::Cut { values, codec } => {
                    request.forbidden.push((values.clone(), codec.clone()));
                }
            }
        }
        Some(request)
    }

    fn holds<E>(
        &mut self,
        steps: &BTreeSet<LossyStep>,
        choice: &Choice,
        judge: &mut dyn FnMut(&Choice) -> Result<bool, E>,
    ) -> Result<bool, AgreeingError<E>> {
        if steps.is_empty() {
            return Ok(true);
        }
        if let Some(&known) = self.judged.get(steps) {
            return Ok(known);
        }
        let holds = judge(choice).map_err(AgreeingError::Judge)?;
        self.judged.insert(steps.clone(), holds);
        Ok(holds)
    }

    /// The least value that a plan of this problem or of those still open can have.
    fn bound(&self, forbidden: &BTreeSet<LossyStep>, open: &Open, kind: Kind) -> u64 {
        let problems = open.iter().map(|Reverse((_, forbidden))| forbidden).chain([forbidden]);
        let least = problems.filter_map(|forbidden| {
            let choice = picked(self.solved.get(forbidden)?, kind).as_ref().ok()?;
            let value = self.request.objective.of(&choice.evaluation, self.costs)?;
            Some(match choice.proof {
                Proof::Within(gap) => value.saturating_sub(gap),
                Proof::Optimal | Proof::Front(_) => value,
                Proof::Unproven => 0,
            })
        });
        least.min().unwrap_or_default()
    }
}

fn picked(answer: &Answer, kind: Kind) -> &Result<Choice, Infeasible> {
    match kind {
        Kind::Best => &answer.best,
        Kind::Split => &answer.best_split,
    }
}

/// The answer, its plan of a kind proven as far as the bound goes.
fn proven(mut answer: Answer, kind: Kind, value: u64, bound: u64) -> Answer {
    let found = match kind {
        Kind::Best => &mut answer.best,
        Kind::Split => &mut answer.best_split,
    };
    if let Ok(choice) = found {
        choice.proof = match value.saturating_sub(bound) {
            0 => Proof::Optimal,
            gap => Proof::Within(gap),
        };
    }
    answer
}
