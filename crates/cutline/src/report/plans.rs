//! The list of plans, each decision once, in the words of a report.

use std::collections::BTreeMap;

use cutline_core::{
    cost::{Costs, TENSOR},
    dag::Dag,
    evaluate::{self, EnergyUse, PartKind},
    partition::{Hop as PartitionHop, Partition, Stage},
    picture::PictureSpec,
    plan::{Figures, ModelRef, PlannedChoice},
    planner::{Choice, Proof},
    platform::DeviceId,
    units::{Bytes, Nanojoules, Nanos},
};

use super::data::{DeviceUse, Hop, Part, Plan, Stage as StageData};

/// What a choice decides, without what has no effect: engines of devices that run nothing, and
/// encodings of what does not travel.
pub(super) type Decision = (Vec<(DeviceId, usize, Vec<usize>)>, Option<usize>, Vec<usize>);

/// The decision of a choice; two choices with the same one cost the same.
pub(super) fn decision(dag: &Dag, choice: &Choice) -> Decision {
    let setting = &choice.setting;
    let partition = partition(dag, choice);
    let stages = partition.stages.iter().map(|stage| {
        let groups = stage.groups.iter().map(|group| group.index()).collect();
        (stage.device, setting.engines[stage.device.index()], groups)
    });
    let sends_values =
        |hop: &&PartitionHop| hop.message.iter().any(|&flow| dag.flow(flow).from.is_some());
    let codecs =
        partition.hops.iter().filter(sends_values).map(|hop| setting.codecs[hop.from.index()]);
    let input = input_travels(dag, &partition).then_some(setting.input);
    (stages.collect(), input, codecs.collect())
}

fn partition(dag: &Dag, choice: &Choice) -> Partition {
    let partition = choice.setting.partition(dag, &choice.mapping);
    partition.expect("a choice was evaluated, so that its helpers can be such")
}

/// What plans are told apart and described by.
pub(super) struct Plans<'a> {
    pub(super) dag: &'a Dag,
    pub(super) costs: &'a Costs,
    pub(super) model: &'a ModelRef,
    pub(super) picture: Option<&'a PictureSpec>,
    known: BTreeMap<Decision, usize>,
    list: Vec<Plan>,
}

impl<'a> Plans<'a> {
    pub(super) fn new(
        dag: &'a Dag,
        costs: &'a Costs,
        model: &'a ModelRef,
        picture: Option<&'a PictureSpec>,
    ) -> Self {
        Self { dag, costs, model, picture, known: BTreeMap::new(), list: Vec::new() }
    }

    /// Position of a choice, which is added unless it is there.
    pub(super) fn add(&mut self, choice: &Choice, proof_text: &str) -> usize {
        let key = decision(self.dag, choice);
        if let Some(&at) = self.known.get(&key) {
            return at;
        }
        let plan = self.describe(choice, proof_text);
        self.list.push(plan);
        self.known.insert(key, self.list.len() - 1);
        self.list.len() - 1
    }

    /// The same, with a name by which people know it.
    pub(super) fn add_named(&mut self, choice: &Choice, name: &str, proof_text: &str) -> usize {
        let at = self.add(choice, proof_text);
        self.list[at].names.push(name.to_owned());
        at
    }

    pub(super) fn mark_front(&mut self, at: usize) {
        self.list[at].on_front = true;
    }

    pub(super) fn get(&self, at: usize) -> &Plan {
        &self.list[at]
    }

    pub(super) fn into_list(self) -> Vec<Plan> {
        self.list
    }

    fn describe(&self, choice: &Choice, proof_text: &str) -> Plan {
        let Choice { setting, evaluation, proof, .. } = choice;
        let partition = partition(self.dag, choice);
        let planned = PlannedChoice::new(self.dag, self.costs, choice);
        let energies = evaluation.energy.as_deref();
        Plan {
            id: planned.content_id(self.model, self.picture),
            label: self.label(&partition, choice),
            names: Vec::new(),
            on_front: false,
            figures: Figures::from(evaluation),
            energy_nj: energies.map(|uses| uses.iter().map(|used| used.energy).sum()),
            memory_bytes: evaluation.worst_memory(self.costs),
            money: evaluation.money,
            input_encoding: input_travels(self.dag, &partition)
                .then(|| self.costs.inputs()[setting.input].name.clone()),
            stages: (0..partition.stages.len())
                .map(|position| self.stage(&partition, position, choice))
                .collect(),
            hops: self.hops(&partition, choice),
            parts: evaluation.parts.iter().filter(|part| !part.beside).map(part).collect(),
            devices: self.uses(choice),
            proof: *proof,
            proof_text: match proof {
                Proof::Optimal => proof_text.to_owned(),
                other => proof_words(*other),
            },
        }
    }

    /// `all on pi`, `all on cloud, input as uint8`, `pi 22 → cloud 8, uint8`; what runs at the same
    /// time is joined by `+`.
    fn label(&self, partition: &Partition, choice: &Choice) -> String {
        let name = |stage: &Stage| self.costs.device(stage.device).name.as_str();
        let input = input_travels(self.dag, partition)
            .then(|| format!(", input as {}", self.costs.inputs()[choice.setting.input].name));
        let input = input.unwrap_or_default();
        if let [only] = partition.stages.as_slice() {
            return format!("all on {}{input}", name(only));
        }
        let mut stages = String::new();
        for (position, stage) in partition.stages.iter().enumerate() {
            let beside = |(members, _): (&std::ops::Range<usize>, _)| members.start < position;
            stages.push_str(match position {
                0 => "",
                _ if partition.scatter_of(position).is_some_and(beside) => " + ",
                _ => " → ",
            });
            stages.push_str(&format!("{} {}", name(stage), self.layers(stage)));
        }
        let mut codecs: Vec<&str> = Vec::new();
        for (_, codec) in self.sent_values(partition, choice) {
            if codec != TENSOR && !codecs.contains(&codec) {
                codecs.push(codec);
            }
        }
        let codecs: String = codecs.into_iter().map(|codec| format!(", {codec}")).collect();
        format!("{stages}{codecs}{input}")
    }

    /// Hops that carry other values than the input, each with its codec.
    fn sent_values<'h>(
        &'h self,
        partition: &'h Partition,
        choice: &'h Choice,
    ) -> impl Iterator<Item = (&'h PartitionHop, &'h str)> {
        let sends = |hop: &&PartitionHop| {
            hop.message.iter().any(|&flow| self.dag.flow(flow).from.is_some())
        };
        partition.hops.iter().filter(sends).map(|hop| {
            let codec = choice.setting.codecs[hop.from.index()];
            (hop, self.costs.codecs()[codec].name.as_str())
        })
    }

    fn layers(&self, stage: &Stage) -> usize {
        stage.groups.iter().map(|&group| self.dag.group(group).layers.len()).sum()
    }

    fn stage(&self, partition: &Partition, position: usize, choice: &Choice) -> StageData {
        let stage = &partition.stages[position];
        let at = choice.setting.engines[stage.device.index()];
        let option = &self.costs.device(stage.device).options[at];
        let mut groups: Vec<[usize; 2]> = Vec::new();
        for group in stage.groups.iter().map(|group| group.index()) {
            match groups.last_mut() {
                Some([_, last]) if *last + 1 == group => *last = group,
                _ => groups.push([group, group]),
            }
        }
        StageData {
            device: stage.device.index(),
            joined_by: partition.helps(position).map(DeviceId::index),
            groups,
            layers: self.layers(stage),
            engine: option.engine.clone(),
            threads: option.threads,
            origin: option.origin,
        }
    }

    fn hops(&self, partition: &Partition, choice: &Choice) -> Vec<Hop> {
        let sends = choice.evaluation.parts.iter().filter(|part| part.kind == PartKind::Send);
        let hop = |(hop, part): (&PartitionHop, &evaluate::Part)| Hop {
            from: hop.from.index(),
            to: hop.to.index(),
            values: hop.message.iter().map(|flow| flow.index()).collect(),
            returns: hop.returns.iter().map(|flow| flow.index()).collect(),
            encoding: self.costs.codecs()[choice.setting.codecs[hop.from.index()]].name.clone(),
            bytes: part.bytes,
        };
        partition.hops.iter().zip(sends).map(hop).collect()
    }

    /// Memory and energy of every device that needs some.
    fn uses(&self, choice: &Choice) -> Vec<DeviceUse> {
        let evaluation = &choice.evaluation;
        let memory = |id: DeviceId| {
            let used = evaluation.memory.iter().find(|used| used.device == id);
            used.map_or(Bytes::ZERO, |used| used.bytes)
        };
        let energy = |id: DeviceId, of: fn(&EnergyUse) -> Nanojoules| -> Option<Nanojoules> {
            let used = evaluation.energy.as_ref()?.iter().find(|used| used.device == id);
            Some(used.map_or(Nanojoules::ZERO, of))
        };
        let counts_idle = self.costs.frame_interval().is_some();
        self.costs
            .device_ids()
            .map(|id| DeviceUse {
                device: id.index(),
                memory_bytes: memory(id),
                energy_nj: energy(id, |used| used.energy),
                idle_nj: energy(id, |used| used.idle).filter(|_| counts_idle),
            })
            .filter(|used| {
                used.memory_bytes > Bytes::ZERO
                    || used.energy_nj.is_some_and(|energy| energy > Nanojoules::ZERO)
            })
            .collect()
    }
}

/// What a proof says of a plan that was searched for with the least latency in mind.
fn proof_words(proof: Proof) -> String {
    match proof {
        Proof::Optimal => "no plan that is allowed is better".to_owned(),
        Proof::Within(bound) => {
            format!("no plan that is allowed is faster by more than {}", Nanos(bound))
        }
        Proof::Front(0) => "on the exact front: whatever allowed plan is better in something is \
                            worse in something else"
            .to_owned(),
        Proof::Front(epsilon) => {
            format!("on a front that matches every allowed plan up to {} %", epsilon as f64 / 1e4)
        }
        Proof::Unproven => "found by a search that did not come to its end: there may be better \
                            plans"
            .to_owned(),
    }
}

fn part(part: &evaluate::Part) -> Part {
    Part {
        kind: part.kind,
        device: part.device.index(),
        to: part.to.map(DeviceId::index),
        time_ns: part.nanos,
        bytes: part.bytes,
    }
}

fn input_travels(dag: &Dag, partition: &Partition) -> bool {
    let mut values = partition.hops.iter().flat_map(|hop| &hop.message);
    values.any(|&flow| dag.flow(flow).from.is_none())
}
