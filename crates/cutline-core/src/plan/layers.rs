//! The mapping of a plan file: a JSON object from layer to device that keeps its order.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
    ser::SerializeMap,
};

use super::PlanError;
use crate::{dag::Dag, partition::Mapping, platform::Platform};

/// Layer and device, in topological order when written by a planner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerMap(pub Vec<(String, String)>);

impl LayerMap {
    /// The mapping of groups: total, over declared devices, with every group in one piece.
    pub fn resolve(&self, dag: &Dag, platform: &Platform) -> Result<Mapping, PlanError> {
        let mut devices: BTreeMap<&str, &str> =
            self.0.iter().map(|(layer, device)| (layer.as_str(), device.as_str())).collect();
        let mut mapping = Vec::with_capacity(dag.groups().len());
        for group in dag.groups() {
            let mut home: Option<(&str, &str)> = None;
            for layer in &group.layers {
                let missing = || PlanError::MissingLayer(layer.clone());
                let device = devices.remove(layer.as_str()).ok_or_else(missing)?;
                let (first, first_device) = *home.get_or_insert((layer, device));
                if first_device != device {
                    return Err(PlanError::TornGroup {
                        first: first.to_owned(),
                        first_device: first_device.to_owned(),
                        second: layer.clone(),
                        second_device: device.to_owned(),
                    });
                }
            }
            let (layer, device) = home.unwrap_or_default();
            let id = platform.find_device(device).ok_or_else(|| PlanError::UnknownDevice {
                layer: layer.to_owned(),
                device: device.to_owned(),
            })?;
            mapping.push(id);
        }
        match devices.into_keys().next() {
            Some(layer) => Err(PlanError::UnknownLayer(layer.to_owned())),
            None => Ok(Mapping(mapping)),
        }
    }
}

impl Serialize for LayerMap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (layer, device) in &self.0 {
            map.serialize_entry(layer, device)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for LayerMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(InOrder)
    }
}

struct InOrder;

impl<'de> Visitor<'de> for InOrder {
    type Value = LayerMap;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object from layer names to device names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LayerMap, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(LayerMap(entries))
    }
}
