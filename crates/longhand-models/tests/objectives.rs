//! What corruption rules promise, on fresh random sequences.

use longhand_models::members;
use longhand_models::objectives::{
    self, Actions, Corrupted, NOT_SCORED, Random, audio, bart, ernie, mass, mlm, negatives, pairs,
    structbert, t5, xlnet,
};
use proptest::prelude::*;

const MASK: i32 = 4;
const VOCAB: usize = 1000;
/// Tokens below are special.
const FIRST: i32 = 10;

/// A sequence of ordinary tokens.
fn ids(random: &mut Random, n: usize) -> Vec<i32> {
    (0..n).map(|_| FIRST + random.below(VOCAB - FIRST as usize) as i32).collect()
}

fn uniforms(random: &mut Random, n: usize) -> Vec<f64> {
    (0..n).map(|_| random.uniform()).collect()
}

/// Draws for as many tokens.
fn actions(random: &mut Random, random_tokens: Vec<i32>) -> Actions {
    Actions { mask_id: MASK, uniforms: uniforms(random, random_tokens.len()), random_tokens }
}

/// What was there before: the label where there is one.
fn restored(x: &Corrupted) -> Vec<i32> {
    let token = |(&id, &label): (&i32, &i32)| if label == NOT_SCORED { id } else { label };
    x.input_ids.iter().zip(&x.labels).map(token).collect()
}

fn sorted<T: Ord + Clone>(x: &[T]) -> Vec<T> {
    let mut x = x.to_vec();
    x.sort();
    x
}

fn is_subsequence(part: &[i32], whole: &[i32]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|x| whole.any(|y| x == y))
}

#[test]
fn the_generator_is_the_documented_one() {
    // From a program of a few lines in another language.
    let mut random = Random::named(42, "token_order");
    assert_eq!(random.order(10), [1, 2, 8, 0, 3, 4, 6, 9, 7, 5]);
    assert_eq!([(); 3].map(|()| random.below(1000)), [173, 472, 997]);
    assert_eq!(objectives::fnv1a("ü".as_bytes()), 804_934_730);
}

#[test]
fn masked_language_modelling_has_berts_rates() {
    let mut random = Random::new(1);
    let n = 200_000;
    let ids = ids(&mut random, n);
    let select = uniforms(&mut random, n);
    let chosen = mlm::choose_each(&vec![true; n], 0.15, &select);
    let actions = actions(&mut random, vec![5; n]);
    let out = mlm::mask(&ids, &chosen, [0.8, 0.1], &actions);
    let share = |of: &dyn Fn(usize) -> bool, all: usize| {
        (0..n).filter(|&i| of(i)).count() as f64 / all as f64
    };
    let close = |x: f64, y: f64| assert!((x - y).abs() < 0.01, "{x}, not {y}");
    close(share(&|i| out.labels[i] != NOT_SCORED, n), 0.15);
    close(share(&|i| out.input_ids[i] == MASK, chosen.len()), 0.8);
    close(share(&|i| out.input_ids[i] == 5, chosen.len()), 0.1);
    let kept = |i: usize| out.labels[i] == out.input_ids[i];
    close(share(&kept, chosen.len()), 0.1);
}

#[test]
fn negative_words_come_by_their_powers() {
    let counts = [1, 16, 81, 256];
    let table = negatives::table(&counts, 0.75, i32::MAX).unwrap();
    let mut random = Random::new(3);
    let mut drawn = [0; 4];
    for _ in 0..100_000 {
        drawn[negatives::word(&table, random.below(i32::MAX as usize) as i32)] += 1;
    }
    let total = 1.0 + 8.0 + 27.0 + 64.0;
    for (n, power) in drawn.iter().zip([1.0, 8.0, 27.0, 64.0]) {
        assert!((f64::from(*n) / 1e5 - power / total).abs() < 0.005, "{drawn:?}");
    }
    assert!(negatives::table(&[3, 0], 0.75, 100).is_err());
    assert!(negatives::table(&[3, 1], 1e6, 100).is_err());
    assert_eq!(negatives::keep_probabilities(&counts, 0.0), [1.0; 4]);
    let keep = negatives::keep_probabilities(&counts, 0.01);
    assert!(keep.is_sorted_by(|a, b| a >= b) && keep[3] < 0.2 && keep[0] == 1.0, "{keep:?}");
}

/// Cases that no fixture reaches.
#[test]
fn ties_and_ends_are_the_published_ones() {
    // Of equal sentences the second is cut, in front where the draw is below one half.
    let pair = pairs::Pair { first: &[1, 2], second: &[3, 4], label: 0 };
    let cut = |u: f64| pair.clone().truncated(3, &[u]);
    assert_eq!(
        (cut(0.4).first, cut(0.4).second, cut(0.5).second),
        (&[1, 2][..], &[4][..], &[3][..])
    );
    // Mockingjay's last run begins one place before the last that would fit.
    let orders: [&[usize]; 2] = [&[7, 6, 0, 1, 2, 3, 4, 5, 8, 9]; 2];
    let frames = audio::mask_frames(10, 3, 1, 0.5, orders);
    assert_eq!(frames.iter().position(Option::is_some), Some(6));
    // wav2vec's may touch the end, and there are no more spans than fit side by side.
    let mask = audio::mask_spans(9, 3, [0.0, 0.0], 5, &[6, 0, 1, 2, 3, 4, 5, 7, 8]);
    assert_eq!(mask.iter().filter(|&&m| m).count(), 7);
    assert!(audio::distractors(&[false, true], &[0.5, 0.5]).is_err());
    // A draw that is an entry of the table is that entry's word.
    assert_eq!([0, 10, 11, 30].map(|draw| negatives::word(&[10, 20, 30], draw)), [0, 0, 1, 2]);
    let keep = negatives::keep_probabilities(&[100, 300], 0.01);
    assert!((keep[0] - (5.0 + 1.0) * 0.04).abs() < 1e-12, "{keep:?}");
    // Spans of no length count as long as the budget is not spent.
    assert_eq!(bart::covering(4, &[0, 2, 0, 3, 0]), Some(vec![0, 2, 0, 2]));
    assert_eq!(bart::covering(4, &[3, 0]), None);
    assert_eq!(t5::counts(30, 0.15, 3.0), Ok([4, 1]), "4.5 is rounded to the even number");
    assert!(t5::counts(1, 0.15, 3.0).is_err() && t5::counts(10, 0.9, 1.0).is_err());
}

#[test]
fn a_replaced_token_that_is_the_original_counts_as_original() {
    let labels = [NOT_SCORED, 7, 8, NOT_SCORED];
    let out = mlm::replace_tokens(&[6, MASK, MASK, 9], &labels, &[6, 7, 8, 9], |i| 6 + i);
    assert_eq!(out, Corrupted { input_ids: vec![6, 7, 8, 9], labels: vec![0; 4] });
    let out = mlm::replace_tokens(&[6, MASK, MASK, 9], &labels, &[6, 7, 8, 9], |_| 8);
    assert_eq!(out, Corrupted { input_ids: vec![6, 8, 8, 9], labels: vec![0, 1, 0, 0] });
}

#[test]
fn a_bracket_alone_is_no_n_gram() {
    let of = |lengths| members::fasttext::ngrams("éa", lengths);
    assert_eq!(of([1, 2]), ["<é", "é", "éa", "a", "a>"]);
    assert_eq!(of([3, 6]), ["<éa", "<éa>", "éa>"]);
    assert_eq!(of([0, 0]), [""; 0]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn an_order_is_a_permutation(seed: u64, n in 0usize..60) {
        let order = Random::new(seed).order(n);
        prop_assert_eq!(&sorted(&order), &(0..n).collect::<Vec<_>>());
        prop_assert_eq!(order, Random::new(seed).order(n));
    }

    #[test]
    fn masking_chooses_free_tokens_within_its_budget(seed: u64, n in 1usize..80, p in 0.0..1.0) {
        let random = &mut Random::new(seed);
        let ids = ids(random, n);
        let free: Vec<bool> = (0..n).map(|_| random.uniform() < 0.8).collect();
        let words: Vec<i32> = (0..n).map(|i| if free[i] { i as i32 / 3 } else { -1 }).collect();
        let budget = mlm::budget(n, p, 12);
        prop_assert!((1..=12).contains(&budget) && budget as f64 <= (n as f64 * p + 0.5).max(1.0));
        let actions = actions(random, ids.clone());
            let (order, word_order) = (random.order(n), random.order(n));
        let each = mlm::choose_each(&free, p, &uniforms(random, n));
        let first = mlm::choose_first(&free, budget, &order);
        let whole = mlm::choose_words(&free, &words, budget, &word_order);
        prop_assert_eq!(first.len(), budget.min(free.iter().filter(|&&f| f).count()));
        prop_assert!(whole.len() <= budget);
        // A word is chosen whole or not at all, and one that is not would not have fitted.
        let size = |word| words.iter().filter(|&&w| w == word).count();
        for word in words.iter().copied().filter(|&w| w >= 0) {
            let chosen = whole.iter().filter(|&&i| words[i] == word).count();
            prop_assert!(chosen == size(word) || chosen == 0 && size(word) > budget - whole.len());
        }
        for chosen in [each, first, whole] {
            let out = mlm::mask(&ids, &chosen, [0.8, 0.1], &actions);
            prop_assert_eq!(&restored(&out), &ids);
            for i in 0..n {
                prop_assert_eq!(out.labels[i] != NOT_SCORED, chosen.contains(&i));
                prop_assert!(free[i] || out.input_ids[i] == ids[i]);
            }
        }
    }

    #[test]
    fn ernie_scores_whole_units_only(seed: u64, n in 1usize..60) {
        let random = &mut Random::new(seed);
        let ids = ids(random, n);
        let mut labels: Vec<i32> = Vec::new();
        for _ in 0..n {
            let inside = labels.last().is_some_and(|&l| l >= 0);
            labels.push(random.below(if inside { 3 } else { 2 }) as i32 - 1);
        }
        let units = ernie::units(&labels, false);
        let covered: Vec<usize> = units.iter().cloned().flatten().collect();
        prop_assert_eq!(covered, (0..n).filter(|&i| labels[i] >= 0).collect::<Vec<_>>());
        prop_assert!(units.iter().all(|unit| labels[unit.start] == 0));
        let actions = actions(random, vec![6; n]);
        let out = ernie::mask_units(&ids, &units, 0.4, &actions);
        prop_assert_eq!(&restored(&out), &ids);
        for unit in units {
            let scored = unit.clone().filter(|&i| out.labels[i] != NOT_SCORED).count();
            let chosen = actions.uniforms[unit.start] <= 0.4;
            prop_assert_eq!(scored, if chosen { unit.len() } else { 0 });
            for i in unit.clone().filter(|_| chosen) {
                let token = match actions.uniforms[i] / if i == unit.start { 0.4 } else { 1.0 } {
                    u if u > 0.2 => MASK,
                    u if u > 0.1 => 6,
                    _ => ids[i],
                };
                prop_assert_eq!(out.input_ids[i], token);
            }
        }
    }

    #[test]
    fn mass_masks_one_span(seed: u64, n in 2usize..60, ratio in 0.0..=1.0) {
        let random = &mut Random::new(seed);
        let ids = ids(random, n);
        let count = mass::span_length(n, ratio);
        let span = mass::span(n, count, random.uniform());
        prop_assert!(span.start >= 1 && span.end <= n && span.len() == count);
        let actions = actions(random, vec![6; n]);
        let source = mass::mask_span(&ids, span.clone(), &actions);
        for i in 0..n {
            let token = match actions.uniforms[i] {
                _ if !span.contains(&i) => ids[i],
                u if u < 0.8 => MASK,
                u if u < 0.9 => ids[i],
                _ => 6,
            };
            prop_assert_eq!(source[i], token);
        }
    }

    #[test]
    fn t5s_inputs_and_targets_are_the_text(
        seed: u64, n in 2usize..200, density in 0.05..0.5, mean in 1.0..6.0,
    ) {
        let random = &mut Random::new(seed);
        let ids = ids(random, n);
        let Ok([noise, spans]) = t5::counts(n, density, mean) else { return Ok(()) };
        let kept = t5::segments(n - noise, spans, &random.order(n - noise - 1));
        let lengths = t5::segments(noise, spans, &random.order(noise - 1));
        for (lengths, total) in [(&kept, n - noise), (&lengths, noise)] {
            prop_assert_eq!((lengths.len(), lengths.iter().sum::<usize>()), (spans, total));
            prop_assert!(lengths.iter().all(|&n| n > 0));
        }
        let mask = t5::noise_mask(&kept, &lengths);
        prop_assert_eq!((mask.len(), mask.iter().filter(|&&m| m).count()), (n, noise));
        let rest: Vec<bool> = mask.iter().map(|m| !m).collect();
        let first = 5000;
        let input = t5::with_sentinels(&ids, &mask, first);
        let target = t5::with_sentinels(&ids, &rest, first);
        // Each sentinel of the input stands for what follows it in the target.
        let mut whole = Vec::new();
        for token in input {
            match target.iter().position(|&t| t == token && t > first - 200) {
                Some(at) => whole.extend(target[at + 1..].iter().take_while(|&&t| t <= first - 200)),
                None => whole.push(token),
            }
        }
        prop_assert_eq!(whole, ids);
    }

    #[test]
    fn barts_noise_leaves_the_ends_and_the_order_alone(
        seed: u64, n in 3usize..80, ratio in 0.0..=1.0, lambda in 0.5..4.0,
    ) {
        let random = &mut Random::new(seed);
        let mut text = ids(random, n);
        (text[0], text[n - 1]) = (0, 2);
        let order = random.order(n - 2);
        let actions = actions(random, vec![6; n]);
        let budget = bart::budget(&text, ratio);
        prop_assert!(budget <= n - 2);
        let is_noise = |&&t: &&i32| t == MASK || t == 6;
        let ends = |x: &[i32]| [x.first().copied(), x.last().copied()];

        let masked = bart::mask(&text, &order[..budget], 0.2, &actions);
        prop_assert_eq!((masked.len(), masked.iter().filter(is_noise).count()), (n, budget));
        let deleted = bart::delete(&text, &order[..budget]);
        prop_assert_eq!(deleted.len(), n - budget);
        prop_assert!(is_subsequence(&deleted, &text));

        let lengths = bart::span_lengths(lambda, &uniforms(random, 4 * n + 64));
        let spans = bart::covering(budget, &lengths).unwrap();
        prop_assert_eq!(spans.iter().sum::<usize>(), budget);
        let (spans, empty): (Vec<_>, Vec<_>) = spans.into_iter().partition(|&n| n > 0);
        let begun = bart::mask(&text, &order[..spans.len()], 0.2, &actions);
        let short = bart::shrink(&begun, &spans, &order);
        let words: Vec<i32> = short.iter().filter(|t| !is_noise(t)).copied().collect();
        prop_assert!(is_subsequence(&words, &text) && words.len() >= n - budget);
        prop_assert!(short.len() - words.len() <= spans.len());
        let inserts = bart::inserts(empty.len(), short.len());
        prop_assert!((0..=1).contains(&(inserts - empty.len())));

        let places = random.order(n + budget - 2);
        let random_tokens = &actions.random_tokens[..budget / 3];
        let longer = bart::insert(&text, &places[..budget], random_tokens, MASK);
        prop_assert_eq!(longer.iter().filter(|t| **t == 6).count(), budget / 3);
        let words: Vec<i32> = longer.iter().filter(|t| !is_noise(t)).copied().collect();
        prop_assert_eq!((longer.len(), &words), (n + budget, &text));

        let offset = 1 + random.below(n - 1);
        let mut turned = bart::rotate(&text, offset);
        prop_assert!(offset == n - 1 || turned[1] == text[offset]);
        for x in [&masked, &deleted, &short, &longer, &turned] {
            prop_assert_eq!(ends(x), ends(&text));
        }
        turned[1..n - 1].rotate_right(offset - 1);
        prop_assert_eq!(turned, text);
    }

    #[test]
    fn barts_sentences_move_as_they_are(seed: u64, n in 3usize..60) {
        let random = &mut Random::new(seed);
        let mut text = ids(random, n);
        (0..n).for_each(|i| if random.uniform() < 0.2 { text[i] = 11 });
        (text[0], text[n - 1]) = (0, 2);
        let ends = bart::sentence_ends(&text, 11);
        let count = random.below(ends.len() + 1);
        let (moved, order) = (random.order(ends.len()), random.order(count));
        let out = bart::permute(&text, &ends, &moved[..count], &order);
        let cut = |text: &[i32], ends: &[usize]| -> Vec<Vec<i32>> {
            let starts = [1].iter().chain(ends);
            starts.zip(ends).map(|(&a, &b)| text[a..b].to_vec()).collect()
        };
        let before = cut(&text, &ends);
        prop_assert!(before.iter().all(|s| !s.is_empty()));
        // The sentences of the result, in the order that the draws say.
        let mut expected = before.clone();
        (0..count).for_each(|k| expected[moved[k]] = before[moved[order[k]]].clone());
        let tail = ends.last().copied().unwrap_or(1);
        let joined = [&text[..1], &expected.concat(), &text[tail..]].concat();
        prop_assert_eq!(&out, &joined);
        prop_assert_eq!(sorted(&out), sorted(&text));
    }

    #[test]
    fn structberts_runs_are_apart_and_can_be_put_in_order(seed: u64, n in 1usize..80) {
        let random = &mut Random::new(seed);
        let ids = ids(random, n);
        let masked: Vec<bool> = (0..n).map(|_| random.uniform() < 0.15).collect();
        let budget = structbert::budget(n, 0.1);
        let runs = structbert::runs(&masked, 3, budget, &random.order(n));
        prop_assert!(runs.len() <= budget);
        let mut taken = masked.clone();
        for i in runs.iter().flat_map(|&start| start..start + 3) {
            prop_assert!(!std::mem::replace(&mut taken[i], true));
        }
        let fits = (0..n).any(|i| taken.get(i..i + 3).is_some_and(|run| !run.contains(&true)));
        prop_assert!(runs.len() == budget || !fits);
        let permutations: Vec<usize> = runs.iter().flat_map(|_| random.order(3)).collect();
        let out = structbert::shuffle(&ids, &masked, MASK, &runs, &permutations);
        prop_assert_eq!(&restored(&out), &ids);
        for &start in &runs {
            let run = start..start + 3;
            prop_assert_eq!(sorted(&out.input_ids[run.clone()]), sorted(&ids[run]));
        }
        for i in 0..n {
            prop_assert_eq!(out.labels[i] != NOT_SCORED, taken[i]);
            prop_assert_eq!(out.input_ids[i] == MASK, masked[i]);
        }
    }

    #[test]
    fn pairs_are_cut_evenly_and_say_what_they_are(
        seed: u64, sizes in [1usize..30, 1..30, 1..30], most in 2usize..40,
    ) {
        let random = &mut Random::new(seed);
        let [first, next, other] = sizes.map(|n| ids(random, n));
        let s = [&first[..], &next[..], &other[..]];
        let u = random.uniform();
        let order = |pair: &pairs::Pair<'_>| match (pair.first == first, pair.second == next) {
            (true, true) => "next",
            (true, false) => "random",
            _ => "previous",
        };
        let chosen = |question| pairs::Pair::chosen(s, question, u);
        let whole = [chosen(pairs::NEXT_SENTENCE), chosen(pairs::SENTENCE_ORDER)];
        prop_assert_eq!(order(&whole[0]), ["next", "random"][whole[0].label as usize]);
        prop_assert_eq!(order(&whole[1]), ["next", "previous"][whole[1].label as usize]);
        let third = chosen(pairs::STRUCTURAL);
        prop_assert_eq!(order(&third), ["random", "next", "previous"][third.label as usize]);
        for pair in whole.into_iter().chain([third]) {
            let cut = pair.clone().truncated(most, &uniforms(random, 60));
            let total = pair.first.len() + pair.second.len();
            prop_assert_eq!(cut.first.len() + cut.second.len(), total.min(most));
            for (part, all) in [(cut.first, pair.first), (cut.second, pair.second)] {
                prop_assert!(!part.is_empty() && all.windows(part.len()).any(|w| w == part));
                // The shorter is cut only once both are of one length.
                let even = cut.first.len().abs_diff(cut.second.len()) <= 1;
                prop_assert!(part.len() == all.len() || even || all.len() * 2 > total);
            }
        }
    }

    #[test]
    fn xlnets_targets_are_told_in_a_strict_order(seed: u64, n in 1usize..16) {
        let random = &mut Random::new(seed);
        let kind: Vec<usize> = (0..n).map(|_| random.below(4)).collect();
        let target: Vec<bool> = kind.iter().map(|&k| k == 0).collect();
        let mark: Vec<bool> = kind.iter().map(|&k| k == 1).collect();
        let ranks = random.order(n);
        let hidden = xlnet::hidden(&ranks, &target, &mark);
        let hides = |i: usize, j: usize| hidden[i * n + j];
        for i in 0..n {
            prop_assert_eq!(hides(i, i), target[i]);
            for j in 0..n {
                // Plain tokens are seen by all, and see nothing else.
                prop_assert!(target[j] || mark[j] || !hides(i, j));
                prop_assert!(target[i] || mark[i] || hides(i, j) == (target[j] || mark[j]));
                if i != j && target[i] && target[j] {
                    prop_assert_eq!(hides(i, j), ranks[i] < ranks[j]);
                    prop_assert!(hides(i, j) != hides(j, i));
                }
            }
        }
    }

    #[test]
    fn audio_masks_cover_their_spans_and_distractors_are_others(
        seed: u64, total in 12usize..60, run in 1usize..4, p in 0.2..0.8,
    ) {
        let random = &mut Random::new(seed);
        let length = 10 + random.below(total - 9);
        let orders = [random.order(total), random.order(total)];
        let runs = audio::frame_runs(length, run, p);
        let dice = random.uniform();
        let out = audio::mask_frames(length, run, runs, dice, [&orders[0], &orders[1]]);
        let masked = out.iter().flatten().count();
        prop_assert!(masked <= runs * run && (masked > 0) == (runs > 0));
        for (i, read) in out.iter().enumerate().filter_map(|(i, read)| Some((i, (*read)?))) {
            prop_assert!(i < length && (-1..length as i32).contains(&read));
            prop_assert!((read == -1) == (dice < 0.8));
            prop_assert!(dice < 0.9 || read == i as i32);
        }

        let least = 2;
        let mask = audio::mask_spans(length, run + 1, [p, random.uniform()], least, &orders[0]);
        let count = mask.iter().filter(|&&m| m).count();
        prop_assert!(count > run + 1 && mask[length..].iter().all(|m| !m));
        // No span is cut short.
        let mut stretch = 0;
        for on in mask.iter().copied().chain([false]) {
            prop_assert!(on || stretch == 0 || stretch > run);
            stretch = if on { stretch + 1 } else { 0 };
        }
        let others = audio::distractors(&mask, &uniforms(random, total * 5)).unwrap();
        for (k, &other) in others.iter().enumerate() {
            let fits = if mask[k / 5] { mask[other] && other != k / 5 } else { other == 0 };
            prop_assert!(fits);
        }
    }
}
