//! Batches, evaluation windows, and the built-in grammar.

use trimoe::train::data::{BatchShape, Batches, Corpus, EvalWindows, Grammar, GrammarParams, Split};

use crate::{folder, ids, token_file};

#[test]
fn batches_visit_every_window_once_an_epoch_and_depend_on_seed_and_step_alone() {
    let dir = folder();
    let file = token_file(&dir);
    let all = ids(&file);
    let shape = BatchShape { batch: 3, seq: 16, accumulate: 2 };
    let windows = (file.len() - 1) / shape.seq;
    let batches = |seed| Batches::new(Corpus::File(file.clone()), shape, seed).unwrap();
    let rows = |seed, steps: std::ops::Range<u64>| {
        let (batches, mut out) = (batches(seed), vec![0; 3 * 17]);
        let mut rows = Vec::new();
        for step in steps {
            for micro in 0..2 {
                batches.fill(step, micro, &mut out).unwrap();
                rows.extend(out.chunks(17).map(<[u32]>::to_vec));
            }
        }
        rows
    };
    let steps = windows as u64 / 3 + 1;
    let seen = rows(1, 0..steps);
    let mut epochs: Vec<Vec<Vec<u32>>> = seen.chunks_exact(windows).map(<[_]>::to_vec).collect();
    assert!(epochs.len() >= 2 && epochs[0] != epochs[1], "every epoch has its own order");
    let mut expected: Vec<Vec<u32>> = (0..windows).map(|i| all[i * 16..i * 16 + 17].to_vec()).collect();
    assert_ne!(epochs[0], expected, "shuffled");
    expected.sort();
    for epoch in &mut epochs {
        epoch.sort();
        assert_eq!(*epoch, expected);
    }
    assert_eq!(rows(1, steps / 2..steps), seen[steps as usize / 2 * 6..], "resuming changes nothing");
    assert_ne!(rows(2, 0..1), seen[..6]);
    assert_eq!(batches(1).tokens_per_step(), 96);
    assert_eq!(batches(1).epochs(windows as u64), 6.0);

    assert!(batches(1).fill(0, 2, &mut [0; 51]).is_err());
    assert!(batches(1).fill(0, 0, &mut [0; 50]).is_err());
}

#[test]
fn a_corpus_shorter_than_one_batch_names_both_numbers() {
    let dir = folder();
    let file = token_file(&dir);
    let new = |batch, seq, accumulate| {
        Batches::new(Corpus::File(file.clone()), BatchShape { batch, seq, accumulate }, 0)
    };
    let fits = file.len() - 1;
    assert!(new(1, fits, 1).is_ok());
    let e = new(1, fits + 1, 1).unwrap_err().to_string();
    assert!(
        e.contains(&format!("{} tokens", file.len())) && e.contains(&format!("{}", file.len() + 1)),
        "{e}"
    );
    assert!(new(usize::MAX, 2, 1).is_err());
    for (option, result) in
        [("--batch", new(0, 1, 1)), ("--seq", new(1, 0, 1)), ("--accumulate", new(1, 1, 0))]
    {
        let e = result.unwrap_err();
        assert!(e.exit_code() == 2 && e.to_string().starts_with(option), "{e}");
    }
}

#[test]
fn evaluation_windows_predict_every_token_but_the_first_once() {
    let dir = folder();
    let file = token_file(&dir);
    let all = ids(&file);
    for seq in [1, 7, 64, all.len() - 2, all.len() - 1, all.len(), 10 * all.len()] {
        let windows = EvalWindows::of_file(file.clone(), seq).unwrap();
        assert_eq!((windows.predicted(), windows.words()), (all.len() as u64 - 1, Some(file.words())));
        let (mut targets, mut window) = (Vec::new(), Vec::new());
        for i in 0..windows.len() {
            windows.read(i, &mut window).unwrap();
            assert_eq!(window[0], all[targets.len()], "the context is the token before");
            assert!(window.len() == seq + 1 || i + 1 == windows.len());
            targets.extend_from_slice(&window[1..]);
        }
        assert!(targets == all[1..]);
        assert!(windows.read(windows.len(), &mut window).is_err());
    }
    assert_eq!(EvalWindows::of_file(file, 0).unwrap_err().exit_code(), 2);
}

#[test]
fn the_grammar_is_a_function_of_its_seed() {
    let text = |seed, split, window| {
        let mut ids = vec![0; 100];
        Grammar::new(512, seed).unwrap().fill(split, window, &mut ids);
        ids
    };
    let reference = text(1, Split::Train, 5);
    assert_eq!(text(1, Split::Train, 5), reference);
    for other in [text(2, Split::Train, 5), text(1, Split::Eval, 5), text(1, Split::Train, 6)] {
        assert_ne!(other, reference);
    }
    let grammar = Grammar::new(512, 1).unwrap();
    let mut short = vec![0; 40];
    grammar.fill(Split::Train, 5, &mut short);
    assert_eq!(short, reference[..40], "a shorter window is a prefix");

    let shape = BatchShape { batch: 2, seq: 99, accumulate: 3 };
    let batches = Batches::new(Corpus::Generated(grammar.clone()), shape, 0).unwrap();
    let mut out = vec![0; 200];
    batches.fill(0, 2, &mut out).unwrap();
    assert_eq!(out[100..], reference, "window 5");
    assert_eq!(batches.epochs(1_000), 0.0);
    let windows = EvalWindows::of_grammar(grammar, 99, 250).unwrap();
    let mut lengths = Vec::new();
    for i in 0..windows.len() {
        windows.read(i, &mut out).unwrap();
        lengths.push(out.len());
    }
    assert_eq!(lengths, [100, 100, 53]);
    assert_eq!(windows.words(), None);
}

#[test]
fn the_grammar_stays_in_its_vocabulary_and_leaves_much_to_learn() {
    for vocab in [256, 257, 300, 511, 512, 4096] {
        let grammar = Grammar::new(vocab, 3).unwrap();
        let mut seen = vec![false; vocab];
        let mut ids = vec![0; 1_000_000];
        grammar.fill(Split::Train, 0, &mut ids);
        ids.iter().for_each(|&id| seen[id as usize] = true);
        let unseen = seen.iter().filter(|&&seen| !seen).count();
        assert!(unseen == 0, "{unseen} of {vocab} tokens never occur");
        assert!(grammar.entropy_floor() + 1.0 < grammar.unigram_entropy(), "vocabulary {vocab}");
        assert!(grammar.unigram_entropy() <= (vocab as f64).ln());
    }
    let spelled = Grammar::new(512, 0).unwrap().spell(&[0, 17, 511, 512]);
    assert_eq!(spelled.split(' ').count(), 4, "{spelled}");
}

#[test]
fn a_grammar_that_cannot_be_is_refused() {
    let e = Grammar::new(255, 0).unwrap_err();
    assert_eq!((e.exit_code(), e.to_string().starts_with("--vocab 255")), (2, true), "{e}");
    let good = GrammarParams { vocab: 256, topics: 1, branching: 16, switch: 1.0, seed: 0 };
    assert!(Grammar::with(good).is_ok());
    for bad in [
        GrammarParams { topics: 0, ..good },
        GrammarParams { branching: 0, ..good },
        GrammarParams { branching: 17, ..good },
        GrammarParams { switch: 1.5, ..good },
        GrammarParams { switch: f64::NAN, ..good },
    ] {
        assert!(Grammar::with(bad).is_err(), "{bad:?}");
    }
}
