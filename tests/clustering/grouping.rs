use proptest::prelude::*;
use trimoe::moe::clustering::{Grouping, balanced, kmeans, matched, propose};

use crate::common::{Rng, same_bits_on_any_threads};
use crate::{cosines, shuffled, square};

/// Groups of `per` experts each, mixed up.
fn mixed(rng: &mut Rng, clusters: usize, per: usize) -> Vec<usize> {
    shuffled(rng, clusters * per).into_iter().map(|e| e / per).collect()
}

#[test]
fn planted_groups_are_found() {
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let (clusters, per) = (2 + rng.below(6), 2 + rng.below(7));
        let planted = mixed(&mut rng, clusters, per);
        let experts = planted.len();
        let s = cosines(&mut rng, &planted, 0.1);
        let current = Grouping::contiguous(experts, clusters).unwrap();
        let found = propose(&current, square(&s, experts), 0.1, seed).unwrap();
        let planted = Grouping::new(planted, clusters).unwrap();
        assert_eq!(found.jaccard(&planted), 1.0, "seed {seed}: {found:?} is not {planted:?}");
    }
}

#[test]
fn clusters_that_k_means_makes_unequal_become_equal() {
    // Six experts of one kind and two of another: sizes 6 and 2 before, 4 and 4 after.
    let groups = [0, 0, 0, 0, 0, 0, 1, 1];
    let s = cosines(&mut Rng::new(1), &groups, 0.2);
    let labels = kmeans(square(&s, 8), 2, 3).unwrap();
    let sizes = [0, 1].map(|g| labels.iter().filter(|&&l| l == g).count());
    assert_eq!((sizes.iter().min(), sizes.iter().max()), (Some(&2), Some(&6)), "{labels:?}");
    let even = balanced(square(&s, 8), &labels, 2, 0.1).unwrap();
    assert_eq!(even.members(0).len(), 4);
    assert_eq!(even.labels()[6], even.labels()[7], "the two stay together");
}

#[test]
fn an_unchanged_grouping_keeps_its_names() {
    let mut rng = Rng::new(7);
    for _ in 0..50 {
        let (clusters, per) = (1 + rng.below(8), 1 + rng.below(6));
        let old = Grouping::new(mixed(&mut rng, clusters, per), clusters).unwrap();
        let names = shuffled(&mut rng, clusters);
        let renamed = old.labels().iter().map(|&g| names[g]).collect();
        assert_eq!(matched(&old, &Grouping::new(renamed, clusters).unwrap()), old);
    }
}

#[test]
fn exchanges_reach_what_no_pair_can_better() {
    for seed in 0..30 {
        let mut rng = Rng::new(100 + seed);
        let groups: Vec<usize> = (0..8).map(|_| rng.below(4)).collect();
        let s = cosines(&mut rng, &groups, 0.5);
        let labels = kmeans(square(&s, 8), 2, seed).unwrap();
        let found = balanced(square(&s, 8), &labels, 2, 0.1).unwrap();
        let inside = found.mean_similarity(square(&s, 8));
        for i in found.members(0) {
            for j in found.members(1) {
                let mut other = found.labels().to_vec();
                other.swap(i, j);
                let other = Grouping::new(other, 2).unwrap().mean_similarity(square(&s, 8));
                assert!(
                    other <= inside + 1e-9,
                    "seed {seed}: exchanging {i} and {j} gives {other} > {inside}"
                );
            }
        }
    }
}

#[test]
fn the_same_for_a_seed_on_any_threads() {
    let groups: Vec<usize> = (0..48).map(|e| e % 6).collect();
    let s = cosines(&mut Rng::new(9), &groups, 0.8);
    let current = Grouping::contiguous(48, 6).unwrap();
    same_bits_on_any_threads(|_| propose(&current, square(&s, 48), 0.1, 5).unwrap());
}

#[test]
fn equal_experts_and_extreme_sizes() {
    let s = vec![1.0; 36];
    for clusters in [1, 2, 3, 6] {
        let current = Grouping::contiguous(6, clusters).unwrap();
        let found = propose(&current, square(&s, 6), 0.1, 0).unwrap();
        assert_eq!(found.per(), 6 / clusters);
    }
    assert_eq!(Grouping::contiguous(6, 6).unwrap().mean_similarity(square(&s, 6)), 0.0);
}

#[test]
fn bad_input_is_named() {
    let mut s = vec![0.5; 16];
    let refused = |result: trimoe::Result<Grouping>, text: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    refused(Grouping::contiguous(7, 2), "experts = 7, clusters = 2");
    refused(Grouping::new(vec![0, 0, 0, 1], 2), "sizes = [3, 1]");
    refused(Grouping::new(vec![0, 2], 2), "cluster = 2");
    let current = Grouping::contiguous(4, 2).unwrap();
    refused(propose(&current, square(&s[..9], 3), 0.1, 0), "similarity = [3, 3]");
    refused(balanced(square(&s, 4), &[0, 1, 5, 0], 2, 0.1), "labels = [0, 1, 5, 0]");
    s[6] = f64::NAN;
    refused(propose(&current, square(&s, 4), 0.1, 0), "Some(1)");
    assert!(kmeans(square(&[1.0], 1), 2, 0).is_err());
}

proptest! {
    #[test]
    fn clusters_are_always_of_equal_size(
        seed: u64,
        clusters in 1usize..7,
        per in 1usize..6,
        kinds in 1usize..5,
        noise in 0.0f64..2.0,
        tau in -1.0f64..1.0,
    ) {
        let mut rng = Rng::new(seed);
        let groups: Vec<usize> = (0..clusters * per).map(|_| rng.below(kinds)).collect();
        let s = cosines(&mut rng, &groups, noise + 1e-3);
        let current = Grouping::contiguous(groups.len(), clusters).unwrap();
        let found = propose(&current, square(&s, groups.len()), tau, seed).unwrap();
        // `Grouping::new` refuses any other.
        prop_assert_eq!(Grouping::new(found.labels().to_vec(), clusters).unwrap(), found);
    }
}
