//! Instances and their rent, as published for a service that runs on rented machines.
#![allow(clippy::unwrap_used)]

use cutline_core::{
    cost::table,
    evaluate::{Setting, bill, evaluate, rents},
    partition::Mapping,
    units::Money,
};
use serde_json::json;

/// 5000 users, 7.527 EUR for an instance and month (Leroy and Goedemé 2021).
#[test]
fn instances_and_rent_of_a_published_service() {
    // Users that one instance bears; instances; EUR a month in thousandths.
    let rows = [
        (10, 500, 3_763_500),
        (228, 22, 165_594),
        (29, 173, 1_302_171),
        (32, 157, 1_181_739),
        (143, 35, 263_445),
    ];
    for (users_per_instance, instances, thousandths) in rows {
        let platform = json!({ "version": 1,
            "device": [ { "name": "camera" },
                        { "name": "cloud", "tier": "cloud", "rent": "7.527",
                          "users_per_instance": users_per_instance } ],
            "link": [{ "between": ["camera", "cloud"], "up": "20mbit", "delay": "10ms" }],
            "workload": { "users": 5000, "currency": "EUR" } });
        let platform = serde_json::from_value(platform).unwrap();
        let file = json!({ "version": 1, "input": { "fp32": 602_112 }, "outputs": ["net"],
            "layers": [{ "name": "net", "output_bytes": 4000, "time_ns": { "camera": 900_000_000, "cloud": 40_000_000 } }] });
        let file = serde_json::from_value(file).unwrap();
        let (dag, costs) = table::read(&file, &platform, &[None]).unwrap();
        let [camera, cloud] = [0, 1].map(|at| costs.device_ids().nth(at).unwrap());
        let cost = |device| {
            evaluate(&dag, &costs, &Mapping::uniform(&dag, device), &Setting::first(&costs))
                .unwrap()
        };
        let remote = cost(cloud);
        assert_eq!(remote.money, Some(Money(thousandths * 1000)), "{users_per_instance}");
        let rents = rents(&costs, &remote).unwrap();
        let found: Vec<_> = rents.iter().map(|r| (r.device, r.instances, r.rent)).collect();
        assert_eq!(found, [(cloud, instances, Money(thousandths * 1000))]);
        assert_eq!(cost(camera).money, Some(Money::ZERO), "nothing is rented to sit idle");
    }
}

/// 36 a board over 36 months, rounded up once; an idle instance costs nothing.
#[test]
fn a_bill_names_rent_purchase_and_electricity() {
    let platform = json!({ "version": 1,
        "device": [ { "name": "camera", "purchase": "36", "life_months": 36, "power": "10W" },
                    { "name": "cloud", "rent": "7.5", "users_per_instance": 10, "power": "20W" } ],
        "link": [{ "between": ["camera", "cloud"], "up": "20mbit" }],
        "workload": { "users": 25, "frames_per_second": "1", "electricity": "0.5" } });
    let platform = serde_json::from_value(platform).unwrap();
    let file = json!({ "version": 1, "input": { "fp32": 8 }, "outputs": ["net"],
        "layers": [{ "name": "net", "output_bytes": 4, "time_ns": { "camera": 100_000_000, "cloud": 1 } }] });
    let file = serde_json::from_value(file).unwrap();
    let (dag, costs) = table::read(&file, &platform, &[None]).unwrap();
    let bill_on = |device| {
        let setting = Setting::first(&costs);
        let evaluation = evaluate(&dag, &costs, &Mapping::uniform(&dag, device), &setting).unwrap();
        let bill = bill(&costs, &evaluation).unwrap();
        assert_eq!(evaluation.money, Some(bill.rent + bill.purchase + bill.electricity));
        [bill.rent, bill.purchase, bill.electricity].map(|money| money.0)
    };
    let [camera, cloud] = [0, 1].map(|at| costs.device_ids().nth(at).unwrap());
    // 1 W on average for 730 hours and 25 cameras: 18.25 kWh.
    assert_eq!(bill_on(camera), [0, 25_000_000, 9_125_000]);
    assert_eq!(bill_on(cloud), [22_500_000, 25_000_000, 0]);
}

/// Where the users of an instance are not given, they follow from its busy time.
#[test]
fn users_of_an_instance_follow_from_its_busy_time() {
    // Frames per second and user, users, instances of a device busy for 40 ms a frame.
    let rows = [("0.1", 1000, 4), ("0.1", 1001, 5), ("2", 24, 2), ("2", 25, 3), ("50", 3, 6)];
    for (frames, users, instances) in rows {
        let platform = json!({ "version": 1,
            "device": [{ "name": "camera" }, { "name": "cloud", "rent": "10" }],
            "link": [{ "between": ["camera", "cloud"], "up": "20mbit" }],
            "workload": { "users": users, "frames_per_second": frames } });
        let platform = serde_json::from_value(platform).unwrap();
        let file = json!({ "version": 1, "input": { "fp32": 8 }, "outputs": ["net"],
            "layers": [{ "name": "net", "output_bytes": 4, "time_ns": { "cloud": 40_000_000 } }] });
        let file = serde_json::from_value(file).unwrap();
        let (dag, costs) = table::read(&file, &platform, &[None]).unwrap();
        let cloud = costs.find_device("cloud").unwrap();
        let mapping = Mapping::uniform(&dag, cloud);
        let evaluation = evaluate(&dag, &costs, &mapping, &Setting::first(&costs)).unwrap();
        assert_eq!(rents(&costs, &evaluation).unwrap()[0].instances, instances, "{frames} {users}");
        assert_eq!(evaluation.money, Some(Money(instances * 10_000_000)));
    }
}
