//! Plans that a person decided: compared with nothing, and predicted by nothing but what is asked
//! about them afterwards.

use std::collections::{BTreeMap, BTreeSet};

use super::{LayerMap, ModelRef, Plan, PlanError, PlannedChoice};
use crate::{
    codec::{CutEncoding, Quantizations},
    cost::TENSOR,
    dag::Dag,
    picture::PictureSpec,
    planner::Request,
    platform::Platform,
};

/// Engine and threads by the name of a device; 0 threads are the device's own number.
pub type Engines = BTreeMap<String, (String, u32)>;

impl Plan {
    /// A plan that a person decided: one choice, compared with nothing and predicted by nothing.
    pub fn by_hand(
        model: ModelRef,
        dag: &Dag,
        platform: &Platform,
        (mapping, encoding): (LayerMap, CutEncoding),
        picture: Option<PictureSpec>,
        reason: String,
    ) -> Result<Self, PlanError> {
        let by_hand = (mapping, encoding);
        let choice = PlannedChoice::manual(dag, platform, by_hand, &model, picture.as_ref())?;
        let is_split = choice.stages.len() > 1;
        let request = Request::default();
        Ok(Plan {
            version: 1,
            model,
            platform: platform.clone(),
            objective: request.objective,
            request,
            picture,
            baselines: Vec::new(),
            best_split: is_split.then(|| choice.clone()),
            best: Some(choice),
            reason,
            frame_interval_ns: None,
            refinement: None,
            routes: None,
        })
    }

    /// Has devices compute with these engines in place of their own.
    pub fn use_engines(&mut self, engines: &Engines) {
        for choice in self.best.iter_mut().chain(&mut self.best_split) {
            choice.use_engines(engines, &self.model, self.picture.as_ref());
        }
    }
}

impl PlannedChoice {
    /// A decision made by hand: no prediction, each device's own engine, one encoding for all cuts.
    pub fn manual(
        dag: &Dag,
        platform: &Platform,
        (mapping, encoding): (LayerMap, CutEncoding),
        model: &ModelRef,
        picture: Option<&PictureSpec>,
    ) -> Result<Self, PlanError> {
        let mut choice = PlannedChoice {
            id: String::new(),
            mapping,
            stages: Vec::new(),
            input_encoding: TENSOR.to_owned(),
            quantizations: Quantizations::new(),
            agreement: None,
            cut: Vec::new(),
            predicted: None,
            parts: Vec::new(),
            memory: BTreeMap::new(),
            energy_nj: BTreeMap::new(),
            energy_origin: BTreeMap::new(),
            idle_nj: BTreeMap::new(),
            money_per_month: None,
            proof: None,
            origin: None,
            measured: None,
            in_flight: None,
        };
        choice.rederive(dag, platform, model, picture)?;
        // A device has one encoding for all that it sends, also where it is visited again.
        let senders = choice.stages.iter().rev().skip(1).map(|stage| stage.device.clone());
        let senders: BTreeSet<String> = senders.collect();
        for stage in choice.stages.iter_mut().filter(|stage| senders.contains(&stage.device)) {
            stage.cut_encoding = encoding.name().to_owned();
        }
        choice.id = choice.content_id(model, picture);
        Ok(choice)
    }

    /// Has devices compute with these engines in place of their own; that is part of the decision.
    pub fn use_engines(
        &mut self,
        engines: &Engines,
        model: &ModelRef,
        picture: Option<&PictureSpec>,
    ) {
        for stage in &mut self.stages {
            if let Some((engine, threads)) = engines.get(&stage.device) {
                (stage.engine, stage.threads) = (engine.clone(), *threads);
            }
        }
        self.id = self.content_id(model, picture);
    }
}
