//! What the zoo promises: published sizes, deterministic bytes, clear errors.

use super::*;

/// Name, published parameters, published multiply-accumulates in millions, and the layers with
/// weights.
///
/// Parameters are those of the reference implementations, exact. Multiply-accumulates are
/// published to two to four digits.
const PUBLISHED: [(&str, u64, f64); 15] = [
    ("lenet5", 61_706, 0.41652),
    ("alexnet", 61_100_840, 714.0),
    ("vgg16", 138_357_544, 15_470.0),
    ("vgg19", 143_667_240, 19_632.0),
    ("squeezenet", 1_235_496, 349.0),
    ("resnet18", 11_689_512, 1_814.0),
    ("resnet50", 25_557_032, 4_089.0),
    ("resnet101", 44_549_160, 7_801.0),
    ("densenet121", 7_978_856, 2_834.0),
    ("inceptionv3", 23_834_568, 5_713.0),
    ("mobilenetv1", 4_231_976, 569.0),
    ("mobilenetv2", 3_504_872, 301.0),
    ("mobilenetv3-small", 2_542_856, 57.0),
    ("shufflenetv2", 2_278_604, 145.0),
    ("efficientnet-b0", 5_288_548, 386.0),
];

#[test]
fn the_networks_are_as_large_as_published() {
    let catalogue = summary();
    assert_eq!(catalogue.len(), PUBLISHED.len());
    for (line, (name, parameters, macs)) in catalogue.iter().zip(PUBLISHED) {
        assert_eq!((line.name, line.parameters), (name, parameters));
        let millions = line.macs.0 as f64 / 1e6;
        println!("{name} {millions} {}", line.weights);
        assert!((millions / macs - 1.0).abs() < 0.01, "{name}: {millions}, not {macs} million");
    }
}
