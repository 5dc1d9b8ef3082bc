//! Every code comes back as it went in; nothing else gets through, and nothing panics.

use proptest::prelude::*;

use super::*;

/// Like an activation: mostly the centre, with runs of values around it.
fn activation(seed: u64, len: usize, centre: u8, spread: u8) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u32
    };
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let loud = next() % 3 == 0;
        for _ in 0..=next() % 9 {
            let value = if loud { next() % (u32::from(spread) + 1) } else { 0 };
            bytes.push(centre.wrapping_add(value as u8));
        }
    }
    bytes.truncate(len);
    bytes
}

#[test]
fn every_length_and_row_comes_back() {
    for len in (0..200).chain([255, 256, 257, 1000, 4096, 4099]) {
        for row in [0, 1, 2, 7, 28, len, usize::MAX] {
            for (centre, spread) in [(0, 3), (0, 255), (128, 20), (255, 1), (7, 0)] {
                let bytes =
                    activation((len as u64 * 31).wrapping_add(row as u64), len, centre, spread);
                let code = encode(&bytes, row);
                assert!(code.len() <= bytes.len() + 1);
                assert_eq!(decode(&code, len, row), Ok(bytes), "{len} {row} {centre} {spread}");
            }
        }
    }
}

#[test]
fn zeros_and_neighbours_that_are_alike_take_few_bits() {
    let sparse = activation(5, 40_000, 0, 3);
    assert!(encode(&sparse, 20).len() * 8 < sparse.len() * 2);
    let nothing = vec![9; 40_000];
    assert!(encode(&nothing, 20).len() < 64);
    let signs: Vec<u8> = sparse
        .iter()
        .enumerate()
        .map(|(i, &v)| if i % 2 == 0 { 128 + v } else { 128 - v })
        .collect();
    assert!(encode(&signs, 20).len() * 8 < signs.len() * 3);
}

#[test]
fn noise_stays_as_it_is() {
    let noise = activation(3, 10_000, 0, 255).into_iter().scan(1u32, |state, byte| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some(byte ^ (*state >> 24) as u8)
    });
    let noise: Vec<u8> = noise.collect();
    assert_eq!(encode(&noise, 100).len(), noise.len() + 1);
}

#[test]
fn what_is_wrong_is_named() {
    let bytes = activation(1, 1000, 0, 9);
    let code = encode(&bytes, 10);
    assert_eq!(code[0], CODED);
    for (wrong, len, words) in [
        (Vec::new(), 0, "before its kind"),
        (vec![7], 0, "kind is not known"),
        (vec![PLAIN, 1, 2], 3, "holds 2 bytes where 3"),
        (code[..2].to_vec(), 1000, "before its shape"),
        (code[..8].to_vec(), 1000, "frequencies"),
        (code[..code.len() - 2].to_vec(), 1000, "do not end"),
        (code[..code.len() - 1].to_vec(), 1000, "do not fit"),
        ([code.clone(), vec![0, 0]].concat(), 1000, "do not end"),
        (code.clone(), 996, "do not"),
        (code.clone(), 1, "do not fit"),
        ([&[CODED, 0, 6 << 1], &code[3..]].concat(), 1000, "too many tables"),
    ] {
        let error = decode(&wrong, len, 10).unwrap_err().to_string();
        assert!(error.contains(words), "{error}, not {words}");
    }
}

proptest! {
    #[test]
    fn any_bytes_come_back(
        bytes in prop::collection::vec(any::<u8>(), 0..3000),
        limit in 0u8..=255,
        row in 0usize..100,
    ) {
        let bytes: Vec<u8> = bytes.into_iter().map(|byte| byte.min(limit)).collect();
        let code = encode(&bytes, row);
        prop_assert!(code.len() <= bytes.len() + 1);
        prop_assert_eq!(decode(&code, bytes.len(), row), Ok(bytes));
    }

    /// Never a panic; what comes out has the length that was asked for.
    #[test]
    fn any_code_is_refused_or_decoded(
        code in prop::collection::vec(any::<u8>(), 0..400),
        len in 0usize..2000,
        row in 0usize..100,
        start in prop::option::of(0u8..2),
    ) {
        let code: Vec<u8> = start.into_iter().chain(code).collect();
        if let Ok(bytes) = decode(&code, len, row) {
            prop_assert_eq!(bytes.len(), len);
        }
    }

    /// A damaged code is refused, or decodes to something else of the same length.
    #[test]
    fn damage_does_not_panic(seed in any::<u64>(), at in any::<usize>(), bit in 0u8..8) {
        let bytes = activation(seed, 2000, (seed % 256) as u8, (seed % 97) as u8);
        let mut code = encode(&bytes, 16);
        let at = at % code.len();
        code[at] ^= 1 << bit;
        if let Ok(found) = decode(&code, 2000, 16) {
            prop_assert_eq!(found.len(), 2000);
        }
    }
}
