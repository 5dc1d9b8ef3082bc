//! From a plan to the routes that its frames may take: by its agents, and here where they are gone.

use anyhow::Context;
use cutline_core::{
    codec::CutEncoding,
    plan::{
        Engines, HERE, LayerMap, Plan, PlannedChoice, PlannedFallback, PlannedRoutes, PlannedStage,
    },
    platform::{DeviceId, Platform},
    routing::{Fallback, Link, Route, Table},
    units::{Bytes, BytesPerSec, Nanos},
};
use cutline_runtime::{
    client::{AgentClient, ClientOptions},
    engine,
    model::Model,
    pace::Slowdown,
    runner::{Here, Routes, Way},
};
use tokio::runtime::Runtime;

use crate::staging::{self, Staged};

/// Routes that can be run, and what they need while they are.
pub struct Prepared {
    /// Them.
    pub routes: Routes,
    /// Files of their stages, to be kept while they are run.
    pub files: Vec<Staged>,
}

/// What is run, and how it is watched.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The network.
    pub model: &'a Model,
    /// Its plan.
    pub plan: &'a Plan,
    /// Requests under way on a plan at most.
    pub in_flight: usize,
    /// What the latency of a plan is taken to be that says nothing of it.
    pub unknown: Nanos,
}

impl Subject<'_> {
    /// One choice of the plan and, where the source can hold the whole network, the network here.
    pub fn routes_of(
        &self,
        choice: &PlannedChoice,
        staged: &Staged,
        runtime: &Runtime,
    ) -> anyhow::Result<Prepared> {
        let Subject { model, plan, in_flight, unknown } = *self;
        let here = whole(model, plan).and_then(|whole| {
            let loaded = load(model, plan, &whole, runtime);
            loaded.map(|loaded| (whole, loaded)).map_err(|error| format!("{error:#}"))
        });
        let (links, used) = links(model, plan, choice)?;
        let latency = |choice: &PlannedChoice| choice.predicted.map_or(unknown, |f| f.latency_ns);
        let route = |name: &str, links, choice: &PlannedChoice, capacity| Route {
            name: name.to_owned(),
            links,
            fixed: latency(choice),
            up: Bytes::ZERO,
            down: Bytes::ZERO,
            capacity,
        };
        let mut routes = vec![route(&choice.id, used, choice, in_flight.max(1))];
        let mut ways = vec![Way::Agents(staged.deployment.clone())];
        let mut files = Vec::new();
        let fallback = match here {
            Ok((whole, (here, staged))) => {
                routes.push(route(HERE, Vec::new(), &whole, 1));
                ways.push(Way::Here(here));
                files.push(staged);
                Fallback::Route(1)
            }
            Err(why) => Fallback::Absent(why),
        };
        let ranges = vec![(BytesPerSec::ZERO, 0)];
        let table = Table::new(links, routes, ranges, None, fallback)?.with_source_agent();
        Ok(Prepared { routes: complete(table, ways, &plan.platform)?, files })
    }

    /// The plan's own routes over the speed of a link.
    pub fn swept_routes(
        &self,
        swept: &PlannedRoutes,
        runtime: &Runtime,
    ) -> anyhow::Result<Prepared> {
        let Subject { model, plan, .. } = *self;
        let mut swept = swept.clone();
        let mut here = None;
        if let PlannedFallback::Route(route) = swept.fallback {
            let whole =
                swept.routes.get(route).context("the plan's fallback is none of its routes")?;
            match load(model, plan, &whole.plan, runtime) {
                Ok(loaded) => here = Some((route, loaded)),
                Err(error) => swept.fallback = PlannedFallback::Absent(format!("{error:#}")),
            }
        }
        let table = swept.table(&plan.platform)?.with_source_agent();
        let (mut ways, mut files) = (Vec::new(), Vec::new());
        for (index, route) in swept.routes.iter().enumerate() {
            let loaded = here.take_if(|(fallback, _)| *fallback == index);
            let (way, staged) = match loaded {
                Some((_, (here, staged))) => (Way::Here(here), staged),
                None => {
                    let staged = staging::stage(model, plan, &route.plan)?;
                    (Way::Agents(staged.deployment.clone()), staged)
                }
            };
            ways.push(way);
            files.push(staged);
        }
        Ok(Prepared { routes: complete(table, ways, &plan.platform)?, files })
    }
}

/// The plan that leaves everything on the source; or why there is none.
fn whole(model: &Model, plan: &Plan) -> Result<PlannedChoice, String> {
    if let Some(baseline) = plan.baselines.iter().find(|baseline| baseline.name == "edge-only") {
        let reason = || baseline.infeasible.clone().unwrap_or_default();
        return baseline.choice.clone().ok_or_else(reason);
    }
    // A plan by hand is compared with nothing.
    let source = plan.platform.device(DeviceId::SOURCE);
    let dag = &model.grouping.dag;
    if let Some(memory) = source.memory {
        let needed: Bytes = dag.groups().iter().map(|group| group.parameter_bytes).sum();
        if needed > memory {
            let name = &source.name;
            return Err(format!("its weights are {needed}, and `{name}` has {memory} of memory"));
        }
    }
    let layers = dag.groups().iter().flat_map(|group| &group.layers);
    let layers = layers.map(|layer| (layer.clone(), source.name.clone())).collect();
    let by_hand = (LayerMap(layers), CutEncoding::Fp32);
    let picture = plan.picture.as_ref();
    let choice = PlannedChoice::manual(dag, &plan.platform, by_hand, &plan.model, picture);
    let mut choice = choice.map_err(|error| error.to_string())?;
    let stages = plan.best.iter().flat_map(|best| &best.stages);
    let named = stages.filter(|stage| stage.device == source.name && !stage.engine.is_empty());
    let engine = |stage: &PlannedStage| (stage.engine.clone(), stage.threads);
    let engines: Engines = named.map(|stage| (stage.device.clone(), engine(stage))).collect();
    choice.use_engines(&engines, &plan.model, picture);
    Ok(choice)
}

/// The whole network in this process, as fast as the source's agent is.
fn load(
    model: &Model,
    plan: &Plan,
    whole: &PlannedChoice,
    runtime: &Runtime,
) -> anyhow::Result<(Here, Staged)> {
    let source = plan.platform.device(DeviceId::SOURCE);
    let address = source.address.as_deref().context("the source has no address")?;
    let described = runtime.block_on(async {
        let agent = AgentClient::connect(&source.name, address, ClientOptions::default()).await?;
        agent.describe().await
    })?;
    let slowdown = Slowdown::from_permille((described.slowdown * 1000.0).round() as u64)?;
    // An agent's own choice of an engine is the first that it has.
    let own = described.engines.first().map_or_else(|| "rten".to_owned(), |e| e.name.clone());
    let open = move |name: Option<&str>| engine::open(name.unwrap_or(&own));
    let staged = staging::stage(model, plan, whole)?;
    let threads = described.threads.max(1) as usize;
    let here = Here::load(staged.deployment.clone(), open, threads, slowdown)?;
    Ok((here, staged))
}

/// Links that a choice's frames go over, and the positions of all of them.
fn links(
    model: &Model,
    plan: &Plan,
    choice: &PlannedChoice,
) -> anyhow::Result<(Vec<Link>, Vec<usize>)> {
    let partition = choice.resolve(&model.grouping.dag, &plan.platform)?.partition;
    let mut links: Vec<Link> = Vec::new();
    let calls = (0..partition.stages.len()).filter_map(|stage| partition.hop_into(stage));
    for (from, to) in calls.map(|hop| (hop.from, hop.to)) {
        if !links.iter().any(|link| (link.from, link.to) == (from, to)) {
            links.push(Link { from, to, base: base(&plan.platform, from, to) });
        }
    }
    let used = (0..links.len()).collect();
    Ok((links, used))
}

/// One way of an empty message.
fn base(platform: &Platform, from: DeviceId, to: DeviceId) -> Nanos {
    let link = platform.find_link(from, to).map(|link| &platform.links()[link]);
    link.map_or(Nanos::ZERO, |link| link.delay.unwrap_or_default() + link.fixed)
}

/// Adds what the table needs of the platform: names, and whom to ask for a sign of life.
fn complete(table: Table, ways: Vec<Way>, platform: &Platform) -> anyhow::Result<Routes> {
    let paths = table.links().iter().map(|link| path(&table, link, platform));
    let paths = paths.collect::<anyhow::Result<_>>()?;
    let devices = platform.devices().iter().map(|device| device.name.clone()).collect();
    Ok(Routes { table, ways, devices, paths })
}

/// Addresses from the source to the far end of a link, over links that frames take. Where devices on
/// the way have replicas, as many ways as meet each of them.
fn path(table: &Table, link: &Link, platform: &Platform) -> anyhow::Result<Vec<Vec<String>>> {
    let mut hops = vec![link];
    while let Some(&first) = hops.first().filter(|first| first.from != DeviceId::SOURCE) {
        let before = |known: &&Link| known.to == first.from && !hops.contains(known);
        let before = table.links().iter().find(before);
        hops.insert(0, before.context("the plan has a stage that no frame reaches")?);
    }
    let hops = hops.iter().map(|hop| addresses(platform, hop));
    let hops = hops.collect::<anyhow::Result<Vec<_>>>()?;
    let ways = hops.iter().map(Vec::len).max().unwrap_or_default();
    let way = |at: usize| hops.iter().map(|hop| hop[at % hop.len()].clone()).collect();
    Ok((0..ways).map(way).collect())
}

/// What a device dials for another: at least one address.
fn addresses(platform: &Platform, link: &Link) -> anyhow::Result<Vec<String>> {
    let to = platform.device(link.to);
    let declared = platform.find_link(link.from, link.to).map(|at| &platform.links()[at]);
    // `via` stands in front of the second end of the link.
    let via = declared.filter(|declared| declared.between[1] == link.to);
    let via = via.and_then(|declared| declared.via.clone());
    let first = via.or_else(|| to.address.clone());
    let first = first.with_context(|| format!("device `{}` has no address", to.name))?;
    Ok(std::iter::once(first).chain(to.replicas.iter().cloned()).collect())
}
