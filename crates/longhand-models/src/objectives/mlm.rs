//! Masked language modelling: BERT (Devlin et al., 2019, §3.1), RoBERTa (Liu et al., 2019, §4.1);
//! ELECTRA's replaced tokens.

use super::*;

/// Masks the chosen positions: `mask_share` of them become the mask, `random_share` a random token,
/// the rest stays (BERT: 0.8 and 0.1). Each of them is scored.
///
/// # Panics
///
/// If a position is beyond the sequence or the draws.
pub fn mask(
    ids: &[i32],
    chosen: &[usize],
    [mask_share, random_share]: [f64; 2],
    actions: &Actions,
) -> Corrupted {
    let mut out = Corrupted::unchanged(ids);
    for &i in chosen {
        let token = match actions.uniforms[i] {
            u if u < mask_share => actions.mask_id,
            u if u < mask_share + random_share => actions.random_tokens[i],
            _ => ids[i],
        };
        out.put(i, token);
    }
    out
}

/// Each free position by its own draw, as RoBERTa does anew each time.
pub fn choose_each(free: &[bool], probability: f64, uniforms: &[f64]) -> Vec<usize> {
    (0..free.len()).filter(|&i| free[i] && uniforms[i] < probability).collect()
}

/// As many positions as BERT chooses of `length`, special ones counted.
pub fn budget(length: usize, probability: f64, most: usize) -> usize {
    ((length as f64 * probability).round_ties_even() as usize).max(1).min(most)
}

/// The first `budget` free positions of an order.
pub fn choose_first(free: &[bool], budget: usize, order: &[usize]) -> Vec<usize> {
    order.iter().copied().filter(|&i| free[i]).take(budget).collect()
}

/// All free positions of words, in an order of the words; one that would exceed `budget` is left
/// out. `word_ids`: the word of each position, −1 of none.
pub fn choose_words(free: &[bool], word_ids: &[i32], budget: usize, order: &[usize]) -> Vec<usize> {
    let mut words = vec![Vec::new(); order.len()];
    for (i, &word) in word_ids.iter().enumerate().filter(|&(i, _)| free[i]) {
        if let Some(word) = usize::try_from(word).ok().and_then(|word| words.get_mut(word)) {
            word.push(i);
        }
    }
    let mut chosen = Vec::new();
    for &word in order {
        if chosen.len() + words[word].len() <= budget {
            chosen.append(&mut words[word]);
        }
    }
    chosen
}

/// ELECTRA's replaced tokens (Clark et al., 2020, §2): a generator's samples in place of what is
/// scored, and for each position whether it is not the original token. A sample that is by luck
/// counts as original.
pub fn replace_tokens(
    ids: &[i32],
    labels: &[i32],
    original: &[i32],
    sample: impl Fn(usize) -> usize,
) -> Corrupted {
    let token = |i| if labels[i] == NOT_SCORED { ids[i] } else { sample(i) as i32 };
    let input_ids: Vec<i32> = (0..ids.len()).map(token).collect();
    let labels = input_ids.iter().zip(original).map(|(a, b)| i32::from(a != b)).collect();
    Corrupted { input_ids, labels }
}

pub(crate) fn read(_: &'static Traits, config: &Config, _: &Weights) -> Built {
    let vocab = config.positive("vocab_size")?;
    let mask_id = token(config, "mask_id", vocab)?;
    let shares @ [mask, random] = each(["mask_share", "random_share"], |x| share(config, x))?;
    let most = "must be at most 1 with mask_share";
    ensure(mask + random <= 1.0, "config: random_share", random, most)?;
    let probability = share(config, "probability")?;
    let most = config.positive("max_predictions")?;
    let rule_of = "must be a list of tokens";
    let special: Vec<i32> =
        config.list("special_ids", rule_of, |id| id.as_i64()?.try_into().ok())?;
    rule(move |draws, out| {
        let (shape @ [_, len], rows) =
            batch(draws, ["input_ids", "action_uniforms"], vocab, mask_id)?;
        let select = draws.uniforms("select_uniforms", &shape)?;
        let [tokens, words] = each(["token_order", "word_order"], |x| draws.orders(x, &shape))?;
        let word_ids = &draws.inputs.ints_shaped("word_ids", &shape)?.data;
        let rule = format!("must be -1 or below {len}");
        let bad = |word| Error::invalid("an element of \"word_ids\"", word, rule);
        reject(word_ids.iter().find(|&&w| w < -1 || w >= len as i32), bad)?;
        let budget = budget(len, probability, most);
        for (r, (ids, actions)) in rows.iter().enumerate() {
            let free: Vec<bool> = ids.iter().map(|id| !special.contains(id)).collect();
            let own = r * len..(r + 1) * len;
            let [tokens, words] = [&tokens, &words].map(|order| &order[own.clone()]);
            let of_words = choose_words(&free, &word_ids[own.clone()], budget, words);
            for (prefix, chosen) in [
                ("dynamic.", choose_each(&free, probability, &select[own])),
                ("static.", choose_first(&free, budget, tokens)),
                ("whole_word.", of_words),
            ] {
                self::mask(ids, &chosen, shares, actions).add_to(out, prefix);
            }
        }
        Ok(())
    })
}
